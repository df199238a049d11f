"""A program trained on whole batches, step by step, as `fit` does it."""

import jax
import jax.numpy as jnp
import numpy as np

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
