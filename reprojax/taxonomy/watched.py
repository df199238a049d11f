"""Cut the manipulations inside `program.apply` out of its trace.

A program may select its params by row, compute them from other numbers, or run another
program. Then what acts at a site is not a manipulation of `program.at` on its own
params. But it is a part of the program's jaxpr, between the value that it gets and its
result; cut out there, it is again a manipulation: of the program's own params.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from reprojax.core import (
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    part,
    spec_of,
    watching,
)
from reprojax.taxonomy.manipulations import Alone

MARK = "describe:"


def is_own(program: Program, params: Params, m: Manipulation, held: Params) -> bool:
    """Whether a manipulation is one of `program.at`, with its own params."""
    sites = (s[0] for s, other in program.at if other == m and _holds(params, s[0]))
    return any(is_same(held, part(params, site)) for site in sites)


def is_whole(program: Program, params: Params) -> bool:
    """Whether all learnable params belong to manipulations of `program.at`."""
    first = [sites[0] for sites, _ in program.at]
    if not all(_holds(params, site) for site in first):
        return not jax.tree.leaves(params.learnable)
    own = [params.learnable[site] for site in first]
    return len(jax.tree.leaves(own)) == len(jax.tree.leaves(params.learnable))


def _holds(params: Params, site: str) -> bool:
    return all(isinstance(tree, Mapping) and site in tree for tree in params)


def is_same(a: PyTree, b: PyTree) -> bool:
    """Whether two trees hold identical arrays (`is`), tracers included."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


class Cut(NamedTuple):
    """One manipulation at one site, cut out of the trace."""

    manipulation: Manipulation
    """The manipulation as the program has it."""
    alone: Alone
    """The cut one, on those of the program's params (by number) that it depends on. If
    it depends on none: on the params that it got, which are then fixed."""
    held: Params
    """Specs of the params that it got."""
    leaves: frozenset[int]
    """Indices, among all leaves of the program's params, of those it depends on."""
    looped: bool
    """Whether it is inside a loop over layers."""


class Watched(NamedTuple):
    """All manipulations that acted in a program, in order."""

    cuts: list[Cut]
    leaves: list[Any]
    """The leaves of the program's params, learnable ones first."""
    learned: int
    """The number of learnable leaves."""
    used: list[bool]
    """For each leaf, whether the program's answer depends on it."""


def watch(
    program: Program, params: Params, frozen: PyTree, x: PyTree, context: PyTree
) -> Watched:
    """Trace the program and cut out all manipulations that act.

    Args:
        x, context: numbers, not specs.
    """
    trace = _trace(program, params, frozen, x, context)
    calls = [call for call in trace.calls if call.answer.within(trace.seen)]
    found = {call.scope.site for call in calls}
    if lost := {call.scope.site for call in trace.calls} - found:
        raise ValueError(
            f"{sorted(lost)} are manipulated inside a loop of no steps, or inside a "
            "transform of JAX that describe does not know, expected jit, vmap, scan, "
            "cond, while or remat; call describe on the program inside of it"
        )
    jaxpr = trace.jaxpr.jaxpr
    used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    learned = len(jax.tree.leaves(params.learnable))
    cuts = [_cut(trace, call, learned) for call in calls]
    return Watched(cuts, jax.tree.leaves(params), learned, used)


class _Marks(NamedTuple):
    """A tree whose arrays are marked in a trace."""

    structure: Any
    leaves: list[Any]
    """Specs of arrays, and other leaves (a flag among a module's arguments)."""
    names: list[str]
    """The mark of each leaf; "" if it is not an array."""

    @property
    def all(self) -> list[str]:
        return [name for name in self.names if name]

    def within(self, seen: Mapping[str, Any]) -> bool:
        return all(name in seen for name in self.all)

    def tree(self, arrays: Sequence[Any]) -> PyTree:
        """The tree with these arrays in the marked places."""
        rest = iter(arrays)
        pairs = zip(self.leaves, self.names, strict=True)
        return self.structure.unflatten([next(rest) if n else a for a, n in pairs])


def _arrays(tree: PyTree) -> list[Any]:
    return [a for a in jax.tree.leaves(tree) if hasattr(a, "dtype")]


class _Call(NamedTuple):
    """A manipulation's call in the trace."""

    manipulation: Manipulation
    params: _Marks
    value: _Marks
    context: _Marks
    answer: _Marks
    scope: Scope
    inner: bool
    """Whether its site lies inside a transform of its model."""


class _Trace(NamedTuple):
    """A program's call, with marks at its manipulations' inputs and results."""

    calls: list[_Call]
    jaxpr: ClosedJaxpr
    args: tuple[PyTree, ...]
    """(params, frozen, x, context)."""
    seen: dict[str, Any]
    """{mark: its spec}. If a body is traced twice, the first trace's marks are lost."""
    loops: set[str]
    """The marks inside loops."""


def _trace(program: Program, *args: PyTree) -> _Trace:
    calls: list[_Call] = []
    number = count()

    def act(
        m: Manipulation, params: Params, value: PyTree, scope: Scope, inner: bool
    ) -> Any:
        mark = partial(_marked, f"{MARK}{next(number)}")
        held, params = mark("params", params)
        before, value = mark("value", value)
        given, context = mark("context", scope.context)
        answer = m.apply(params, value, scope._replace(context=context))
        after, answer = mark("answer", answer)
        where = Scope(scope.site, scope.index)
        calls.append(_Call(m, held, before, given, after, where, inner))
        return answer

    with watching(act):
        jaxpr = jax.make_jaxpr(program.apply)(*args)
    loops: set[str] = set()

    def every(*leaves: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        _replay(jaxpr, leaves, {}, seen, loops)
        return seen

    seen = jax.eval_shape(every, *jax.tree.leaves(args))
    return _Trace(calls, jaxpr, args, seen, loops)


def _marked(prefix: str, what: str, tree: PyTree) -> tuple[_Marks, PyTree]:
    """Mark the arrays of a tree: (the marks, the marked tree)."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [hasattr(a, "dtype") for a in leaves]
    names = [f"{prefix}:{what}:{i}" if a else "" for i, a in enumerate(arrays)]
    pairs = zip(leaves, names, strict=True)
    marked = [checkpoint_name(jnp.asarray(a), n) if n else a for a, n in pairs]
    return _Marks(structure, spec_of(leaves), names), structure.unflatten(marked)


def _replay(
    closed: ClosedJaxpr,
    args: Sequence[Any],
    given: Mapping[str, Any],
    seen: dict[str, Any],
    loops: set[str],
    looped: bool = False,
) -> None:
    """Run a jaxpr with the values `given` at marks, and note all marks' values."""
    jaxpr = closed.jaxpr
    inputs = (*jaxpr.constvars, *jaxpr.invars)
    values: dict[Any, Any] = dict(zip(inputs, (*closed.consts, *args), strict=True))
    for eqn in jaxpr.eqns:
        got = [v.val if isinstance(v, Literal) else values[v] for v in eqn.invars]
        if name := _mark_of(eqn):
            seen[name] = got[0]
            loops.update([name] if looped else [])
            out = [given.get(name, got[0])]
        else:
            for inner, begin, loop in _inner(eqn, got):
                _replay(inner, begin, given, seen, loops, looped or loop)
            out = _result(jaxpr, eqn, values)
        values.update(zip(eqn.outvars, out, strict=True))


def _result(jaxpr: Jaxpr, eqn: Any, values: Mapping[Any, Any]) -> list[Any]:
    """The outputs of one equation of a jaxpr."""
    reads = list({v: None for v in eqn.invars if not isinstance(v, Literal)})
    ends = {"constvars": reads, "invars": [], "outvars": [*eqn.outvars]}
    alone = jaxpr.replace(eqns=[eqn], **ends)
    return jaxpr_as_fun(ClosedJaxpr(alone, [values[v] for v in reads]))()


def _mark_of(eqn: Any) -> str:
    name = eqn.params["name"] if eqn.primitive.name == "name" else ""
    return name if name.startswith(MARK) else ""


def _inner(eqn: Any, got: list[Any]) -> Iterator[tuple[ClosedJaxpr, list[Any], bool]]:
    """The jaxprs with marks inside an equation, with their first inputs, and whether
    each is a loop's body."""
    kind, params = eqn.primitive.name, eqn.params
    begin = got
    if kind == "scan":
        n, step = params["num_consts"] + params["num_carry"], -params["reverse"]
        begin = [*got[:n], *(a[step] for a in got[n:])] if params["length"] else []
    elif kind == "while":
        begin = got[params["cond_nconsts"] :]
    elif kind == "cond":
        begin = got[1:]
    for inner in _jaxprs(eqn):
        if _has_marks(inner.jaxpr) and len(inner.jaxpr.invars) == len(begin):
            yield inner, begin, kind in ("scan", "while")


def _jaxprs(eqn: Any) -> list[ClosedJaxpr]:
    leaves = jax.tree.leaves(list(eqn.params.values()))
    closed = [ClosedJaxpr(a, ()) if isinstance(a, Jaxpr) else a for a in leaves]
    return [a for a in closed if isinstance(a, ClosedJaxpr)]


def _has_marks(jaxpr: Jaxpr) -> bool:
    inner = (closed.jaxpr for eqn in jaxpr.eqns for closed in _jaxprs(eqn))
    return any(map(_mark_of, jaxpr.eqns)) or any(map(_has_marks, inner))


def _between(
    trace: _Trace, begin: Sequence[str], end: Sequence[str]
) -> tuple[Callable[..., list[Any]], list[bool]]:
    """The trace from some marks to others, and which leaves of its args are needed.

    The function takes the leaves of the program's args, and values that replace those
    at the marks `begin`.
    """

    def answer(args: Sequence[Any], put: Sequence[Any]) -> list[Any]:
        seen: dict[str, Any] = {}
        given = dict(zip(begin, put, strict=True))
        _replay(trace.jaxpr, args, given, seen, set())
        return [seen[name] for name in end]

    leaves = jax.tree.leaves(trace.args)
    closed = jax.make_jaxpr(answer)(leaves, [trace.seen[name] for name in begin])
    jaxpr, used = dce_jaxpr(closed.jaxpr, [True] * len(end))
    call = jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))

    def run(args: Sequence[Any], put: Sequence[Any] = ()) -> list[Any]:
        pairs = zip((*args, *put), used, strict=True)
        return call(*(a for a, wanted in pairs if wanted))

    return run, used


def _cut(trace: _Trace, call: _Call, learned: int) -> Cut:
    run, used = _between(trace, call.value.all, call.answer.all)
    params, frozen, x, context = trace.args
    leaves = jax.tree.leaves(params)
    on = frozenset(i for i in range(len(leaves)) if used[i])
    looped = call.inner and bool(trace.loops & {*call.answer.all})
    held = call.params.tree(call.params.leaves)

    def apply(own: Params, value: PyTree, scope: Scope) -> Any:
        mine = {**own.learnable, **own.fixed}
        all_of = [mine.get(i, a) for i, a in enumerate(leaves)]
        args = [*all_of, *jax.tree.leaves((scope.frozen, scope.x, scope.context))]
        return call.answer.tree(run(args, _arrays(value)))

    def closed(own: Params, value: PyTree, scope: Scope) -> Any:
        args = jax.tree.leaves((params, scope.frozen, scope.x, context))
        put = [*_arrays(value), *own.fixed, *_arrays(scope.context)]
        return call.answer.tree(whole(args, put))

    scope = call.scope._replace(frozen=frozen, x=x, context=context)
    sides = [{i: leaves[i] for i in on if (i < learned) == side} for side in (1, 0)]
    own, act = Params(*sides), apply
    if not on:  # all its inputs come from elsewhere
        begin = [*call.value.all, *call.params.all, *call.context.all]
        whole, _ = _between(trace, begin, call.answer.all)
        source, _ = _between(trace, (), [*call.params.all, *call.context.all])
        found = jax.jit(source)(jax.tree.leaves(trace.args))
        n = len(call.params.all)
        own, act = Params((), found[:n]), closed
        scope = scope._replace(context=call.context.tree(found[n:]))
    spec = call.value.tree([trace.seen[name] for name in call.value.all])
    m = call.manipulation
    alone = Alone(m._replace(apply=act), own, spec, scope, 0)
    return Cut(m, alone, held, on, looped)
