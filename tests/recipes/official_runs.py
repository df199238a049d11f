"""The setting in which official codes ran beside ours: a tiny transformer with their
weights, twelve photos, and params of the same draws."""

import backbones
import jax.numpy as jnp
import numpy as np

from reprojax.training import steps

MODEL = backbones.transformer(3)
X, Y = backbones.photos(12, 16), np.arange(12) % 3
HEAD = (3, 4)  # seeds of its kernel and bias


def normal(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def head(kernel=HEAD[0], bias=HEAD[1]):
    """Of 16 features, for three classes."""
    return {"kernel": normal((16, 3), kernel), "bias": normal((3,), bias)}


def way(program, start, optimizer, loss, sites=()):
    """(losses of sixty steps on all rows, last params)."""
    found = []
    state = steps.begin(program, optimizer, MODEL.frozen, X, params=start)
    for _ in range(60):
        what = program, optimizer, loss, sites, state, MODEL.frozen
        state = steps.train_step(*what, jnp.asarray(X), jnp.asarray(Y))
        found.append(float(state.numbers.loss))
    return np.array(found), state.params


def check_way(found, wanted, tolerance=2e-3):
    """Sixty losses beside those before the steps 0, 6, 12, ... 54 and 59, as a text."""
    wanted = np.array(wanted.split(), float)
    np.testing.assert_allclose(np.append(found[::6], found[-1]), wanted, atol=tolerance)
