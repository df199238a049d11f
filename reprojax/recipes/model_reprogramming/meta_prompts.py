"""A first prompt for the clusters of tasks to come, by Reptile (arXiv 2303.08138)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Params, Program, PyTree
from reprojax.data import Task, order
from reprojax.models import Model, Pixels
from reprojax.recipes.model_reprogramming.diversity_aware_prompting import (
    SITE,
    diversity_aware_prompting,
    first_params,
    most_active,
)
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import TrainState, begin, train_step


def meta_prompt(
    model: Model[Pixels],
    tasks: Sequence[Task],
    *,
    rounds: int,
    inner: int = 4,
    rate: float = 0.5,
    share: float = 0.5,
    batch: int = 64,
    seed: int = 0,
    **sizes: Any,
) -> PyTree:
    """Strips from which a few steps lead far, for each cluster of each task.

    In a round each task's prompts start there and take `inner` steps of a new Adam on
    one batch, read by the `most_active` features. Then the strips move by `share` of
    the mean move of all clusters' prompts (Reptile, arXiv 1803.02999). Give what it
    returns to `first_params(prompt=...)`.

    Args:
        rate: of Adam; it falls as a cosine over the rounds.
        sizes: `clusters` and `width` of `diversity_aware_prompting`.
    """
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=rate)
    starts = [_begin(model, task, adam, seed, sizes) for task in tasks]
    prompt = jax.tree.map(lambda a: a[0], _prompts(starts[0][1].params))
    for turn in range(rounds):
        now = rate * (1 + np.cos(np.pi * turn / rounds)) / 2
        moves, count = jax.tree.map(jnp.zeros_like, prompt), 0
        for task, (program, state, clusters) in zip(tasks, starts, strict=True):
            rows = order.batch(task.train, min(batch, len(task.train.y)), seed, turn)
            first = _at(state, prompt, now)
            step = partial(train_step, program, adam, cross_entropy, ())
            for _ in range(inner):
                first = step(first, model.frozen, *rows)
            ends = _prompts(first.params)
            add = lambda sum_, one, all_of: sum_ + (all_of - one).sum(0)
            moves = jax.tree.map(add, moves, prompt, ends)
            count += clusters
        nearer = lambda a, move, count=count: a + share * move / count
        prompt = jax.tree.map(nearer, prompt, moves)
    return prompt


def _begin(
    model: Model[Pixels], task: Task, optimizer: Any, seed: int, sizes: dict[str, Any]
) -> tuple[Program, TrainState, int]:
    """(the program of a task, its state, how many clusters it has)."""
    align = most_active(model, len(task.classes))
    program = diversity_aware_prompting(model, align, **sizes)
    params = first_params(program, model, task.train, seed)
    own = params.fixed[SITE]["prototypes"]
    state = begin(program, optimizer, model.frozen, task.train.x[:2], params=params)
    return program, state, int(jnp.isfinite(own).all(1).sum())


def _prompts(params: Params) -> PyTree:
    """[clusters ...] of each strip."""
    return params.learnable[SITE]["prompts"]


def _at(state: TrainState, prompt: PyTree, rate: float) -> TrainState:
    """A task's state with all prompts at one, and an Adam that has seen nothing."""
    spread = lambda one, all_of: jnp.broadcast_to(one, all_of.shape)
    own = jax.tree.map(spread, prompt, _prompts(state.params))
    learnable = dict(state.params.learnable)
    learnable[SITE] = {**learnable[SITE], "prompts": own}
    opt: Any = state.opt  # with the rate among its numbers
    hyper = {**opt.hyperparams, "learning_rate": jnp.float32(rate)}
    return state._replace(
        params=state.params._replace(learnable=learnable),
        opt=opt._replace(hyperparams=hyper),
    )
