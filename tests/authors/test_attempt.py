"""ATTEMPT beside a second implementation, a row at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from attempt import METHOD, attempt, with_sources
from small_words import LABELS, WORDS, judged, states, texts
from walk import descend, walk

from reprojax.alignments import label_words
from reprojax.core import tokens

SITE, T = "embed:out", 6.0
SIZES = {"tasks": 2, "sources": 3, "length": 2, "rank": 4, "temperature": T}
TASK = texts(tasks=2)
X, Y, CONTEXT = TASK.train
PROGRAM = attempt(WORDS, label_words(LABELS), **SIZES)
SOURCES = np.random.default_rng(8).normal(size=(3, 2, 8)).astype(np.float32)


def wide():
    """Params far from the first ones, with sources."""
    params = PROGRAM.init(jax.random.key(0), WORDS.frozen, X, CONTEXT)
    draw = np.random.default_rng(4)
    other = lambda a: jnp.asarray(draw.normal(size=a.shape), jnp.float32)
    moved = jax.tree.map(other, params.learnable)
    return with_sources(params._replace(learnable=moved), SITE, SOURCES)


def logits(learnable, ids, task, own_too=True, largest=True):
    """[2] of one text of ids [L]."""
    own, words = learnable[SITE], WORDS.frozen["embed"][ids]
    pool = (lambda a: a.max(0)) if largest else (lambda a: a.mean(0))
    h = own["down"].T @ pool(words)
    h = own["up"].T @ (h / (1 + jnp.exp(-h)))
    h = (h - h.mean()) / jnp.sqrt(((h - h.mean()) ** 2).mean() + 1e-5)
    h = h * own["scale"] + own["bias"]
    mine = own["own"][task]
    prompts = [*jnp.asarray(SOURCES), *([mine] if own_too else [])]
    weight = jnp.exp(jnp.stack([pool(p) @ h for p in prompts]) / T)
    mix = sum(w * p for w, p in zip(weight / weight.sum(), prompts, strict=True))
    return judged(states(jnp.concatenate([mine + mix, words])))


def answers(learnable, **how):
    row = lambda ids, task: logits(learnable, ids, task, **how)
    return jax.jit(jax.vmap(row))(jnp.asarray(X.value), CONTEXT)


def test_a_row_has_its_own_mixture():
    params = wide()
    found = jax.jit(PROGRAM.apply)(params, WORDS.frozen, X, CONTEXT)
    learnable = params.learnable
    np.testing.assert_allclose(found, answers(learnable), rtol=1e-4, atol=1e-5)
    alone = answers(learnable, own_too=False)  # attention to the sources alone
    assert not np.allclose(found, alone, atol=0.01)
    mean = answers(learnable, largest=False)  # means in the place of the largest
    assert not np.allclose(found, mean, atol=0.01)


def test_padding_has_no_say_in_the_mixture():
    params, real = wide(), np.ones((4, 7), np.float32)
    real[:, 5:] = 0
    ids = jnp.pad(X.value[:4], ((0, 0), (0, 2)), constant_values=29)
    padded = tokens(ids, jnp.asarray(real))
    found = jax.jit(PROGRAM.apply)(params, WORDS.frozen, padded, CONTEXT[:4])
    short = jax.jit(PROGRAM.apply)(
        params, WORDS.frozen, tokens(ids[:, :5]), CONTEXT[:4]
    )
    np.testing.assert_allclose(found, short, rtol=1e-4, atol=1e-5)


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    def cost(learnable):
        rows = jnp.asarray(X.value), CONTEXT
        y = jax.vmap(lambda *row: logits(learnable, *row))(*rows)
        return -jax.nn.log_softmax(y)[jnp.arange(len(Y)), Y].mean()

    first = wide()
    settings = {"optimizer": optax.sgd(0.3), "epochs": 50, "batch": len(Y)}
    settings |= {"params": first, "arguments": SIZES | {"labels": LABELS}}
    says = "learnable embedding concatenative -> rule"
    _, params, fitted = walk(METHOD, WORDS, TASK, tmp_path, says, **settings)
    losses, last = descend(cost, first.learnable, 0.3)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-3)
    np.testing.assert_array_equal(params.fixed[SITE], SOURCES)
    for name in last[SITE]:
        found = fitted.last.learnable[SITE][name]
        np.testing.assert_allclose(found, last[SITE][name], rtol=1e-2, atol=1e-3)
    assert losses[-1] < 0.9 * losses[0]
