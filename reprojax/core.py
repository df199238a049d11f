"""The whole library in one formula: y = O_omega . f . I_{lambda, tau, ell}(x, c).

f is a frozen model, seen as a *forward*: `forward(frozen, x, edit) -> y`. At every
named place it calls `edit(site, value) -> value`, at "input" first and at "output"
last, so a location (ell) is a key. A `Manipulation` is an operator (tau) bound to a
`Format` (lambda), and the alignment (omega) is the manipulation of "output".
`reprogram` puts manipulations at sites and gives a `Program`; applied to its params, a
program is a forward again, so programs nest.

One rule of order: **a program edits first, then hands on.** `edit(site, v)` sees the
value with which the model goes on. Where a manipulation stands, `edit("<site>/raw", v)`
came before it and saw what the manipulation was given. Of nested programs the one
nearest to the model acts first.

Source: Ye et al., Neural Network Reprogrammability, arXiv 2506.04650.
"""

import difflib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
from jax.extend.core import get_opaque_trace_state

PyTree = Any
Given = jax.Array | np.ndarray  # a caller's NumPy arrays are taken as they come
Key = jax.Array
Forward = Callable[..., Any]  # (frozen, x, edit=passthrough) -> y
Sites = tuple[str, ...]


def passthrough(site: str, value: PyTree) -> PyTree:
    """The edit that changes nothing."""
    return value


class Params(NamedTuple):
    """Everything that is not the frozen model, as two trees of the same names."""

    learnable: PyTree = ()
    """What a search updates: optax, evolution."""
    fixed: PyTree = ()
    """Demonstrations, projections, label maps, statistics: never differentiated."""


jax.export.register_namedtuple_serialization(Params, serialized_name="reprojax.Params")


class Scope(NamedTuple):
    """What a part may look at besides its own params and value. Most ignore it."""

    site: str = ""
    """Where it acts."""
    index: int = 0
    """Which of the sites that share this manipulation."""
    frozen: PyTree = ()
    """The frozen tree. An embedding table is read here, not copied or closed over."""
    x: PyTree = None
    """The task's own input, before any edit."""
    context: PyTree = None
    """The survey's c: demonstrations, another tower's features."""
    key: Key | None = None
    """Randomness. None is evaluation: no dropout, stored statistics."""
    tap: Callable[[str, PyTree], PyTree] = passthrough
    """tap(name, value) shows something that `record` may want to see."""


class Format(NamedTuple):
    """Lambda: where a prompt's numbers come from."""

    init: Callable[[Key, tuple[int, ...], Scope], Params]
    """(key, shape of the prompt, scope) -> params"""
    read: Callable[[Params, PyTree, Scope], Any]
    """(params, value, scope) -> a prompt of that shape, or one for each row"""


class Manipulation(NamedTuple):
    """Tau bound to a lambda; at the site "output" it is the alignment omega.

    `observe` and `refresh` are for manipulations that are estimated rather than
    searched, such as label maps: the sums of two batches add up, and a refresh turns
    the sums of an epoch into new `fixed` params. A label of -1 marks a row that only
    fills a batch.
    """

    init: Callable[[Key, Any, Scope], Params]
    """(key, spec of the value, or {site: spec} where it serves several, scope)"""
    apply: Callable[[Params, PyTree, Scope], Any]
    """(params, value, scope) -> value"""
    observe: Callable[[Params, PyTree, jax.Array], PyTree] | None = None
    """(params, value, labels [B]) -> sums"""
    refresh: Callable[[Params, PyTree], Params] | None = None
    """(params, sums) -> params"""


At = (
    Mapping[str, Manipulation]
    | Mapping[Sites, Manipulation]
    | Mapping[str | Sites, Manipulation]
)
"""{site, or sites that share it: manipulation}. Keys of a mapping are invariant."""


class Program(NamedTuple):
    """A forward with manipulations; `partial(apply, params)` is a forward again."""

    init: Callable[..., Params]
    """(key, frozen, x, context=None) -> params"""
    apply: Callable[..., Any]
    """(params, frozen, x, context=None, *, key=None, edit=passthrough) -> y"""
    at: tuple[tuple[Sites, Manipulation], ...]
    """What stands where. Hashable: a program can be a static argument of jit."""


def merge(parts: Mapping[str, Params]) -> Params:
    """{name: Params} -> the Params of two trees with these names."""
    learnable = {name: params.learnable for name, params in parts.items()}
    return Params(learnable, {name: params.fixed for name, params in parts.items()})


def part(params: Params, name: str) -> Params:
    """The params of one part, or of one site: the inverse of `merge`."""
    return Params(params.learnable[name], params.fixed[name])


def fold(key: Any, name: str) -> Any:
    """A key by name, so that adding a part leaves the numbers of the others alone."""
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
    """Shapes and types. What is no array (a flag among arguments) stays as it is."""

    def spec(a: Any) -> Any:
        return jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "shape") else a

    return jax.tree.map(spec, value)


def nearest(name: str, names: Iterable[str]) -> str:
    """How an error names alternatives: "; did you mean ..."."""
    close = difflib.get_close_matches(name, sorted(names), 3, 0.5)
    return f"; did you mean {' or '.join(map(repr, close))}" if close else ""


def check_sites(
    wanted: Iterable[str],
    reached: Iterable[str],
    how: str = "sites(forward, frozen, x) lists them",
) -> None:
    """Raise if the model never came to one of the wanted sites."""
    reached = set(reached)
    if missing := sorted(set(wanted) - reached):
        near = nearest(missing[0], reached)
        raise ValueError(
            f"no such site: {missing}, expected the model's own{near}; {how}"
        )


def check_frozen(frozen: PyTree) -> None:
    """Raise at a leaf of the frozen tree that jit cannot take, by its path.

    Arrays of numbers, PRNG keys and floats are taken; None is no leaf. An int or a bool
    among a module's leaves is a size or a flag, which a traced number cannot be.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(frozen):
        array = (
            isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind not in "OUS"
        )
        taken = jax.Array | jax.ShapeDtypeStruct | float
        if not array and not isinstance(leaf, taken):
            raise ValueError(
                f"the frozen tree holds {leaf!r:.60} ({type(leaf).__name__}) at "
                f"{jax.tree_util.keystr(path) or 'its root'}, expected arrays; keep "
                "functions, flags and sizes in the forward (of an equinox module: "
                "eqx.partition(module, eqx.is_array), and combine in the forward), "
                "and give numbers as jnp.asarray(number)"
            )


def reach(reached: dict[str, Any], site: str) -> None:
    """Note a site in {site: trace}; raise if the same trace came to it before.

    Another trace of the same body is no second visit: scan may trace its body twice.
    """
    now = get_opaque_trace_state()
    if reached.get(site) == now and not site.endswith("/raw"):
        raise ValueError(
            f"the model came to {site!r} twice, expected a name of its own for each "
            f"place: one edit, or one recorded value, would serve both; call "
            f'edit("{site}#2", value) at the second, and shared(...) at the tuple of '
            "both for one prompt"
        )
    reached[site] = now


def handed_on(site: str, before: PyTree, after: PyTree) -> PyTree:
    """The value with which the model goes on; raise if an edit forgot to return it."""
    if after is None and before is not None:
        raise ValueError(
            f"the edit of {site!r} returned None, expected the value with which the "
            "model goes on; return the value, changed or not"
        )
    return after


def kept_rows(site: str, before: PyTree, after: PyTree) -> PyTree:
    """What a manipulation made of a value inside the model, with as many rows.

    The model would go on with fewer, by broadcasting, and answer for the wrong ones.
    """
    rows = [_first_shape(tree)[:1] for tree in (before, after)]
    if site not in ("input", "output") and rows[0] != rows[1]:
        raise ValueError(
            f"the manipulation of {site!r} made {_first_shape(after)} of a value of "
            f"{_first_shape(before)}, expected the same first axis; return a row "
            "for each of the batch"
        )
    return after


def stateless(function: Callable[[PyTree], Any]) -> Manipulation:
    """A manipulation without params: a cast, a rule, a parser."""

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, value: PyTree, scope: Scope) -> Any:
        return function(value)

    return Manipulation(init, apply)


def chain(**parts: Manipulation) -> Manipulation:
    """One manipulation after the other, each by name."""

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        out, seen = {}, (scope.x, scope.context)
        for name, m in parts.items():
            out[name] = m.init(fold(key, name), spec, inside(scope, name))
            spec = jax.eval_shape(
                _applied(m, out[name], inside(scope, name)), spec, *seen
            )
        return merge(out)

    def apply(params: Params, value: PyTree, scope: Scope) -> Any:
        for name, m in parts.items():
            value = m.apply(part(params, name), value, inside(scope, name))
        return value

    def observe(params: Params, value: PyTree, labels: jax.Array) -> PyTree:
        sums = {}
        for name, m in parts.items():
            if m.observe is not None:
                sums[name] = m.observe(part(params, name), value, labels)
            value = m.apply(part(params, name), value, Scope())
        return sums

    def refresh(params: Params, sums: PyTree) -> Params:
        new = {name: part(params, name) for name in parts}
        for name, m in parts.items():
            if m.refresh is not None:
                new[name] = m.refresh(new[name], sums[name])
        return merge(new)

    if any(m.observe is not None for m in parts.values()):
        return Manipulation(init, apply, observe, refresh)
    return Manipulation(init, apply)


def _applied(m: Manipulation, params: Params, scope: Scope) -> Callable[..., Any]:
    """A part as a function of what `init` knows the shape of alone."""

    def apply(value: PyTree, x: PyTree, context: PyTree) -> Any:
        return m.apply(params, value, scope._replace(x=x, context=context))

    return apply


def shared(manipulation: Manipulation) -> Manipulation:
    """One manipulation with one set of params at every site of a group."""

    def init(key: Key, specs: Mapping[str, PyTree], scope: Scope) -> Params:
        return manipulation.init(key, next(iter(specs.values())), scope)

    return manipulation._replace(init=init)


def _grouped(
    at: At,
) -> tuple[dict[Sites, Manipulation], dict[str, tuple[Sites, int]]]:
    """{site or sites: Manipulation} -> that by tuples, and {site: (sites, index)}."""
    if not isinstance(at, Mapping) or not all(
        key and isinstance(key, str | tuple) for key in at
    ):
        raise ValueError(
            f"reprogram got {at!r:.80}, expected {{site, or a tuple of sites: "
            "manipulation}}; sites(forward, frozen, x) lists a model's sites"
        )
    by_sites = {(k,) if isinstance(k, str) else k: m for k, m in at.items()}
    place = {site: (sites, i) for sites in by_sites for i, site in enumerate(sites)}
    if len(place) < sum(map(len, by_sites)):
        raise ValueError(
            f"a site came twice in {sorted(s for sites in by_sites for s in sites)}; "
            "expected one manipulation each; call chain(a=..., b=...)"
        )
    for sites, m in by_sites.items():
        if not isinstance(m, Manipulation):
            raise ValueError(
                f"{sites} got {type(m).__name__}, expected a Manipulation; call an "
                "operator such as add(format), or stateless(function)"
            )
    return by_sites, place


Act = Callable[[Sites, PyTree, Scope], PyTree]  # what is done at a manipulated site


def _trace(run: Callable[[Scope, Act], PyTree], act: Act, *given: PyTree) -> set[str]:
    """Trace a program's call, without numbers; the sites that lie inside a transform.

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

    try:
        jax.eval_shape(call, *given)
    except TypeError as error:
        if not inner or "carry" not in str(error):
            raise
        raise ValueError(
            f"an edit changed what goes from layer to layer in a loop: {sorted(inner)} "
            "lie inside scan, where one site serves all layers; expected edits that "
            "keep its shape and type (add or replace, no insert); call the layers in a "
            f"Python loop, so that each has a site. JAX says: {error}"
        ) from error
    return inner


def _begun(
    m: Manipulation, key: Key, spec: PyTree, scope: Scope, sites: Sites
) -> Params:
    """m.init(key, spec, scope), saying what was wrong with a spec that is no array."""
    try:
        return m.init(key, spec, scope)
    except AttributeError as error:
        if type(spec) not in (tuple, list, dict):
            raise
        found = f"a {type(spec).__name__} of {len(spec)} parts"
        do = "take a site with one array, or an init and apply that know the parts"
        if len(sites) > 1:
            found, do = "{site: spec} of several sites", "call shared(manipulation)"
        raise ValueError(
            f"the manipulation of {sites} got {found}, where its init expected one "
            f"array ({error}); {do}"
        ) from error


@contextmanager
def _longer(inner: Iterable[str]) -> Iterator[None]:
    """Says why a batch of another size was traced, if the model takes none."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{sorted(inner)} lie inside a transform of jax, where a batch twice as "
            "long shows whether a value has a row for each of the batch, and the model "
            f"failed on it ({error}); expected a model that takes any number of rows; "
            "edit a site outside"
        ) from error


def _twice(x: PyTree, context: PyTree) -> tuple[PyTree, PyTree]:
    """The shapes of x and the context with twice as many rows."""
    rows = next((np.shape(a)[:1] for a in jax.tree.leaves(x)), ())

    def twice(a: Any) -> Any:
        if not rows or np.shape(a)[:1] != rows:
            return a
        return jax.ShapeDtypeStruct((2 * a.shape[0], *a.shape[1:]), a.dtype)

    return jax.tree.map(twice, (spec_of(x), spec_of(context)))


def _check_rows(once: Mapping[str, PyTree], twice: Mapping[str, PyTree]) -> None:
    """Raise if a value inside a transform has no row for each of the batch.

    Operators take the first axis for the batch's. A module of one example under vmap,
    lax.map or scan has none, and a prompt would lose an axis of its own. Sizes alone do
    not tell (16 tokens of each of 16 images), so a batch twice as long is compared. One
    row is a batch of one.

    Args:
        once, twice: {site: spec} of a batch, and of one with twice as many rows.
    """
    for site, spec in once.items():
        before, after = _first_shape(spec), _first_shape(twice[site])
        if before[:1] != (1,) and after[:1] != tuple(2 * n for n in before[:1] or (1,)):
            raise ValueError(
                f"the value at {site!r} is {before} for a batch and {after} for one "
                "twice as long: the model is called for one example at a time (vmap, "
                "lax.map, scan), and a prompt would lose its first axis; expected a "
                "row for each of the batch; let the module take the whole batch, or "
                "show a batch of one in a forward of your own: "
                f"edit({site!r}, value[None])[0]"
            )


def _first_shape(spec: PyTree) -> tuple[int, ...]:
    """Of the first array; a value without arrays (flags) counts as one row."""
    return next((a.shape for a in jax.tree.leaves(spec) if hasattr(a, "shape")), (1,))


def _check_call(params: Any, names: list[str], context: PyTree) -> None:
    """Raise at params of another program, or an edit in the context's place."""
    if not isinstance(params, Params):
        raise ValueError(
            f"apply got {type(params).__name__} for params, expected the Params that "
            "init gives; call Params(learnable, fixed) on their two trees"
        )
    for field, tree in params._asdict().items():
        if set(tree) != set(names):
            raise ValueError(
                f"apply got {field} params of the sites {sorted(tree)}, expected "
                f"{sorted(names)}: they are another program's; call this one's init"
            )
    if callable(context):
        raise ValueError(
            "apply got a function for the context, expected arrays; pass an edit by "
            "its name: apply(params, frozen, x, edit=...)"
        )


def reprogram(forward: Forward, at: At) -> Program:
    """A frozen forward with manipulations `at` its sites.

    A key is a site, or a tuple of sites that share one manipulation and its params. The
    params are kept under the site, or under the first of the tuple.
    """
    by_sites, place = _grouped(at)

    def run(top: Scope, act: Act) -> PyTree:
        reached: dict[str, Any] = {}

        def edit(site: str, value: PyTree) -> PyTree:
            if site not in place:
                reached[site] = None
                return handed_on(site, value, top.tap(site, value))
            reach(reached, site)
            sites, index = place[site]
            scope = inside(top, site)._replace(site=site, index=index)
            raw = handed_on(site, value, top.tap(f"{site}/raw", value))
            new = handed_on(site, raw, act(sites, raw, scope))
            new = kept_rows(site, raw, new)
            return handed_on(site, new, top.tap(site, new))

        y = forward(top.frozen, top.x, edit=edit)
        check_sites(place, reached)
        if y is None:
            raise ValueError(
                "the forward returned None, expected its answer; end it with "
                'return edit("output", y)'
            )
        return y

    def init(key: Key, frozen: PyTree, x: PyTree, context: PyTree = None) -> Params:
        # Shapes come from tracing the model: nobody types a hidden size. Who serves
        # several sites sees them all beforehand, as they are with the input edit alone.
        check_frozen(frozen)
        fold(key, "")  # refuses a number in a key's place
        specs: dict[str, PyTree] = {}
        plan: dict[Sites, PyTree] = {}

        def early(sites: Sites, value: PyTree, scope: Scope) -> PyTree:
            specs[scope.site] = spec_of(value)
            return act(sites, value, scope) if sites == ("input",) else value

        def act(sites: Sites, value: PyTree, scope: Scope) -> PyTree:
            specs[scope.site] = spec_of(value)
            group = {s: specs[s] for s in sites} if len(sites) > 1 else None
            spec = plan.setdefault(sites, group or specs[scope.site])
            params = _begun(by_sites[sites], key, spec, scope, sites)
            return by_sites[sites].apply(params, value, scope)

        def trace(act: Act, x: PyTree, context: PyTree) -> set[str]:
            return _trace(run, act, frozen, x, context)

        if any(len(sites) > 1 for sites in by_sites):
            trace(early, x, context)
        if inner := trace(act, x, context):
            seen = {site: specs[site] for site in inner}
            with _longer(inner):
                trace(act, *_twice(x, context))
            _check_rows(seen, specs)
        parts = {}
        for sites, m in by_sites.items():
            scope = Scope(sites[0], 0, frozen, x, context)
            parts[sites[0]] = m.init(fold(key, sites[0]), plan[sites], scope)
        return merge(parts)

    def apply(
        params: Params,
        frozen: PyTree,
        x: PyTree,
        context: PyTree = None,
        *,
        key: Key | None = None,
        edit: Callable[[str, PyTree], PyTree] = passthrough,
    ) -> PyTree:
        def act(sites: Sites, value: PyTree, scope: Scope) -> PyTree:
            return by_sites[sites].apply(part(params, sites[0]), value, scope)

        _check_call(params, [sites[0] for sites in by_sites], context)
        return run(Scope("", 0, frozen, x, context, key, edit), act)

    return Program(init, apply, tuple(by_sites.items()))
