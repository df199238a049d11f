"""Reptile: a first prompt from which a few steps lead far, on tasks to come.

Nichol et al., arXiv 1803.02999; for prompts of images as in Huang et al. (DAM-VP).
"""

import jax
import optax
from jax.nn.initializers import zeros

from reprojax import reprogram
from reprojax.alignments import linear
from reprojax.data import order
from reprojax.formats import learnable
from reprojax.models import Pixels
from reprojax.operators import add, frame
from reprojax.recipes import Method, needs
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import begin, train_step


@needs(Pixels)
def border(model, align=None, *, targets=None, width=30):
    """A frame of learned pixels upon an image, and a linear map of its answers."""
    prompt = add(learnable(zeros), mask=frame(width))
    return reprogram(model.forward, {"normalized": prompt}, align or linear(targets))


def few_steps(program, frozen, task, state, steps, batch, turn):
    """A state so many steps of SGD further on a task."""
    for step in range(steps):
        rows = order.batch(task.train, batch, turn, step)
        state = train_step(program, SGD, cross_entropy, (), state, frozen, *rows)
    return state


def reptile(program, frozen, tasks, rounds, steps=8, batch=64, rate=1.0, seed=0):
    """Towards where each task leads in a few steps, by less and less of the way."""
    first = begin(program, SGD, frozen, tasks[0].train.x[:batch], seed)
    for turn in range(rounds):
        task, share = tasks[turn % len(tasks)], rate * (1 - turn / rounds)
        moved = few_steps(program, frozen, task, first, steps, batch, turn)
        nearer = lambda a, b, share=share: a + share * (b - a)
        pair = first.params.learnable, moved.params.learnable
        new = first.params._replace(learnable=jax.tree.map(nearer, *pair))
        first = first._replace(params=new)
    return first


SGD = optax.sgd(0.1)
METHOD = Method(
    "reptile",
    border,
    source="arXiv 1803.02999, openai/supervised-reptile; plain SGD within a task",
    enters="after normalisation",
)
