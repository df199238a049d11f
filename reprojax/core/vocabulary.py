"""The nouns of the library: params, and the pairs of functions that use them.

A user's own parts are plain functions. These protocols give their signatures, so that a
type checker finds a wrong one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.export
import numpy as np

PyTree = Any
Given = jax.Array | np.ndarray  # arrays from a caller, who may use NumPy
Key = jax.Array
Sites = tuple[str, ...]


@runtime_checkable
class Edit(Protocol):
    """The function called at a site: (site, value) -> the value that the model uses.

    A tap has the same signature: tap(name, value).
    """

    def __call__(self, site: str, value: PyTree, /) -> PyTree: ...


def passthrough(site: str, value: PyTree) -> PyTree:
    """The edit that changes nothing."""
    return value


@runtime_checkable
class Forward(Protocol):
    """A frozen model: (frozen, x, edit=passthrough) -> y.

    It calls edit at each named place, at "input" first and at "output" last, and
    continues with the value that edit returns.
    """

    def __call__(
        self, frozen: PyTree, x: PyTree, /, *, edit: Edit = passthrough
    ) -> PyTree: ...


class Params(NamedTuple):
    """Everything that is not the frozen model, as two trees of the same names."""

    learnable: PyTree = ()
    """What a search updates: optax, evolution."""
    fixed: PyTree = ()
    """Demonstrations, projections, label maps, statistics: never differentiated."""


jax.export.register_namedtuple_serialization(Params, serialized_name="reprojax.Params")


class Scope(NamedTuple):
    """What a part may read besides its own params and value. Most parts ignore it."""

    site: str = ""
    """The site at which the part acts."""
    index: int = 0
    """The position of that site among the sites that share this manipulation."""
    frozen: PyTree = ()
    """The frozen tree. An embedding table is read here, not copied or closed over."""
    x: PyTree = None
    """The task's own input, before any edit."""
    context: PyTree = None
    """The survey's c: demonstrations, another tower's features."""
    key: Key | None = None
    """Randomness. None means evaluation: no dropout, stored statistics."""
    tap: Edit = passthrough
    """tap(name, value) makes a value of the part visible to `record`."""


@runtime_checkable
class FormatInit(Protocol):
    """(key, shape of the prompt, scope) -> params"""

    def __call__(self, key: Key, shape: tuple[int, ...], scope: Scope, /) -> Params: ...


@runtime_checkable
class Read(Protocol):
    """(params, value, scope) -> a prompt of init's shape, or one for each row"""

    def __call__(self, params: Params, value: PyTree, scope: Scope, /) -> Any: ...


@runtime_checkable
class ManipulationInit(Protocol):
    """(key, spec of the value, or {site: spec} of several sites, scope) -> params"""

    def __call__(self, key: Key, spec: Any, scope: Scope, /) -> Params: ...


@runtime_checkable
class ManipulationApply(Protocol):
    """(params, value, scope) -> value"""

    def __call__(self, params: Params, value: PyTree, scope: Scope, /) -> Any: ...


@runtime_checkable
class Observe(Protocol):
    """(params, value, labels [B]) -> sums; sums of several batches add up"""

    def __call__(self, params: Params, value: PyTree, labels: Any, /) -> PyTree: ...


@runtime_checkable
class Refreshed(Protocol):
    """(params, sums) -> params"""

    def __call__(self, params: Params, sums: PyTree, /) -> Params: ...


class Format(NamedTuple):
    """Lambda: where a prompt's numbers come from."""

    init: FormatInit
    read: Read


class Manipulation(NamedTuple):
    """Tau bound to a lambda; at the site "output" it is the alignment omega.

    `observe` and `refresh` are for manipulations that are estimated rather than
    searched, such as label maps: `observe` gives sums that add up over batches, and
    `refresh` turns the sums of an epoch into new `fixed` params. A label of -1 marks a
    row that only fills a batch.
    """

    init: ManipulationInit
    apply: ManipulationApply
    observe: Observe | None = None
    refresh: Refreshed | None = None


At = (
    Mapping[str, Manipulation]
    | Mapping[Sites, Manipulation]
    | Mapping[str | Sites, Manipulation]
)
"""{site, or tuple of sites that share it: manipulation}. Three cases, because the key
type of a Mapping is invariant: {str: ...} is not accepted as {str | Sites: ...}."""


@runtime_checkable
class Editable(Protocol):
    """Anything that takes `edit=`: a forward, a program's apply, a partial of one."""

    def __call__(self, *args: Any, edit: Edit = passthrough, **kw: Any) -> Any: ...


@runtime_checkable
class Recorded(Protocol):
    """What `record` gives: the same call, which returns (y, {site: value})."""

    def __call__(
        self, *args: Any, edit: Edit = passthrough, **kw: Any
    ) -> tuple[Any, dict[str, Any]]: ...


@runtime_checkable
class Init(Protocol):
    """(key, frozen, x, context=None) -> params; x may be ShapeDtypeStructs."""

    def __call__(
        self, key: Key, frozen: PyTree, x: PyTree, context: PyTree = None
    ) -> Params: ...


@runtime_checkable
class Apply(Protocol):
    """(params, frozen, x, context=None, *, key=None, edit=passthrough) -> y"""

    def __call__(
        self,
        params: Params,
        frozen: PyTree,
        x: PyTree,
        context: PyTree = None,
        *,
        key: Key | None = None,
        edit: Edit = passthrough,
    ) -> PyTree: ...


class Program(NamedTuple):
    """A forward with manipulations; `partial(apply, params)` is a forward again."""

    init: Init
    apply: Apply
    at: tuple[tuple[Sites, Manipulation], ...]
    """Sites and their manipulations. Hashable, so a program can be static under jit."""

    def __repr__(self) -> str:
        from reprojax.core.names import name_of

        lines = [f"  {', '.join(sites)}: {name_of(m)}\n" for sites, m in self.at]
        return f"{type(self).__name__}(\n{''.join(lines)})" if lines else "Program()"
