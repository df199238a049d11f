"""Params of a program: trained on whole batches, step by step, as `fit` does it, or
drawn far from their start."""

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.data import Split
from reprojax.training import steps
from reprojax.training.losses import cross_entropy


def trained(
    program, frozen, x, y, optimizer, count, params, loss=cross_entropy, sites=()
):
    """(losses [count], the last state) of so many steps from these params."""
    state = steps.begin(program, optimizer, frozen, x, 0, count, params=params)
    what, found = (program, optimizer, loss, tuple(sites)), []
    x, y = jax.tree.map(jnp.asarray, (x, y))
    for _ in range(count):
        state = state._replace(loss=jnp.zeros(()))
        state = steps.train_step(*what, state, frozen, x, y)
        found.append(float(state.loss))
    return np.array(found), state


def drawn(program, model, x, y):
    """Params far from their start, with label maps of the images."""
    params = program.init(jax.random.key(0), model.frozen, x)
    draw = np.random.default_rng(0)
    other = lambda a: jnp.asarray(draw.standard_normal(a.shape) / 2, a.dtype)
    params = params._replace(learnable=jax.tree.map(other, params.learnable))
    return steps.estimate(program, params, model.frozen, Split(x, y), len(x))
