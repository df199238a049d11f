"""The whole library in one formula: y = O_omega . f . I_{lambda, tau, ell}(x, c).

f is a frozen model as a *forward*: `forward(frozen, x, edit) -> y`. At every named
place it calls `edit(site, value) -> value`, at "input" first and at "output" last, so a
location (ell) is a key. A `Manipulation` is an operator (tau) bound to a `Format`
(lambda); the alignment (omega) is the manipulation of "output". `reprogram` puts
manipulations at sites and gives a `Program`; `partial(program.apply, params)` is a
forward again, so programs nest.

**A program edits first, then hands on.** An outer `edit(site, v)` sees the value with
which the model continues. At a manipulated site, `edit("<site>/raw", v)` is called
before that, with the manipulation's input. Of nested programs, the innermost (nearest
to the model) acts first.

Source: Ye et al., Neural Network Reprogrammability, arXiv 2506.04650.
"""

import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

from reprojax.core import faults, guards, slips
from reprojax.core.guards import handed_on
from reprojax.core.slips import MISSING
from reprojax.core.vocabulary import (
    At,
    Edit,
    Forward,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    Sites,
    passthrough,
)
from reprojax.core.watching import acted


def merge(parts: Mapping[str, Params]) -> Params:
    """{name: Params} -> the Params of two trees with these names."""
    learnable = {name: params.learnable for name, params in parts.items()}
    return Params(learnable, {name: params.fixed for name, params in parts.items()})


def part(params: Params, name: str) -> Params:
    """The params of one part, or of one site: the inverse of `merge`."""
    return Params(params.learnable[name], params.fixed[name])


def put(params: Params, name: str, own: Params) -> Params:
    """The params with those of one part, or of one site, replaced."""
    return Params(
        {**params.learnable, name: own.learnable}, {**params.fixed, name: own.fixed}
    )


def fold(key: Any, name: str) -> Any:
    """A key derived from a name, so that adding a part does not change other parts'."""
    if isinstance(key, int | float):
        raise ValueError(
            f"got {key} for a key of randomness, expected one of JAX's; call "
            f"jax.random.key({key})"
        )
    return None if key is None else jax.random.fold_in(key, zlib.crc32(name.encode()))


def inside(scope: Scope, name: str) -> Scope:
    """The scope of a named part: its own randomness, its own prefix for taps."""
    return scope._replace(
        key=fold(scope.key, name),
        tap=lambda tapped, value: scope.tap(f"{name}/{tapped}", value),
    )


def spec_of(value: PyTree) -> PyTree:
    """Shapes and types of arrays; other leaves (a flag among arguments) are kept."""

    def spec(a: Any) -> Any:
        return jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "shape") else a

    return jax.tree.map(spec, value)


def stateless(function: Callable[[PyTree], Any]) -> Manipulation:
    """A manipulation without params: a cast, a rule, a parser."""

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, value: PyTree, scope: Scope) -> Any:
        return function(value)

    return Manipulation(init, apply)


def chain(**parts: Manipulation) -> Manipulation:
    """Apply manipulations one after the other, each under its name.

    Over texts, whose length is unknown at init, each part's init gets None as spec.
    """
    for name, m in parts.items():
        slips.check_manipulation(f"chain({name}=...)", m)

    def at(
        name: str, call: str, params: Params | None = None, value: PyTree = None
    ) -> AbstractContextManager[None]:
        where = f"its part {name!r}"
        return faults.part_at(where, parts[name], call, params, value)

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        out, seen = {}, (scope.x, scope.context)
        for name, m in parts.items():
            own = inside(scope, name)
            with at(name, "init", value=spec):
                out[name] = faults.given_params(m.init(fold(key, name), spec, own))
            if spec is not None:
                with at(name, "apply", out[name], spec):
                    call = _applied(m, out[name], own)
                    spec = jax.eval_shape(call, spec, *seen)
        return merge(out)

    def apply(params: Params, value: PyTree, scope: Scope) -> Any:
        for name, m in parts.items():
            own = part(params, name)
            with at(name, "apply", own, value):
                new = m.apply(own, value, inside(scope, name))
                value = faults.given_value(new)
        return value

    def observe(params: Params, value: PyTree, labels: jax.Array) -> PyTree:
        sums = {}
        for name, m in parts.items():
            own = part(params, name)
            if m.observe is not None:
                with at(name, "observe", own, value):
                    sums[name] = faults.check_sums(m.observe(own, value, labels))
            with at(name, "apply", own, value):
                value = m.apply(own, value, Scope())
        return sums

    def refresh(params: Params, sums: PyTree) -> Params:
        new = {name: part(params, name) for name in parts}
        for name, m in parts.items():
            if m.refresh is not None:
                with at(name, "refresh", new[name]):
                    found = m.refresh(new[name], sums[name])
                    new[name] = faults.given_params(found, "refresh")
        return merge(new)

    if any(m.observe is not None for m in parts.values()):
        return Manipulation(init, apply, observe, refresh)
    return Manipulation(init, apply)


def _applied(m: Manipulation, params: Params, scope: Scope) -> Callable[..., Any]:
    """A part as a function of the values of which `init` knows only the shapes."""

    def apply(value: PyTree, x: PyTree, context: PyTree) -> Any:
        own = scope._replace(x=x, context=context)
        return faults.given_value(m.apply(params, value, own))

    return apply


def shared(manipulation: Manipulation) -> Manipulation:
    """One manipulation with one set of params at every site of a group."""

    def init(key: Key, specs: Mapping[str, PyTree], scope: Scope) -> Params:
        return manipulation.init(key, next(iter(specs.values())), scope)

    return manipulation._replace(init=init)


def _grouped(
    at: At, align: Manipulation | None
) -> tuple[dict[Sites, Manipulation], dict[str, tuple[Sites, int]]]:
    """`at` as {tuple of sites: Manipulation}, and {site: (its tuple, its index)}."""
    slips.check_at(at)
    if align is not None:
        guards.check_alignment(at)
        at = dict(at) | {"output": align}
    by_sites = {(k,) if isinstance(k, str) else k: m for k, m in at.items()}
    place = {site: (sites, i) for sites in by_sites for i, site in enumerate(sites)}
    guards.check_once(by_sites)
    for sites, m in by_sites.items():
        slips.check_manipulation(" and ".join(map(repr, sites)), m)
    return by_sites, place


Act = Callable[[Sites, PyTree, Scope], PyTree]  # what is done at a manipulated site


def _trace(run: Callable[[Scope, Act], PyTree], act: Act, *given: PyTree) -> set[str]:
    """Trace a program's call on specs; gives the sites that lie inside a transform.

    Args:
        given: frozen, x and context.
    """
    inner: set[str] = set()

    def call(frozen: PyTree, x: PyTree, context: PyTree) -> PyTree:
        here = get_opaque_trace_state()

        def noted(sites: Sites, value: PyTree, scope: Scope) -> PyTree:
            if get_opaque_trace_state() != here:
                inner.add(scope.site)
            return act(sites, value, scope)

        return run(Scope("", 0, frozen, x, context), noted)

    with faults.loops(inner):
        jax.eval_shape(call, *given)
    return inner


def reprogram(forward: Forward, at: At, align: Manipulation | None = None) -> Program:
    """Put manipulations `at` the sites of a frozen forward: O . f . I.

    A key is a site, or a tuple of sites that share one manipulation and its params. The
    params are kept under the site, or under the first site of the tuple.

    Args:
        align: the alignment O, same as the manipulation of "output"; None leaves the
            model's answer unchanged.

    Raises:
        ValueError: here or when traced, if a site does not exist, has two
            manipulations, or a part breaks its signature.
    """
    slips.check_forward(forward)
    by_sites, place = _grouped(at, align)

    def run(top: Scope, act: Act) -> PyTree:
        reached: dict[str, Any] = {}
        passage = faults.Passage()

        def tapped(site: str, value: PyTree) -> PyTree:
            with faults.editing(site, top.tap):
                return handed_on(site, value, top.tap(site, value))

        def edited(site: str, value: PyTree) -> PyTree:
            if site not in place:
                reached[site] = None
                return tapped(site, value)
            guards.reach(reached, site)
            sites, index = place[site]
            scope = inside(top, site)._replace(site=site, index=index)
            new = act(sites, tapped(f"{site}/raw", value), scope)
            return tapped(site, new)

        def edit(site: str, value: PyTree) -> PyTree:
            new = edited(site, value)
            passage.note(site, value, new)
            return new

        with faults.running(forward, top.frozen, passage):
            y = forward(top.frozen, top.x, edit=edit)
            faults.check_answer(forward, y, reached, passage)
        guards.check_sites(place, reached)
        return y

    def started(sites: Sites, key: Key, spec: PyTree, scope: Scope) -> Params:
        m = by_sites[sites]
        with faults.part_at(faults.at_sites(sites), m, "init", value=spec):
            with faults.one_array(sites, spec):
                params = faults.given_params(m.init(key, spec, scope))
                return faults.check_arrays(params)

    def applied(
        sites: Sites, params: Params, value: PyTree, scope: Scope, began: Any = None
    ) -> PyTree:
        m, where = by_sites[sites], faults.at_sites((scope.site,))
        with faults.part_at(where, m, "apply", params, value):
            new = faults.given_value(acted(m, params, value, scope, began))
            faults.check_kept(scope.site, value, new)
            return new

    def init(
        key: Key, frozen: PyTree, x: PyTree = MISSING, context: PyTree = None
    ) -> Params:
        # Shapes come from tracing the model, so nobody types a hidden size. The init of
        # a group of sites gets all their specs at once, so a first trace (`early`), in
        # which only the input is edited, collects the specs of later sites.
        slips.check_key(key)
        slips.check_given("init", frozen, x, context)
        guards.check_frozen(frozen)
        specs: dict[str, PyTree] = {}
        plan: dict[Sites, PyTree] = {}

        def early(sites: Sites, value: PyTree, scope: Scope) -> PyTree:
            specs[scope.site] = spec_of(value)
            return act(sites, value, scope) if sites == ("input",) else value

        def act(sites: Sites, value: PyTree, scope: Scope) -> PyTree:
            specs[scope.site] = spec_of(value)
            group = {s: specs[s] for s in sites} if len(sites) > 1 else None
            spec = plan.setdefault(sites, group or specs[scope.site])
            return applied(sites, started(sites, key, spec, scope), value, scope)

        def trace(act: Act, x: PyTree, context: PyTree) -> set[str]:
            return _trace(run, act, frozen, x, context)

        if any(len(sites) > 1 for sites in by_sites):
            trace(early, x, context)
        if inner := trace(act, x, context):
            seen = {site: specs[site] for site in inner}
            with guards.longer(inner):
                trace(act, *guards.twice(spec_of((x, context))))
            guards.check_rows(seen, specs)
        parts = {}
        for sites in by_sites:
            scope, own = Scope(sites[0], 0, frozen, x, context), fold(key, sites[0])
            parts[sites[0]] = started(sites, own, plan[sites], scope)
        return merge(parts)

    def apply(
        params: Params,
        frozen: PyTree,
        x: PyTree = MISSING,
        context: PyTree = None,
        *,
        key: Key | None = None,
        edit: Edit = passthrough,
    ) -> PyTree:
        began = get_opaque_trace_state()

        def act(sites: Sites, value: PyTree, scope: Scope) -> PyTree:
            return applied(sites, part(params, sites[0]), value, scope, began)

        slips.check_given("apply", frozen, x, context)
        slips.check_params(params, [sites[0] for sites in by_sites])
        return run(Scope("", 0, frozen, x, context, key, edit), act)

    return Program(init, apply, tuple(by_sites.items()))
