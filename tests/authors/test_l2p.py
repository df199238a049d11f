"""L2P beside a second implementation, a row at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from l2p import METHOD, l2p, pull_of, pulled
from small_models import MIXER, blocks, patches, pictures
from walk import descend, walk

TASK = pictures()
SIZES = {"size": 5, "length": 2, "most": 3}
PROGRAM = l2p(MIXER, targets=3, **SIZES)
X = TASK.train.x
PARAMS = PROGRAM.init(jax.random.key(0), MIXER.frozen, X)


def wide(params):
    """Other keys and prompts than the small first ones: lengths of keys differ."""
    draw = np.random.default_rng(3)
    other = lambda a: jnp.asarray(draw.normal(size=a.shape) * 2, jnp.float32)
    return params._replace(learnable=jax.tree.map(other, params.learnable))


def row(learnable, image, near=None):
    """Logits [T] and the sum of cosines of one image [16 16 3] in [0, 1]."""
    own, head = learnable["block_0:in"], learnable["output"]["head"]
    x = patches(image[None])
    query = blocks(x).mean(1)[0]
    length = lambda v: jnp.sqrt((v**2).sum(-1))
    near = near or (lambda q, k: (k @ q) / (length(k) * length(q)))
    order = jnp.argsort(-near(query, own["keys"]))[: SIZES["most"]]
    chosen = jnp.concatenate([own["prompts"][i] for i in order])
    out = blocks(jnp.concatenate([chosen, x[0]])[None])[0, : len(chosen)].mean(0)
    pull = near(query, own["keys"][order]).sum()
    return out @ head["kernel"] + head["bias"], pull


def test_each_row_has_the_prompts_of_its_nearest_keys():
    params = wide(PARAMS)
    answer = jax.jit(PROGRAM.apply)
    found = answer(params, MIXER.frozen, X)
    images = X / np.float32(255)
    rows = jax.jit(jax.vmap(lambda image: row(params.learnable, image)[0]))(images)
    np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-5)
    product = lambda q, k: k @ q  # keys that are long would be chosen
    other = lambda image: row(params.learnable, image, product)[0]
    assert not np.allclose(found, jax.jit(jax.vmap(other))(images), atol=0.01)
    # nor does a batch vote for one set, as the published code's default has it
    alone = [answer(params, MIXER.frozen, X[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(found[:3], np.stack(alone), atol=1e-5)


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    images, y = jnp.float32(X) / 255, jnp.asarray(TASK.train.y)
    settings = {"optimizer": optax.sgd(0.3), "epochs": 50, "batch": len(y)}
    settings |= {"loss": pulled(MIXER, 0.5), "record_sites": (pull_of(MIXER),)}
    settings |= {"params": wide(PARAMS), "arguments": SIZES}

    def cost(learnable, weight=0.5):
        logits, pull = jax.vmap(lambda image: row(learnable, image))(images)
        right = jax.nn.log_softmax(logits)[jnp.arange(len(y)), y]
        return (-right - weight * pull).mean()

    says = "learnable embedding concatenative -> linear"
    fitted = walk(METHOD, MIXER, TASK, tmp_path, says, **settings)[2]
    losses, last = descend(cost, wide(PARAMS).learnable, 0.3)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-3, atol=1e-4)
    keys = last["block_0:in"]["keys"]
    np.testing.assert_allclose(
        fitted.last.learnable["block_0:in"]["keys"], keys, rtol=1e-2, atol=1e-3
    )
    first = wide(PARAMS).learnable["block_0:in"]["keys"]
    assert losses[-1] < losses[0] - 0.2 and np.abs(keys - first).max() > 0.01
    # without the pull no key would ever move
    slope = jax.grad(cost)(wide(PARAMS).learnable, 0.0)
    assert not np.any(slope["block_0:in"]["keys"])
