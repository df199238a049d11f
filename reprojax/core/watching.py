"""Report each manipulation that acts while a program is traced.

The watcher is a thread-local user context of JAX, which is part of jit's cache key: a
function traced without a watcher is traced again for one, and a trace made for a
watcher is not reused by anyone else.
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
    """(manipulation, params, value, scope, inner) -> `manipulation.apply`'s result.

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
    """Hashed by identity, so that two watchers never share a trace."""

    def __init__(self, act: Watcher) -> None:
        self.act: Watcher | None = act


@contextmanager
def watching(act: Watcher) -> Iterator[None]:
    """Call `act` in place of each manipulation's apply inside this context.

    This includes programs within programs and calls under JAX's transformations, where
    params and values are tracers.
    """
    watch = _Watch(act)
    try:
        with _WATCH(watch):
            yield
    finally:
        watch.act = None  # jit's caches keep the watch alive; free what act refers to


def acted(
    m: Manipulation, params: Params, value: PyTree, scope: Scope, began: Any
) -> Any:
    """manipulation.apply, through the watcher if there is one.

    Args:
        began: the trace state in which its program was called.
    """
    watch = _WATCH.value
    if watch is None or watch.act is None:
        return m.apply(params, value, scope)
    return watch.act(m, params, value, scope, get_opaque_trace_state() != began)
