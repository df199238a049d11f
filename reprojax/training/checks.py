"""Checks before and during a run, so that no run is wrong in silence.

All raise ValueError: for shapes and settings before anything is compiled, for numbers
where they enter.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from reprojax.core import Params, Program, PyTree, estimation, part, record
from reprojax.core.estimation import Refresh
from reprojax.core.faults import MISTAKES, told, value_text
from reprojax.core.names import name_of
from reprojax.core.slips import arguments, array_text, check_no_card, shown, takes
from reprojax.core.trees import below, differences, specs
from reprojax.data import Task
from reprojax.data.checks import whole
from reprojax.data.order import Outline
from reprojax.training import parallel
from reprojax.training.losses import Loss, Rows, judge
from reprojax.training.metrics import Metric, observed
from reprojax.training.runs import Evaluated, Run


def check_arguments(
    who: str, program: Any, frozen: Any, task: Any, more: str = "optimizer=..."
) -> None:
    """Raise at an argument of the wrong kind, such as a task for the frozen tree."""
    order = f"the order is {who}(program, card.frozen, task, {more})"
    check_program(who, program, order)
    if isinstance(frozen, Task):
        raise ValueError(f"{who} got the task for the frozen tree; {order}")
    check_no_card(who, frozen)
    check_task(who, task, order)


def check_program(who: str, program: Any, order: str) -> None:
    """Raise unless it is a program; `order` is the order of the caller's arguments."""
    if not isinstance(program, Program):
        raise ValueError(
            f"{who} got {shown(program)} for the program, expected what reprogram, or "
            f"a recipe, gives; {order}"
        )


def check_task(who: str, task: Any, order: str) -> None:
    """Raise unless it is a task of numbers; `order` as in `check_program`."""
    if not isinstance(task, Task):
        raise ValueError(
            f"{who} got {shown(task)} for the task, expected a Task of three splits; "
            f"data.load and data.from_arrays give one; {order}"
        )
    if task.holds == "text":
        raise ValueError(
            f"{who} got the task {task.name!r} of texts, expected ids; encode it "
            "first: text.tasks.encoded(model, task, template, labels)"
        )


def check_is_optimizer(optimizer: Any) -> None:
    """Raise unless it is an optimiser of optax: not a rate, nor one not yet called."""
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        return
    do = "call optax.adam(.05)"
    if isinstance(optimizer, float | int):
        do = f"call optax.adam({optimizer})"
    elif callable(optimizer):
        do = f"call it with a learning rate: {name_of(optimizer)}(.05)"
    raise ValueError(f"got optimizer={shown(optimizer)}, expected one of optax; {do}")


def check_settings(
    epochs: Any, batch: Any, refresh: str, accumulate: Any = 1
) -> tuple[int, int, int]:
    """(epochs, batch, accumulate) as ints; raise unless all are integers from 1."""
    if refresh not in get_args(Refresh):
        raise ValueError(f"fit got refresh={refresh!r}, expected {get_args(Refresh)}")
    counts = {"epochs": epochs, "batch": batch, "accumulate": accumulate}
    epochs, batch, accumulate = (whole(n, v, least=1) for n, v in counts.items())
    return epochs, batch, accumulate


# -- a program, its loss and its optimiser, by their shapes


def check_run(run: Run) -> None:
    """Raise, before anything is compiled, if the parts of a run do not fit together."""
    x, y, context = run.rows.x, run.rows.y, run.rows.context
    learnable, seen = check_answer(run.program, run.frozen, run.rows, run.sites)
    if run.mesh is not None:
        parallel.check_mesh(run.mesh)
    fills = filled(run.rows, run.mesh, run.accumulate)
    check_slope(check_rows(run.loss, learnable, seen, x, y, context, fills))
    check_metrics((run.metric, *run.metrics), seen, y, learnable, x, context)
    check_optimizer(run.optimizer, learnable, run.evaluated, run.accumulate)


def check_answer(
    program: Program, frozen: PyTree, task: Outline, sites: tuple[str, ...]
) -> tuple[PyTree, dict[str, Any]]:
    """The shapes of the learnable params and of what training records.

    Raises ValueError unless the program's answers have the shape of the task's.
    """
    wanted = ("output", *estimation.raw_sites(program), *sites)

    def answer(*given: PyTree) -> tuple[PyTree, PyTree, dict[str, Any]]:
        params = program.init(jax.random.key(0), *given)
        return params, *record(program.apply, wanted)(params, *given)

    params, y, seen = jax.eval_shape(answer, frozen, task.x, task.context)
    check_learnable(params.learnable)
    rows, shape = task.y.shape[0], getattr(y, "shape", ())
    if task.answers == "words" and shape[:-1] != task.y.shape:
        raise ValueError(
            f"the program answers {_shown(y)}, expected logits {task.y.shape} + "
            f'(vocabulary,) for the words of {task.name}; give "output" '
            "alignments.at_words()"
        )
    if task.answers == "numbers" and shape != task.y.shape:
        raise ValueError(
            f"the program answers {_shown(y)} to a batch of {rows}, expected "
            f"{task.y.shape} for the {task.y.shape[1]} numbers of {task.name}; give "
            '"output" an alignment to that number, such as linear'
        )
    if task.answers in ("class", "labels") and shape != (rows, task.classes):
        raise ValueError(
            f"the program answers {_shown(y)} to a batch of {rows}, expected "
            f"{(rows, task.classes)} for the {task.classes} classes of {task.name}; "
            'give "output" an alignment to that number'
        )
    if task.answers in ("labels", "numbers", "none"):
        _check_no_counts(program, params, seen, task)
    return params.learnable, seen


def _check_no_counts(
    program: Program, params: Params, seen: Mapping[str, Any], task: Outline
) -> None:
    """Raise at a label map, which needs each row's class, if rows have no class.

    A label map is told by its sums of the same values under two labels, which differ.
    (A standardisation's sums are equal: it is estimated without classes.)
    """
    zeros = lambda tree: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)
    for site, m in estimation.estimated(program).items():
        assert m.observe is not None
        value, own = zeros(seen[f"{site}/raw"]), zeros(part(params, site))
        rows = jax.tree.leaves(value)[0].shape[0]
        first, second = (
            jax.tree.leaves(m.observe(own, value, jnp.full(rows, label)))
            for label in (0, 1)
        )
        pairs = zip(first, second, strict=True)
        if not all(jnp.array_equal(a, b, equal_nan=True) for a, b in pairs):
            raise ValueError(
                f"the manipulation of {site!r} counts classes, and {task.name} has "
                f"{task.answers} in their place, expected one that needs none, such as "
                "alignments.linear(...)"
            )


def check_learnable(learnable: PyTree) -> None:
    """Raise at learnable params without a gradient: integers and bools."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(learnable):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"the learnable params hold {array_text(leaf)} at {name!r}, which has "
                "no gradient, expected floats; let init give them as float32, put what "
                "is not trained into Params(learnable, fixed), or search them by "
                "fit_black_box"
            )


def _shown(y: Any) -> str:
    return str(tuple(y.shape)) if hasattr(y, "shape") else type(y).__name__


def check_rows(
    loss: Loss,
    learnable: PyTree,
    seen: Any,
    x: Any,
    labels: Any,
    context: PyTree,
    fills: str = "",
) -> Any:
    """Raise unless a loss gives a value for each label, or a number if none is filler.

    Args:
        fills: why some rows may be filler, or why the batch is cut; see `filled`.

    Returns:
        The spec of the value.
    """
    key, step = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), jnp.int32)
    given = seen, labels, learnable, x, context, key, step
    if not takes(loss, None):
        raise ValueError(
            f"the loss ({name_of(loss)}) takes {arguments(loss)}, expected a function "
            "of (seen); read seen.output, seen.labels and seen.learnable"
        )
    try:
        found = jax.eval_shape(partial(judge, loss), *given)
    except KeyError as error:
        raise ValueError(
            f"the loss asks for {error}, expected what is recorded: {sorted(seen)}; "
            f"record a site by record_sites=({error},)"
        ) from error
    except MISTAKES as error:
        raise ValueError(
            f"the loss ({name_of(loss)}) raised {told(error)}, expected a loss of "
            f"seen; seen.recorded has {sorted(seen)}, and seen.labels are "
            f"{array_text(labels)}"
        ) from error
    value, weight = found if isinstance(found, Rows) else (found, found)
    shapes = [tuple(getattr(a, "shape", (type(a).__name__,))) for a in (value, weight)]
    number = shapes[0] == () and not isinstance(found, Rows)
    if shapes == [tuple(labels.shape)] * 2 or (number and not fills):
        return value
    said = "one number" if number else f"the shape {shapes[0]} (weights {shapes[1]})"
    said = said if hasattr(value, "shape") else value_text(value)
    why = f" ({fills})" if fills else ""
    raise ValueError(
        f"the loss gave {said}, expected a value for each label, "
        f"{tuple(labels.shape)}{why}; return the values without .mean(), fit takes the "
        "mean over real rows: return optax.softmax_cross_entropy_with_integer_labels("
        "seen.output, jnp.maximum(seen.labels, 0)); with class weights, return "
        "losses.Rows(value, weight)"
    )


def check_metrics(metrics: tuple[Metric, ...], *given: Any) -> None:
    """Raise if a metric cannot read the program's answers.

    Args:
        given: specs of what is recorded, labels, learnable, x and the context.
    """
    recorded, labels, *_ = given
    for metric in metrics:
        try:
            jax.eval_shape(partial(observed, metric), *given)
        except (KeyError, *MISTAKES) as error:
            raise ValueError(
                f"the metric {metric.name!r} raised {told(error)}, expected one of "
                f"labels {array_text(labels)} and of what is recorded, "
                f"{sorted(recorded)}; take another of training.metrics"
            ) from error


def check_slope(value: Any) -> None:
    """Raise at a loss without a gradient: of integers, bools or complex numbers."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"the loss gave numbers of type {value.dtype}, which have no gradient, "
            "expected floats; a count of errors is a loss for fit_black_box"
        )


def filled(task: Outline, mesh: Mesh | None = None, accumulate: int = 1) -> str:
    """Why a batch has labels -1 or is cut into parts; empty if neither holds."""
    size = task.size
    if accumulate > 1:
        return f"accumulate={accumulate} cuts a batch into parts"
    if task.short:
        return f"the last batch of an epoch has {task.short} real rows of {size}"
    if (more := parallel.padded_size(size, mesh)) != size:
        return f"{size} rows are filled to {more} for the devices"
    return "a label is -1" if task.gaps else ""


def check_optimizer(
    optimizer: Any,
    learnable: PyTree,
    evaluated: Evaluated | None = None,
    accumulate: int = 1,
) -> None:
    """Raise unless an optimiser updates the learnable tree from what the loop gives."""
    check_is_optimizer(optimizer)
    searches: list[bool] = []

    def step(learnable: PyTree) -> tuple[PyTree, PyTree]:
        def again(learnable: PyTree) -> jax.Array:
            searches.append(True)
            return sum(a.sum() for a in jax.tree.leaves(learnable)) * jnp.ones(())

        opt = optimizer.init(learnable)
        given = {"value": jnp.ones(()), "grad": learnable, "value_fn": again}
        update = optax.with_extra_args_support(optimizer).update
        updates, opt = update(learnable, opt, learnable, **given)
        return optax.apply_updates(learnable, updates), opt

    try:
        moved, opt = jax.eval_shape(step, learnable)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"the optimiser cannot update the learnable params ({error}), expected one "
            "whose params are exactly that tree and that asks for value, grad and "
            "value_fn at most; instead of optax.lookahead, whose params are a pair, "
            "take an average of params, such as optax.contrib.schedule_free, with "
            "evaluated="
        ) from error
    if searches and accumulate > 1:
        raise ValueError(
            f"the optimiser does a line search and got accumulate={accumulate}, "
            "expected 1, because each trial needs the loss of the whole batch"
        )
    _check_same(moved, learnable, "the optimiser's update")
    if evaluated is not None:
        _check_same(jax.eval_shape(evaluated, opt, learnable), learnable, "evaluated")


def _check_same(found: PyTree, expected: PyTree, name: str) -> None:
    sizes = lambda tree: jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)
    if jax.tree.structure(found) != jax.tree.structure(expected) or (
        sizes(found) != sizes(expected)
    ):
        raise ValueError(
            f"{name} gives {sizes(found)}, expected the learnable params' "
            f"{sizes(expected)}; evaluated=lambda state, learnable: ... gets the "
            "optimiser's state, as optax.contrib.schedule_free_eval_params does"
        )


def check_start(came: Any, expected: Params) -> None:
    """Raise unless the params to start from are of the program's tree and shapes."""
    if not isinstance(came, Params):
        raise ValueError(
            f"got params={value_text(came)}, expected the Params that init gives; "
            "call Params(learnable, fixed) on their two trees"
        )
    lines = differences(specs(came), specs(expected))
    if lines or jax.tree.structure(came) != jax.tree.structure(expected):
        raise ValueError(
            f"the params to start from are another program's:{below(lines)}\nexpected "
            "the leaves of this one's init; build the programs with the same sizes"
        )
    check_params(came, "params=")


# -- numbers


@jax.jit
def _is_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def not_finite(tree: PyTree) -> list[str]:
    """The paths of leaves with NaN or infinity; one transfer to the host for all."""
    floats = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    found = jax.device_get([_is_finite(leaf) for leaf in floats.values()])
    return [name for name, finite in zip(floats, found, strict=True) if not finite]


def _refuse(names: Iterable[str], what: str, advice: str) -> None:
    if names := [*names]:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise ValueError(
            f"{what} are not finite in {', '.join(map(repr, names[:4]))}{more}: got "
            f"NaN or infinity, expected finite numbers; {advice}"
        )


def check_frozen(frozen: PyTree) -> None:
    """Raise at weights that are not finite, with their names."""
    advice = "training cannot repair them: load or convert the weights again"
    _refuse(not_finite(frozen), "the frozen weights", advice)


def check_params(params: Params, who: str = "the program") -> None:
    """Raise at initial params that are not finite, with their names."""
    advice = "look at what its init computes from the arrays that it got"
    _refuse(not_finite(params._asdict()), f"the first params of {who}", advice)


def check_statistics(sums: PyTree, rows: str) -> None:
    """Raise at sums of a label map, or running averages, that are not finite."""
    advice = "the model's answers to them overflow, or the inputs are not finite"
    _refuse(not_finite(sums), f"the statistics of {rows}", advice)


def check_first(losses: Iterable[jax.Array]) -> None:
    """Raise if all losses of a first step are not finite; no learning rate did that."""
    values = [float(loss) for loss in losses]
    if not any(map(jnp.isfinite, values)):
        raise ValueError(
            f"the loss of the first step is not finite ({values[0]}), before anything "
            "was learned, so the learning rate is not the cause: either the "
            "model's answers to these rows overflow, or the loss of a right row is not "
            "finite, or a weight of its Rows is negative; look at "
            'record(program.apply, ["output"]), or set JAX_DEBUG_NANS=1'
        )


class Diverged(ValueError):
    """A run whose loss or params stopped being finite, with its state."""

    def __init__(self, said: str, state: Any) -> None:
        super().__init__(said)
        self.state = state


def check_loss(state: Any, epoch: int, step: int) -> None:
    """Raise if a run diverged (its `TrainState`), or if its statistics did."""
    # Check the params too: no later loss shows what the very last step broke.
    if not_finite((state.loss, state.params.learnable)):
        raise Diverged(
            f"the loss diverged in epoch {epoch + 1} (by step {step}); "
            "what was saved before stays; lower the learning rate, or clip the "
            "gradient with optax.clip_by_global_norm",
            state,
        )
    shown = {"fixed": state.params.fixed, "sums": state.sums}
    check_statistics(shown, f"epoch {epoch + 1}")
