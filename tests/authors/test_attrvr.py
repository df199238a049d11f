"""AttrVR beside a second implementation: sorted cosines, and a border by hand."""

import attrvr
import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_models import MIXER, blocks, patches, pictures
from walk import descend, walk

from reprojax import Scope
from reprojax.data import Shared

FRAME, RATE = 3, 0.02
DRAW = np.random.default_rng(7)
TEXTS = {
    name: (DRAW.normal(size=(3, 5, 12)) * (1 + i)).astype(np.float32)
    for i, name in enumerate(("descriptive", "distinctive"))
}


def classes(y, texts=TEXTS, nearest=3, share=0.5):
    """Logits [B 3], an attribute at a time."""
    length = lambda v: jnp.sqrt((v**2).sum(-1, keepdims=True))
    out = 0
    for weight, name in ((share, "descriptive"), (1 - share, "distinctive")):
        every = [[(y * a).sum(-1) for a in own / length(own)] for own in texts[name]]
        every = jnp.array(every) / length(y)[:, 0]  # [T m B]
        out += weight * jnp.sort(every, 1)[:, -nearest:].mean(1)
    return 100 * out.T


def test_a_class_is_as_near_as_its_nearest_attributes():
    y = DRAW.normal(size=(6, 12)).astype(np.float32)
    map_of = lambda **how: attrvr.by_attributes(**how).apply(
        (), y, Scope(context=TEXTS)
    )
    np.testing.assert_allclose(map_of(), classes(y), rtol=1e-4, atol=1e-4)
    other = classes(y, share=0.2)
    np.testing.assert_allclose(map_of(share=0.2), other, rtol=1e-4, atol=1e-4)
    # the likeliest mistakes: all attributes count, or long ones more than short ones
    assert not np.allclose(map_of(), classes(y, nearest=5), atol=0.1)
    long = {name: t * np.arange(1, 6)[:, None] for name, t in TEXTS.items()}
    again = attrvr.by_attributes().apply((), y, Scope(context=long))
    np.testing.assert_allclose(again, map_of(), rtol=1e-4, atol=1e-4)


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    task = pictures()
    shared = lambda split: split._replace(context=Shared(TEXTS))
    splits = {n: shared(getattr(task, n)) for n in ("train", "validation", "test")}
    task = task._replace(**splits)
    x, y, side = task.train.x, task.train.y, 16 - 2 * FRAME
    small = jax.image.resize(
        jnp.float32(x) / 255, (len(x), side, side, 3), "bilinear"
    ).clip(0, 1)

    def cost(prompt):
        canvas = jax.nn.sigmoid(jnp.broadcast_to(prompt, (len(x), 16, 16, 3)))
        inside = slice(FRAME, 16 - FRAME)
        seen = canvas.at[:, inside, inside].set(small)
        logits = classes(blocks(patches(seen)).mean(1))
        return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y].mean()

    losses, last = descend(cost, jnp.zeros((16, 16, 3)), RATE)
    settings = {"optimizer": optax.sgd(RATE), "epochs": 50, "batch": len(y)}
    fitted = walk(
        attrvr.METHOD,
        MIXER,
        task,
        tmp_path,
        "learnable input concatenative -> rule",
        arguments={"frame": FRAME},
        **settings,
    )[2]
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=2e-3)
    (learned,) = jax.tree.leaves(fitted.last.learnable)
    np.testing.assert_allclose(learned, last, rtol=0.05, atol=1e-3)
    assert losses[-1] < 0.9 * losses[0]
