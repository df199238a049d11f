"""Who looks on while a program is traced: each manipulation that acts is reported.

The watcher is a context of its thread, and jit's caches know of it: what was traced
unwatched is traced again for a watcher, and what was traced for a watcher serves nobody
else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import jax
from jax.extend.core import get_opaque_trace_state

from reprojax.core.vocabulary import Manipulation, Params, PyTree, Scope

_WATCH = jax.make_user_context()


@runtime_checkable
class Watcher(Protocol):
    """(manipulation, params, value, scope, inner) -> what `manipulation.apply` gives.

    inner: whether the site lies inside a transform of the model, such as a scan.
    """

    def __call__(
        self,
        manipulation: Manipulation,
        params: Params,
        value: PyTree,
        scope: Scope,
        inner: bool,
        /,
    ) -> Any: ...


class _Watch:
    """Hashed by itself, so that no trace is shared between two watchers."""

    def __init__(self, act: Watcher) -> None:
        self.act: Watcher | None = act


@contextmanager
def watching(act: Watcher) -> Iterator[None]:
    """Inside, `act` is called wherever a program applies a manipulation at a site.

    However deep: also in programs within programs, and under JAX's transformations,
    where params and values are tracers.
    """
    watch = _Watch(act)
    try:
        with _WATCH(watch):
            yield
    finally:
        watch.act = None  # jit's caches keep the watch, and need not keep the rest


def acted(
    m: Manipulation, params: Params, value: PyTree, scope: Scope, began: Any
) -> Any:
    """manipulation.apply, by way of the watcher where there is one.

    Args:
        began: the trace in which its program was called.
    """
    watch = _WATCH.value
    if watch is None or watch.act is None:
        return m.apply(params, value, scope)
    return watch.act(m, params, value, scope, get_opaque_trace_state() != began)
