"""The laws of `testing.contract`, one function each."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import (
    Edit,
    Forward,
    Params,
    PyTree,
    passthrough,
    record,
    reprogram,
    stateless,
)
from reprojax.testing.case import (
    Called,
    Case,
    call,
    is_float,
    law,
    same,
    stepper,
    updated,
)
from reprojax.testing.compiled import bare_step, copies, distinct, operations
from reprojax.training import losses


def shapes(
    case: Case, seed: int, shape: Sequence[int] | None
) -> tuple[Case, jax.ShapeDtypeStruct]:
    """Law 1. Returns the case with its params, and the spec of the answer."""
    key = jax.random.key(seed)
    begin = jax.jit(lambda key: case.program.init(key, *case.given))
    with law(1):
        params = case.program.init(key, *case.given)
        if not isinstance(params, Params):
            raise AssertionError(f"init gave {type(params).__name__}, expected Params")
        promised = begin.eval_shape(key)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, promised)
        output = jax.eval_shape(case.program.apply, params, *case.given)
        first = jax.tree.leaves(output)[0].shape
        wanted = tuple(shape) if shape else (case.rows, *first[1:])
        if first != wanted:
            raise AssertionError(f"an answer of shape {first}, expected {wanted}")
    return case._replace(params=params, begin=begin), output


def no_new_trace(case: Case) -> tuple[Callable[..., Called], Called]:
    """Law 2. Returns the jitted step, and its results."""
    traces, step = [], stepper(case)

    def counted(*args: Any) -> Called:
        traces.append(1)
        return step(*args)

    with law(2):
        jitted = jax.jit(counted)
        first = call(jitted, case, case.params)
        chex.assert_tree_all_finite(first.output)
        after = updated(case, first)
        call(jitted, case.by_rows(lambda a: jnp.roll(a, 1, axis=0)), after)
        if len(traces) > 1:
            raise AssertionError(f"two traces: {_changes(case.params, after)}")
    return jitted, first


def _changes(before: PyTree, after: PyTree) -> str:
    """Which leaves change their type in a step."""

    def types(tree: PyTree) -> dict[str, str]:
        paths = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): str(_type(a)) for path, a in paths}

    old, new = types(before), types(after)
    names = [name for name in old | new if old.get(name) != new.get(name)]
    changes = [f"{n} was {old.get(n)} and became {new.get(n)}" for n in names]
    return "; ".join(changes) or "the params kept their types"


def _type(a: Any) -> str:
    kind = jax.typeof(a)
    return f"{'a weak ' if kind.weak_type else ''}{kind.str_short()}"


def jit(case: Case, first: Called) -> float:
    """Law 3."""
    with law(3):
        plain = case.program.apply(case.params, *case.given, key=case.key)
        return same(first.output, plain, case.tolerance)


def gradient(first: Called, no_gradient: Collection[str]) -> None:
    """Law 4."""
    slopes = {
        jax.tree_util.keystr(path): np.abs(np.asarray(a, np.float64)).sum()
        for path, a in jax.tree_util.tree_leaves_with_path(first.gradient)
        if a.dtype != jax.dtypes.float0
    }
    wild = [name for name, size in slopes.items() if not np.isfinite(size)]
    dead = [name for name, size in slopes.items() if size == 0]
    dead = [name for name in dead if not any(part in name for part in no_gradient)]
    with law(4):
        if wild:
            raise AssertionError(f"a gradient that is not finite at {wild}")
        if dead:
            raise AssertionError(f"no gradient at {dead}")


def vmap(case: Case, step: Callable[..., Called], seed: int, programs: int) -> float:
    """Law 5."""
    programs = distinct(case.program, case.params, *case.given, programs=programs)
    keys = jax.random.split(jax.random.key(seed), programs)
    apply = jax.jit(case.program.apply)  # vmap maps its one trace
    apply = apply if case.key is None else partial(apply, key=case.key)
    with law(5):
        many = jax.vmap(case.begin)(keys)
        each = [jax.tree.map(lambda a, i=i: a[i], many) for i in range(programs)]
        axes = (0, None, None, None)
        together = jax.jit(jax.vmap(apply, axes, axis_size=programs))
        compiled = together.lower(many, *case.given).compile()
        loop = [call(step, case, params).output for params in each]
        expected = jax.tree.map(lambda *a: np.stack(a), *loop)
        gap = same(compiled(many, *case.given), expected, case.tolerance)
        text = compiled.as_text() or ""
        copied = copies(text, case.program, many, *case.given)
        if copied:
            raise AssertionError(f"{programs} copies of the frozen {copied}")
    return gap


def round_trip(case: Case) -> None:
    """Law 6."""
    from orbax.checkpoint import v1 as orbax

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def like(a: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)

    with law(6), tempfile.TemporaryDirectory() as folder:
        orbax.save(f"{folder}/params", case.params)
        back = orbax.load(f"{folder}/params", jax.tree.map(like, case.params))
        chex.assert_trees_all_equal_shapes_and_dtypes(back, case.params)
        chex.assert_trees_all_equal(back, case.params)


def devices(case: Case, step: Callable[..., Called]) -> float | None:
    """Law 7, with SGD: Adam would hide a wrong scale of the gradient."""
    if (count := jax.device_count()) == 1:
        return None
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((count,), ("data",), axis_types=kinds)
    split, whole = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (["data"], [])
    )
    one = case.by_rows(lambda a: jnp.repeat(a, count, axis=0))
    names = ("frozen", "x", "labels", "context", "key", "params")
    everywhere = jax.device_put({name: getattr(one, name) for name in names}, whole)
    many = one._replace(**everywhere).by_rows(lambda a: jax.device_put(a, split))
    with law(7):
        found, expected = (updated(c, call(step, c, c.params)) for c in (many, one))
        return same(found, expected, case.tolerance)


def neutral(
    case: Case,
    rest: Callable[[Params], Params] | None,
    bare: Callable[..., Any] | None,
) -> float | None:
    """Law 8."""
    if rest is None:
        return None
    if bare is None:
        raise ValueError(
            "contract got neutral= alone, expected a model to compare with, too; give "
            "forward=, or bare=lambda frozen, x: ..."
        )
    with law(8):
        found = jax.jit(case.program.apply)(rest(case.params), *case.given)
        return same(found, jax.jit(bare)(case.frozen, case.x), 1e-5)


def bfloat16(case: Case) -> None:
    """Law 9, by types; nothing is computed."""
    types = {}

    def spy(site: str, value: PyTree) -> PyTree:
        types[site] = [a.dtype for a in jax.tree.leaves(value) if hasattr(a, "dtype")]
        return value

    def half(tree: PyTree) -> PyTree:
        cast = lambda a: a.astype(jnp.bfloat16) if is_float(a) else a
        return jax.tree.map(cast, tree)

    def apply(params: Params, *given: PyTree) -> PyTree:
        return case.program.apply(params, *half(given), edit=spy)

    with law(9):
        try:
            jax.eval_shape(apply, case.params, *case.given)
        finally:  # if the model rejects a type, first report the site it came from
            for site in (name for name in types if f"{name}/raw" in types):
                if (
                    {*types[f"{site}/raw"]}
                    == {jnp.dtype(jnp.bfloat16)}
                    != {*types[site]}
                ):
                    raise AssertionError(f"{types[site]} at {site!r}")


def checkpoint(case: Case, first: Called) -> float:
    """Law 10."""
    with law(10):
        again = call(jax.jit(stepper(case, jax.checkpoint)), case, case.params)
        return same(again.gradient, first.gradient, 10 * case.tolerance)


def work(
    case: Case,
    step: Callable[..., Called],
    forward: Forward | None,
    most: float,
) -> float | None:
    """Law 11."""
    if forward is None:
        return None
    bare, free = bare_step(forward, case.program, case.params, *case.given)
    mine = operations(step, case.params, *case.given, case.labels, case.key)
    mine -= _of_loss(case, step)  # the bare step has no loss
    ratio = mine / operations(bare, free, case.frozen, case.x)
    with law(11):
        if ratio > most:
            raise AssertionError(f"{ratio:.2f} times the operations, above {most}")
    return ratio


def _of_loss(case: Case, step: Callable[..., Called]) -> float:
    """Operations of the loss and its gradient with respect to what it sees."""

    def cost(seen: PyTree, learnable: PyTree, labels: PyTree) -> jax.Array:
        given = seen, labels, learnable, case.x, case.context, case.key, 0
        return losses.mean_loss(losses.judge(case.loss, *given), labels)

    seen = jax.eval_shape(step, case.params, *case.given, case.labels, case.key).seen
    slope = jax.value_and_grad(cost, allow_int=True)
    return operations(slope, seen, case.params.learnable, case.labels)


def row(case: Case, first: Called) -> float:
    """Law 12, in evaluation."""
    if case.rows < 2:
        raise ValueError(
            f"contract got a batch of {case.rows}, expected at least two, to compare a "
            "row alone with itself among others; give a larger x"
        )
    apply = jax.jit(case.program.apply)
    with law(12):
        # A step without a key has answered the batch as in evaluation.
        batch = first.output if case.key is None else apply(case.params, *case.given)
        last = jax.tree.map(lambda a: a[-1:], batch)
        alone = apply(case.params, *case.by_rows(lambda a: a[-1:]).given)
        return same(alone, last, case.tolerance)


def shown_sites(case: Case) -> None:
    """Law 13."""
    nowhere: Any = {"no/such/site": stateless(lambda value: value)}

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        return case.program.apply(case.params, frozen, x, case.context, edit=edit)

    with law(13):
        look = record(case.program.apply, ["input", "output"])
        jax.eval_shape(look, case.params, *case.given)
        try:
            reprogram(forward, nowhere).init(jax.random.key(0), case.frozen, case.x)
        except ValueError as error:
            if "sites(" in str(error):
                return
            raise AssertionError(f"a wrong site said: {error}") from error
        raise AssertionError("nothing was raised at a wrong site")
