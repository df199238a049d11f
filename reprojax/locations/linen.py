"""Any flax.linen module as a forward, by method interception."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import flax.linen as nn
from flax.core import lift
from jax.extend.core import get_opaque_trace_state

from reprojax.core import Forward, PyTree, passthrough


def linen(module: nn.Module, **kw: Any) -> Forward:
    """`module.apply(frozen, x, **kw)` with a name for every submodule.

    A submodule has the sites "<path>:call" (its arguments, a tuple and a dict),
    "<path>:in" (the first of the tuple) and "<path>:out". One that is called again in
    the same pass (a tied embedding) has "<path>#2:in" and so on. `nn.jit` is refused:
    its one compiled body serves all layers of a class, and later programs too, with the
    first one's edits.
    """
    _refuse_jit(type(module), "<root>")

    def forward(frozen: PyTree, x: PyTree, edit: Callable = passthrough) -> PyTree:
        visits, here = Counter(), get_opaque_trace_state()

        def intercept(next_fun: Callable, args: tuple, kwargs: dict, ctx: Any) -> Any:
            path = "/".join(ctx.module.path)
            _refuse_jit(type(ctx.module), path or str(ctx.module.name))
            if ctx.method_name != "__call__" or not path:
                return next_fun(*args, **kwargs)
            if get_opaque_trace_state() == here:  # a scanned body may be traced more
                visits[path] += 1  # than once: never number it
                if visits[path] > 1:
                    path = f"{path}#{visits[path]}"
            args, kwargs = edit(f"{path}:call", (args, kwargs))
            if args:  # a module may be called by keywords alone
                args = (edit(f"{path}:in", args[0]), *args[1:])
            return edit(f"{path}:out", next_fun(*args, **kwargs))

        x = edit("input", x)
        with nn.intercept_methods(intercept):
            y = module.apply(frozen, x, **kw)
        return edit("output", y)

    return forward


def _refuse_jit(kind: type, path: str) -> None:
    if _is_jitted(kind):
        raise ValueError(
            f"the module {path!r} ({kind.__name__}) is wrapped in nn.jit, which edits "
            "the wrong layers in silence; expected a plain module; drop nn.jit (the "
            "frozen tree fits both, and the whole call can be jitted)"
        )


@cache
def _is_jitted(kind: type) -> bool:
    """Whether nn.jit made a class or one of its methods.

    Names do not tell (a decorated method changes none, and a Jitter is no jit), but
    what nn.jit wraps has `lift.jit` in its closure.
    """
    methods = (f for base in kind.__mro__ for f in vars(base).values())
    return any(_holds_jit(method) for method in methods)


def _holds_jit(function: Any) -> bool:
    while function is not None:
        cells = getattr(function, "__closure__", None) or ()
        names = function.__code__.co_freevars if cells else ()
        for name, cell in zip(names, cells, strict=True):
            if name == "transform" and cell.cell_contents is lift.jit:
                return True
        function = getattr(function, "__wrapped__", None)
    return False
