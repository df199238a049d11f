"""MaPLe beside a second implementation, a name and an image at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from maple import METHOD, maple
from small_towers import PAIR, embedded, placed, seen, shapes, through
from walk import descend, walk

TASK = shapes()
X, Y, _ = TASK.train
SIZES = {"length": 2, "depth": 2}
PROGRAM = maple(PAIR, **SIZES)
SITE = "text/embed:out"


def wide():
    """Params far from the small first ones."""
    params = PROGRAM.init(jax.random.key(0), PAIR.frozen, X)
    draw = np.random.default_rng(4)
    other = lambda a: jnp.asarray(draw.normal(size=a.shape) / 2, jnp.float32)
    return params._replace(learnable=jax.tree.map(other, params.learnable))


def logits(learnable, coupled=True, deep=True):
    own = learnable[SITE]

    def image_prompt(i):
        prompt = own["text"][i] @ own["kernel"][i] * coupled
        return prompt + own["bias"][i]

    def text(name):
        behind = jnp.concatenate([name[:1], own["text"][0], name[1:]])
        put = lambda i, x: x.at[1:3].set(own["text"][1]) if i and deep else x
        return through(placed(behind), "text", put)

    def image(x):
        x = jnp.concatenate([seen(x), image_prompt(0)])
        put = lambda i, x: x.at[-2:].set(image_prompt(1)) if i and deep else x
        return through(x, "image", put)

    return 5 * jax.vmap(image)(jnp.asarray(X)) @ jax.vmap(text)(embedded()).T


def test_both_towers_have_their_prompts_in_each_of_the_first_layers():
    params = wide()
    found = jax.jit(PROGRAM.apply)(params, PAIR.frozen, X)
    by_hand = jax.jit(logits, static_argnums=(1, 2))
    np.testing.assert_allclose(found, by_hand(params.learnable), atol=2e-5)
    apart = by_hand(params.learnable, False)  # nothing flows from text to image
    assert not np.allclose(found, apart, atol=0.01)
    shallow = by_hand(params.learnable, True, False)  # first layers alone
    assert not np.allclose(found, shallow, atol=0.01)


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    def cost(learnable):
        return -jax.nn.log_softmax(logits(learnable))[jnp.arange(len(Y)), Y].mean()

    first = wide()
    settings = {"optimizer": optax.sgd(0.1), "epochs": 50, "batch": len(Y)}
    settings |= {"params": first, "arguments": SIZES}
    says = (
        "learnable embedding concatenative + learnable hidden concatenative -> identity"
    )
    fitted = walk(METHOD, PAIR, TASK, tmp_path, says, **settings)[2]
    losses, last = descend(cost, first.learnable, 0.1)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-3)
    for name in last[SITE]:
        found = fitted.last.learnable[SITE][name]
        np.testing.assert_allclose(found, last[SITE][name], rtol=1e-2, atol=1e-3)
    assert losses[-1] < 0.9 * losses[0]
