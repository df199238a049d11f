"""TPT beside a second implementation: entropies by NumPy, AdamW written down."""

import jax
import jax.numpy as jnp
import numpy as np
import tpt
from small_models import PAIR, pair_logits, pictures
from walk import walk

TASK = pictures()
PROGRAM = tpt.tpt(PAIR, length=2)
X = TASK.test.x[0]
VIEWS = tpt.views(jax.random.key(1), X, 30, 16, 20)
PARAMS = PROGRAM.init(jax.random.key(0), PAIR.frozen, VIEWS)


def cost(prompt, share=0.1, of_mean=True):
    """-sum of p log p, p the mean of the surest views' answers."""
    p = jax.nn.softmax(pair_logits(VIEWS, prompt))
    entropy = -(p * jnp.log(p)).sum(1)
    chosen = np.argsort(np.asarray(jax.lax.stop_gradient(entropy)))
    chosen = chosen[: int(len(p) * share)]
    if not of_mean:
        return entropy[chosen].mean()
    mean = p[chosen].sum(0) / len(chosen)
    return -(mean * jnp.log(mean)).sum()


def adamw(prompt, slope):
    """The first step: m / (1 - b1) and v / (1 - b2) are the slope and its square."""
    return prompt - 0.005 * (slope / (jnp.abs(slope) + 1e-8) + 0.01 * prompt)


def test_the_views_are_the_image_and_squares_of_it():
    assert VIEWS.shape == (30, 16, 16, 3)
    np.testing.assert_allclose(VIEWS[0], np.float32(X) / 255, rtol=1e-6)
    flat = np.asarray(VIEWS).reshape(30, -1)
    assert len(np.unique(flat.round(4), axis=0)) > 20
    assert np.abs(flat.mean(1) - flat[0].mean()).max() < 0.1


def test_a_step_is_that_of_a_loop_by_hand():
    (prompt,) = jax.tree.leaves(PARAMS.learnable)
    # wide, so that views differ in how sure they are
    prompt = jnp.asarray(np.random.default_rng(5).normal(size=prompt.shape), "float32")
    start = PARAMS._replace(learnable={**PARAMS.learnable, "words": prompt})
    found = jax.jit(PROGRAM.apply)(start, PAIR.frozen, VIEWS)
    np.testing.assert_allclose(found, pair_logits(VIEWS, prompt), rtol=1e-4, atol=1e-4)
    new = tpt.tuned(PROGRAM, start, PAIR.frozen, VIEWS).learnable["words"]
    slope = jax.grad(cost)(prompt)
    np.testing.assert_allclose(new, adamw(prompt, slope), rtol=1e-5, atol=1e-5)
    # Adam's first step knows of a slope its signs alone; the loss is compared, too
    seen = type("Seen", (), {"output": found})
    np.testing.assert_allclose(tpt.SUREST(seen), cost(prompt), rtol=1e-4)
    # the likeliest mistakes: all views count; the mean of entropies
    assert abs(cost(prompt, share=1.0) - cost(prompt)) > 0.01
    assert abs(cost(prompt, of_mean=False) - cost(prompt)) > 1e-4
    # the start stays whole for the next image, and ten steps lower the entropy
    np.testing.assert_array_equal(start.learnable["words"], prompt)
    ten = tpt.tuned(PROGRAM, start, PAIR.frozen, VIEWS, steps=10).learnable["words"]
    assert cost(ten) < cost(prompt)


def test_the_way(tmp_path):
    def train(program):
        return tpt.tuned(program, PARAMS, PAIR.frozen, VIEWS)

    says = "learnable hidden concatenative -> identity"
    walk(tpt.METHOD, PAIR, TASK, tmp_path, says, arguments={"length": 2}, train=train)
