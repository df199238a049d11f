"""The identity of a run: a digest of everything that its numbers depend on.

The `repr` of a closure says nothing about it, so a function is identified by its jaxpr
on abstract inputs: every operation, every setting that became a constant (a rate, a
kernel's size, the steps of a schedule), and the bytes of each array that it closes
over. Names of functions and memory addresses are left out.

A jaxpr does not show what a callback into Python computes, so a run with one raises
unless its caller names it (`identity`). Nor does it show the compiler's flags.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import Mesh

from reprojax.core import Program, PyTree, estimation, record
from reprojax.core.trees import fingerprint

FORMAT = 4
"""Increased when the library's own loop changes its numbers or its ingredients."""
SILENT = {"debug_callback", "debug_print"}  # primitives that change no value
# Parameters that change no value, or whose effect is in the traced gradient.
SKIPPED = {"name", "policy", "jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"}
ADDRESS = re.compile(r"\bat 0x")


class Traced(NamedTuple):
    """A function that was traced, not run."""

    digest: str
    out: PyTree
    """Specs of its values."""
    opaque: frozenset[str] = frozenset()
    """Primitives whose meaning no jaxpr shows: callbacks into Python."""


def traced(function: Callable[..., Any], *specs: PyTree) -> Traced:
    """Identify a function by its jaxpr. The digest is the same in all processes."""
    closed, out = jax.make_jaxpr(function, return_shape=True)(*specs)
    opaque: set[str] = set()
    digest = _closed(closed, opaque, {})
    return Traced(digest.hex()[:32], out, frozenset(opaque))


def of_run(
    program: Program,
    optimizer: optax.GradientTransformation,
    evaluated: Callable[..., Any] | None,
    loss: Callable[..., Any],
    observe: Callable[..., PyTree],
    score: Callable[[PyTree], Any],
    sites: tuple[str, ...],
    frozen: PyTree,
    x: PyTree,
    labels: Any,
    context: PyTree,
    own: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """{ingredient: digest or value} of a run that trains.

    Args:
        loss: (recorded, labels, learnable, x, context, key, step) -> values.
        observe: (recorded, labels, learnable, x, context) -> the sums of the metric.
        score: these sums, as NumPy arrays -> a number.
        x, labels, context: specs of a batch.
        own: the caller's additions.

    Raises:
        ValueError: something calls back into Python, and `own` is empty.
    """
    given = program, sites, frozen, x, labels, context, jax.grad
    whole, seen, learnable = _of_program(*given)
    begun = traced(optimizer.init, learnable)
    moved = traced(_moves(optimizer), learnable, begun.out, learnable)
    parts = {"program": whole, "optimizer": [begun, moved]}
    parts |= {
        "loss": [traced(_slope(loss), seen, labels, learnable, *_more(x, context))]
    }
    sums = traced(observe, seen, labels, learnable, x, context)
    parts |= {"metric": [sums, _scored(score, sums.out)]}
    if evaluated is not None:
        parts["evaluated"] = [traced(evaluated, begun.out, learnable)]
    found = {"frozen": of_weights(frozen), "record_sites": [*sites]}
    return {"evaluated": None} | named(parts, own) | found


def of_asking(
    program: Program,
    loss: Callable[..., Any],
    sites: tuple[str, ...],
    answers: PyTree,
    x: PyTree,
    labels: Any,
    context: PyTree,
    own: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """As `of_run`, for a run that queries a model and has no gradients."""
    given = program, sites, answers, x, labels, context, _no_gradient
    parts, *given = _of_program(*given)
    judged = traced(loss, given[0], labels, given[1], *_more(x, context))
    return named({"program": parts, "loss": [judged]}, own)


def _no_gradient(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return function


def _of_program(
    program: Program,
    sites: tuple[str, ...],
    frozen: PyTree,
    x: PyTree,
    labels: Any,
    context: PyTree,
    gradient: Callable[..., Any],
) -> tuple[list[Traced], PyTree, PyTree]:
    """A program's traced functions, and the specs of what is recorded and learned."""
    key = jax.eval_shape(jax.random.key, 0)
    first = traced(program.init, key, frozen, x, context)
    answers = traced(program.apply, first.out, frozen, x, context)
    run = _step(program, sites, gradient)
    step = traced(run, first.out, frozen, x, context, labels, key)
    seen, sums = step.out[1]
    refreshed = traced(_refreshed(program), first.out, sums)
    return [first, answers, step, refreshed], seen, first.out.learnable


def _refreshed(program: Program) -> Callable[..., Any]:
    return lambda params, sums: estimation.refresh(program, params, sums)


def _step(
    program: Program, sites: tuple[str, ...], gradient: Callable[..., Any]
) -> Callable[..., Any]:
    """Values in training, and the gradient of their sum, which shows backward rules."""
    wanted = ("output", *estimation.raw_sites(program), *sites)
    call = record(program.apply, wanted, also=estimation.is_news)

    def run(params: Any, *every: PyTree) -> Any:
        *given, labels, key = every

        def total(learnable: PyTree) -> tuple[Any, Any]:
            _, seen = call(params._replace(learnable=learnable), *given, key=key)
            sums = estimation.observe(program, params, seen, labels)
            return _sum(seen), (seen, sums)

        return gradient(total, has_aux=True, allow_int=True)(params.learnable)

    return run


def _more(x: PyTree, context: PyTree) -> tuple[PyTree, PyTree, Any, Any]:
    """The specs of what else a loss may see: x, the context, a key and the step."""
    key = jax.eval_shape(jax.random.key, 0)
    return x, context, key, jax.ShapeDtypeStruct((), "int32")


def _moves(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """An update, with the arguments of optimisers that evaluate the loss."""
    update = optax.with_extra_args_support(optimizer).update

    def run(grads: PyTree, state: PyTree, learnable: PyTree) -> Any:
        more = {"value": jnp.zeros(()), "grad": grads, "value_fn": _sum}
        return update(grads, state, learnable, **more)

    return run


def _slope(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss and the gradient of its sum, with respect to values and params."""

    def run(seen: PyTree, labels: Any, learnable: PyTree, *more: Any) -> Any:
        def total(given: tuple[PyTree, PyTree]) -> tuple[Any, Any]:
            value = loss(given[0], labels, given[1], *more)
            return _sum(value), value

        return jax.grad(total, has_aux=True, allow_int=True)((seen, learnable))

    return run


def _scored(score: Callable[[PyTree], Any], sums: PyTree) -> Traced:
    """Identify a function of NumPy arrays, which has no jaxpr, by its random values.

    Its values on random sums count to six digits, because the last ones depend on the
    machine. If it rejects the sums (a negative variance), the error's type counts.
    """
    draw, found = np.random.default_rng(0), []
    for size in (2, 20, 200, 2000):
        one = lambda a, size=size: draw.uniform(1, size, a.shape).astype(a.dtype)[()]
        given = jax.tree.map(one, sums)
        with np.errstate(all="ignore"):
            try:
                values = np.ravel(score(given))
                found += [f"{value:.6g}" for value in values.tolist()]
            except (ArithmeticError, ValueError) as error:
                found.append(type(error).__name__)
    return Traced(_joined(found), sums)


def _sum(tree: PyTree) -> Any:
    leaves = [jnp.asarray(a) for a in jax.tree.leaves(tree)]
    real = [jnp.real(a) for a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)]
    return sum((a.astype(jnp.float32).sum() for a in real), jnp.zeros(()))


def named(
    parts: Mapping[str, Sequence[Traced]], own: Mapping[str, Any] | None
) -> dict[str, Any]:
    """{ingredient: digest}, {"identity.<name>": the caller's}, and the machine.

    Raises:
        ValueError: something calls back into Python, and `own` is empty.
    """
    found = {
        name: _joined([one.digest for one in each]) for name, each in parts.items()
    }
    opaque = {
        f"{name}: {what}"
        for name, each in parts.items()
        for one in each
        for what in one.opaque
    }
    if opaque and not own:
        raise ValueError(
            f"the run calls back into Python ({', '.join(sorted(opaque))}), whose "
            "computation cannot be compared when the run is resumed, expected a name "
            'for it; give identity={"callback": "its name and version"}'
        )
    added = {f"identity.{name}": value for name, value in (own or {}).items()}
    # Bits differ between devices and between versions of JAX.
    place = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    return {"format": FORMAT, **found, **place, **added}


def of_mesh(mesh: Mesh | None) -> dict[str, int] | None:
    """{axis: number of devices}"""
    return None if mesh is None else dict(mesh.shape)


def of_weights(frozen: PyTree) -> str:
    """The fingerprint of weights that may be spread over several processes."""

    def here(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return fingerprint(jax.tree.map(here, frozen))


# -- a jaxpr as bytes


def _joined(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _closed(closed: ClosedJaxpr, opaque: set[str], known: dict[int, bytes]) -> bytes:
    """The digest of a jaxpr with its constants, cached in `known` by identity."""
    if id(closed) not in known:
        total = hashlib.sha256()
        for const in closed.consts:
            total.update(_array(const))
        for piece in _pieces(closed.jaxpr, opaque, known):
            total.update(piece + b"\0")
        known[id(closed)] = total.digest()
    return known[id(closed)]


def _pieces(jaxpr: Jaxpr, opaque: set[str], known: dict[int, bytes]) -> Iterator[bytes]:
    numbers: dict[Any, int] = {}

    def new(variable: Any) -> str:
        numbers[variable] = len(numbers)
        return str(variable.aval)

    def used(atom: Any) -> bytes:
        if isinstance(atom, Literal):
            return _array(atom.val) + str(atom.aval).encode()
        return str(numbers[atom]).encode()

    yield " ".join(map(new, [*jaxpr.constvars, *jaxpr.invars])).encode()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in SILENT:
            continue
        yield eqn.primitive.name.encode()
        yield from map(used, eqn.invars)
        for name in sorted(set(eqn.params) - SKIPPED):
            yield name.encode() + b"="
            yield from _value(eqn.params[name], eqn.primitive.name, opaque, known)
        yield " ".join(map(new, eqn.outvars)).encode()
    yield from map(used, jaxpr.outvars)


def _value(
    value: Any, owner: str, opaque: set[str], known: dict[int, bytes]
) -> Iterator[bytes]:
    """The bytes of a primitive's parameter."""
    if isinstance(value, ClosedJaxpr):
        yield _closed(value, opaque, known)
    elif isinstance(value, Jaxpr):
        yield from _pieces(value, opaque, known)
    elif isinstance(value, (np.ndarray, jax.Array)):
        yield _array(value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _value(value[key], owner, opaque, known)
    elif isinstance(value, (set, frozenset)):
        yield " ".join(sorted(map(str, value))).encode()
    elif isinstance(value, (tuple, list)) and type(value).__str__ is object.__str__:
        yield f"{len(value)}(".encode()
        for each in value:
            yield from _value(each, owner, opaque, known)
    elif ADDRESS.search(str(value)) or _is_function(value):
        opaque.add(owner)
    else:
        yield str(value).encode()


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, Mesh))


def _array(value: Any) -> bytes:
    """The digest of an array or number; for typed keys, of their key data."""
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.ascontiguousarray(value)
    head = f"{array.dtype}{np.shape(value)}".encode()
    return hashlib.sha256(head + array.tobytes()).digest()
