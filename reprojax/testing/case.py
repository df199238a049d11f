"""Common parts of `testing.contract`'s laws: their texts, a case, a training step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import Key, Params, Program, PyTree, estimation, record
from reprojax.training import losses
from reprojax.training.losses import Loss, Seen

LAWS = {
    1: ("init and apply give the promised shapes", "a size that is typed in"),
    2: (
        "a second step with new values traces nothing anew",
        "a Python number among the params, or a refresh that changes a type",
    ),
    3: (
        "jit gives what the plain call gives",
        "Python state, NumPy randomness, or control flow that depends on values",
    ),
    4: (
        "the gradient reaches every learnable leaf",
        "a leaf that is not read, an argmax, or a start at a flat place; if that is "
        "intended, name the leaf in no_gradient",
    ),
    5: (
        "vmap over programs equals a loop and copies no frozen leaf",
        "params that are mixed into frozen weights, or axes counted from the front",
    ),
    6: ("an orbax round trip gives the same params", "a leaf that is not an array"),
    7: (
        "many devices equal one",
        "numbers of a device's own rows, or a mean of means over unequal batches",
    ),
    8: ("neutral params give the bare model", "a prompt that does not start at rest"),
    9: ("bfloat16 in, bfloat16 out", "a float32 prompt that was not cast to the value"),
    10: ("jax.checkpoint gives the same gradient", "state outside of the params"),
    11: (
        "a step costs little more than the bare model and its gradient",
        "a second pass of the model, or a gradient with respect to frozen weights",
    ),
    12: (
        "a batch of one equals its row in a batch",
        "statistics of the batch; use stored ones where scope.key is None",
    ),
    13: (
        "edit sees the input and the output, and a wrong site is refused",
        "an apply that does not hand edit on to the model",
    ),
}


@contextmanager
def law(number: int) -> Iterator[None]:
    """Add to an error which law it breaks, and the usual cause."""
    try:
        yield
    except (AssertionError, TypeError, ValueError) as error:
        # jit cannot trace a part of the program, which is law 3
        if isinstance(error.__cause__ or error, jax.errors.JAXTypeError):
            number = 3
        text, cause = LAWS[number]
        raise AssertionError(
            f"law {number} is broken: {text}. Found: {error}. Usual cause: {cause}"
        ) from error


class Case(NamedTuple):
    """The arguments of all laws."""

    program: Program
    frozen: PyTree
    x: PyTree
    labels: jax.Array | None
    context: PyTree
    key: Key | None
    loss: Loss
    sites: tuple[str, ...]
    tolerance: float = 1e-4
    params: Params = Params()
    begin: Callable[[Key], Params] = lambda key: Params()
    """init, jitted; set together with the params."""

    @property
    def given(self) -> tuple[PyTree, PyTree, PyTree]:
        """The arguments of init and apply after the key or the params."""
        return self.frozen, self.x, self.context

    @property
    def rows(self) -> int:
        return jax.tree.leaves(self.x)[0].shape[0]

    def by_rows(self, function: Callable[[jax.Array], jax.Array]) -> "Case":
        """The case with function applied to all arrays with a row for each of x."""
        x, labels, context = jax.tree.map(
            lambda a: function(a) if a.shape[:1] == (self.rows,) else a,
            (self.x, self.labels, self.context),
        )
        return self._replace(x=x, labels=labels, context=context)


class Called(NamedTuple):
    """The results of a training step."""

    gradient: PyTree
    output: PyTree
    seen: dict[str, Any]


def mean_square(seen: Seen) -> jax.Array:
    """A loss for any answer: the mean square of its floats."""
    leaves = filter(is_float, jax.tree.leaves(seen.output))
    squares = [jnp.square(a.astype(jnp.float32)).mean() for a in leaves]
    return sum(squares, jnp.zeros(()))


def is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


def call(step: Callable[..., Called], case: Case, params: Params) -> Called:
    return step(params, *case.given, case.labels, case.key)


def stepper(case: Case, wrap: Callable = lambda cost: cost) -> Callable[..., Called]:
    """(params, frozen, x, context, labels, key) -> Called."""
    wanted = ["output", *estimation.raw_sites(case.program), *case.sites]
    apply = record(case.program.apply, wanted, also=estimation.is_news)

    def step(params, frozen, x, context, labels, key):
        def cost(learnable: PyTree) -> tuple[jax.Array, tuple]:
            own = params._replace(learnable=learnable)
            y, seen = apply(own, frozen, x, context, key=key)
            found = losses.judge(case.loss, seen, labels, learnable, x, context, key, 0)
            return losses.mean_loss(found, labels), (y, seen)

        pull = jax.grad(wrap(cost), has_aux=True, allow_int=True)
        gradient, (y, seen) = pull(params.learnable)
        return Called(gradient, y, seen)

    return step


def updated(case: Case, answer: Called) -> Params:
    """The params after a step of SGD, and an update of their statistics."""

    def descend(a: jax.Array, slope: jax.Array) -> jax.Array:
        return (a - 0.01 * slope).astype(a.dtype) if is_float(a) else a

    learnable = jax.tree.map(descend, case.params.learnable, answer.gradient)
    params = estimation.put_news(Params(learnable, case.params.fixed), answer.seen)
    if case.labels is None:
        return params
    sums = estimation.observe(case.program, params, answer.seen, case.labels)
    return estimation.refresh(case.program, params, sums)


def same(found: PyTree, expected: PyTree, tolerance: float) -> float:
    """The largest difference of two trees; raise if it exceeds the tolerance.

    Relative to the largest number of a leaf, or to a thousandth of the tree's.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        if a.size and a.dtype != jax.dtypes.float0
    ]
    sizes = [np.abs(b).max() for _, b in pairs]
    least = max([1e-6, *(size / 1000 for size in sizes)])
    gaps = [np.abs(a - b).max() / max(np.abs(b).max(), least) for a, b in pairs]
    if not max(gaps, default=0) <= tolerance:  # NaN must fail, too
        raise AssertionError(f"a difference of {max(gaps):.2g}, above {tolerance:.2g}")
    return float(max(gaps, default=0))
