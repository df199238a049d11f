"""Who looks on while a program is traced: each manipulation that acts is reported.

The watcher is a context of its thread, and jit's caches know of it: what was traced
unwatched is traced again for a watcher, and what was traced for a watcher serves nobody
else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import jax

from reprojax.core.vocabulary import Manipulation, Params, PyTree, Scope

_WATCH = jax.make_user_context()


@runtime_checkable
class Watcher(Protocol):
    """(manipulation, params, value, scope) -> what `manipulation.apply` gives."""

    def __call__(
        self, manipulation: Manipulation, params: Params, value: PyTree, scope: Scope, /
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


def acted(m: Manipulation, params: Params, value: PyTree, scope: Scope) -> Any:
    """manipulation.apply, by way of the watcher where there is one."""
    watch = _WATCH.value
    act = None if watch is None else watch.act
    return (act or _apply)(m, params, value, scope)


def _apply(m: Manipulation, params: Params, value: PyTree, scope: Scope) -> Any:
    return m.apply(params, value, scope)
