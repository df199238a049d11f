"""CoCoOp beside a second implementation, an image at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cocoop import METHOD, cocoop
from small_towers import PAIR, embedded, placed, seen, shapes, through
from walk import descend, walk

TASK = shapes()
X, Y, _ = TASK.train
SITE = "text/embed:out"
PROGRAM = cocoop(PAIR, length=2)


def wide():
    """Params far from the first ones, whose biases are zeros."""
    params = PROGRAM.init(jax.random.key(0), PAIR.frozen, X)
    draw = np.random.default_rng(4)
    other = lambda a: jnp.asarray(draw.normal(size=a.shape), jnp.float32)
    return params._replace(learnable=jax.tree.map(other, params.learnable))


def feature(x):
    """Of the image tower, not yet a unit vector."""
    unit = through(seen(x), "image")
    grown = {}

    def keep(i, rows):
        grown[i] = rows
        return rows

    through(seen(x), "image", keep)
    frozen, rows = PAIR.frozen, grown[1]
    mix, out = (frozen["image"][1][name] for name in ("mix", "out"))
    weight = jnp.exp(rows[0] @ mix @ rows.T)
    end = jnp.tanh(rows[0] + weight / weight.sum() @ rows @ out)
    return end @ frozen["to_joint"]["image"], unit


def logits(learnable, others=0):
    """[B T]; `others`: whose words an image sees, its own or the next one's."""
    own = learnable[SITE]
    first, second = own["in"], own["out"]

    def one(x, whose):
        _, unit = feature(x)
        hidden = feature(whose)[0] @ first["kernel"] + first["bias"]
        moved = jnp.maximum(hidden, 0) @ second["kernel"] + second["bias"]
        words = own["prompt"] + moved
        join = lambda name: jnp.concatenate([name[:1], words, name[1:]])
        text = jax.vmap(lambda name: through(placed(join(name)), "text"))(embedded())
        return 5 * text @ unit

    x = jnp.asarray(X)
    return jax.vmap(one)(x, jnp.roll(x, others, 0))


def test_an_images_words_are_moved_by_its_own_features():
    params = wide()
    found = jax.jit(PROGRAM.apply)(params, PAIR.frozen, X)
    by_hand = jax.jit(logits, static_argnums=1)
    np.testing.assert_allclose(found, by_hand(params.learnable), rtol=1e-4, atol=2e-5)
    assert not np.allclose(found, by_hand(params.learnable, 1), atol=0.01)
    still = params.learnable[SITE]["out"]
    still["kernel"] = jnp.zeros_like(still["kernel"])  # as CoOp's: one for all images
    assert not np.allclose(found, by_hand(params.learnable), atol=0.01)


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    def cost(learnable):
        return -jax.nn.log_softmax(logits(learnable))[jnp.arange(len(Y)), Y].mean()

    first = PROGRAM.init(jax.random.key(0), PAIR.frozen, X)
    settings = {"optimizer": optax.sgd(0.1), "epochs": 50, "batch": len(Y)}
    settings |= {"params": first, "arguments": {"length": 2}}
    says = "learnable embedding concatenative -> identity"
    fitted = walk(METHOD, PAIR, TASK, tmp_path, says, **settings)[2]
    losses, last = descend(cost, first.learnable, 0.1)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-3)
    near = {"rtol": 1e-2, "atol": 1e-3}
    for a, b in zip(
        jax.tree.leaves(fitted.last.learnable), jax.tree.leaves(last), strict=True
    ):
        np.testing.assert_allclose(a, b, **near)
    assert losses[-1] < 0.9 * losses[0]
