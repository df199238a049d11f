"""contract(program, ...): the thirteen laws of a method, the library's or your own.

>>> from reprojax.testing import contract
>>> report = contract(program, frozen, x, labels, forward=forward)
>>> report.learnable, report.output.shape
(7, (4, 5))

A broken law raises an AssertionError with its number, the observation and the usual
cause. Use a tiny frozen model: a program is compiled half a dozen times.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from reprojax.core import Forward, Key, Params, Program, PyTree
from reprojax.testing import laws
from reprojax.testing.case import Case, mean_square
from reprojax.training.losses import Loss, cross_entropy


class Report(NamedTuple):
    """Measurements. Differences are relative; None means not measured."""

    output: PyTree
    """Shape and type of the answer."""
    learnable: int
    """Number of learnable parameters."""
    fixed: int
    """Number of fixed parameters."""
    jit: float
    """Difference between jit and the plain call."""
    vmap: float
    """Between vmap over programs and a loop."""
    devices: float | None
    """Between one SGD step on all devices and on one; None if there is one device."""
    neutral: float | None
    """Between the neutral params and the bare model."""
    checkpoint: float
    """Between the gradients with and without jax.checkpoint."""
    work: float | None
    """Compiled operations of a step, over those of the bare model and its gradient."""
    row: float
    """Between a batch of one and its row in the batch."""


def contract(
    program: Program,
    frozen: PyTree,
    x: PyTree,
    labels: Any = None,
    context: PyTree = None,
    *,
    forward: Forward | None = None,
    shape: Sequence[int] | None = None,
    key: Key | None = None,
    loss: Loss | None = None,
    sites: Collection[str] = (),
    no_gradient: Collection[str] = (),
    neutral: Callable[[Params], Params] | None = None,
    bare: Callable[[PyTree, PyTree], Any] | None = None,
    programs: int = 3,
    work: float = 1.1,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Report:
    """Raise an AssertionError at the first law that a program breaks.

    Args:
        x: at least two rows, the leading axis of its first leaf. Leaves of x and of the
            context of the same length are cut into rows, too.
        labels: [B]. Without them the loss is the mean square of the answer.
        forward: the model that the program edits, for laws 8 and 11.
        shape: the expected shape of the answer.
        key: for the laws of a training step. None: as in evaluation.
        loss, sites: as in training; sites are those the loss needs besides "output".
        no_gradient: parts of names of learnable leaves that may lack a gradient.
        neutral: params -> params with which the answer is the bare model's.
        bare: (frozen, x) -> that answer, if it is not forward(frozen, x).
        programs: the K of the law about vmap. It is increased if the model itself
            repeats a frozen leaf K times, such as a class token for each row.
        work: the most that a step without its loss may cost, over the bare model and
            its gradient. The default is for prompts that cost nothing; a method that
            computes (a mask network, an image's features) sets its own.
        tolerance: of relative differences.
    """
    if loss is None:
        loss = mean_square if labels is None else cross_entropy
    x, labels, context = jax.tree.map(jnp.asarray, (x, labels, context))
    case = Case(program, frozen, x, labels, context, key, loss, tuple(sites), tolerance)
    found: dict[str, Any] = {}
    # Otherwise an accelerator's fast products differ by more than the tolerance.
    with jax.default_matmul_precision("highest"):
        case, output = laws.shapes(case, seed, shape)
        laws.shown_sites(case)
        step, first = laws.no_new_trace(case)
        found["jit"] = laws.jit(case, first)
        laws.gradient(first, no_gradient)
        found["vmap"] = laws.vmap(case, step, seed, programs)
        laws.round_trip(case)
        found["devices"] = laws.devices(case, step)
        found["neutral"] = laws.neutral(case, neutral, bare or forward)
        laws.bfloat16(case)
        found["checkpoint"] = laws.checkpoint(case, first)
        found["work"] = laws.work(case, step, forward, work)
        found["row"] = laws.row(case, first)
    learnable, fixed = (sum(a.size for a in jax.tree.leaves(t)) for t in case.params)
    return Report(output, learnable, fixed, **found)
