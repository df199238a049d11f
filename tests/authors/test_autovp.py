"""AutoVP beside a second implementation, pixel by pixel as kornia warps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from autovp import METHOD, autovp, scaled_in_frame
from fitting import MEAN, STD, TASK
from small_models import NET, net_logits
from walk import descend, walk

from reprojax import Params, Scope

SIZE, SIDE = 8, 5


def by_hand(image, prompt, scale, mask_of=lambda side, scale: side * scale):
    """[B h w C] on the canvas: bilinear, zeros around, sampled at middle + (i-m)/s."""
    side, middle = image.shape[1], (SIZE - 1) / 2
    first = int((SIZE - side + 1) / 2)
    canvas = np.zeros((len(image), SIZE, SIZE, 3), np.float32)
    canvas[:, first : first + side, first : first + side] = image
    out = np.zeros_like(canvas)
    for i in range(SIZE):
        for j in range(SIZE):
            y, x = (middle + (k - middle) / scale for k in (i, j))
            for m in range(SIZE):
                for n in range(SIZE):
                    weight = max(0, 1 - abs(y - m)) * max(0, 1 - abs(x - n))
                    out[:, i, j] += weight * canvas[:, m, n]
    covered = min(int(mask_of(side, scale)), SIZE)
    first, behind = (SIZE - covered) // 2, (SIZE + covered) // 2
    frame = np.ones((SIZE, SIZE, 1), np.float32)
    frame[first:behind, first:behind] = 0
    return out + frame / (1 + np.exp(-prompt))


IMAGE = np.random.default_rng(0).uniform(size=(2, SIDE, SIDE, 3)).astype(np.float32)
PROMPT = np.random.default_rng(1).normal(size=(SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.5, 0.83, 1.0, 1.3, 2.5])
def test_the_image_is_where_kornia_puts_it(scale):
    params = Params({"prompt": jnp.asarray(PROMPT), "scale": jnp.float32(scale)})
    seen = scaled_in_frame(SIZE).apply(params, jnp.asarray(IMAGE), Scope())
    np.testing.assert_allclose(seen, by_hand(IMAGE, PROMPT, scale), atol=2e-6)
    if scale not in (1.0, 2.5):  # the likeliest mistakes
        still = by_hand(IMAGE, PROMPT, scale, lambda side, scale: side)
        assert not np.allclose(seen, still, atol=0.01)  # a frame that does not move
        turned = by_hand(IMAGE, PROMPT, 1 / scale)
        assert not np.allclose(seen, turned, atol=0.01)  # a scale upside down


def drawn(learnable, x, y):
    """The loss by `map_coordinates`, which has no code with ours in common."""
    own, head = learnable["input"]["frame"], learnable["output"]
    x = jax.image.resize(jnp.float32(x) / 255, (len(x), SIDE, SIDE, 3), "bilinear")
    first, middle = (SIZE - SIDE + 1) // 2, (SIZE - 1) / 2
    room = (first, SIZE - SIDE - first)
    canvas = jnp.pad(jnp.clip(x, 0, 1), ((0, 0), room, room, (0, 0)))
    at = middle + (jnp.indices((SIZE, SIZE)) - middle) / own["scale"]
    look = lambda a: jax.scipy.ndimage.map_coordinates(a, [*at], 1, mode="constant")
    seen = jax.vmap(jax.vmap(look, -1, -1))(canvas)
    covered = jnp.minimum(jnp.floor(SIDE * own["scale"]), SIZE)
    i = jnp.arange(SIZE)
    held = (i >= (SIZE - covered) // 2) & (i < (SIZE + covered) // 2)
    frame = jnp.where(held[:, None, None] & held[None, :, None], 0, 1)
    seen = seen + frame * jax.nn.sigmoid(own["prompt"])
    out = net_logits((seen - MEAN) / STD) @ head["kernel"] + head["bias"]
    return -jax.nn.log_softmax(out)[jnp.arange(len(y)), y].mean()


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    x, y, _ = TASK.train
    program = autovp(NET, targets=3, side=SIDE)
    first = program.init(jax.random.key(0), NET.frozen, x)
    # not from 1, where each pixel is at a kink and any slope between two is right
    first.learnable["input"]["frame"]["scale"] = jnp.float32(0.93)
    settings = {"optimizer": optax.sgd(0.05), "epochs": 50, "batch": len(y)}
    settings |= {"params": first, "arguments": {"side": SIDE}}
    says = "learnable input parametric -> linear"
    fitted = walk(METHOD, NET, TASK, tmp_path, says, **settings)[2]
    losses, last = descend(lambda p: drawn(p, x, y), first.learnable, 0.05)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-4)
    scale = fitted.last.learnable["input"]["frame"]["scale"]
    np.testing.assert_allclose(scale, last["input"]["frame"]["scale"], rtol=1e-4)
    assert abs(scale - 0.93) > 0.003 and losses[-1] < 0.9 * losses[0]
