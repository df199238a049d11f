"""Any flax.linen module as a forward, by method interception."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jax.extend.core import get_opaque_trace_state

from reprojax.core import Forward, PyTree, passthrough


def linen(module: nn.Module, **kw: Any) -> Forward:
    """`module.apply(frozen, x, **kw)` with a name for every submodule.

    A submodule has the sites "<path>:call" (its arguments: a tuple and a dict), "<path>:in"
    (the first argument) and "<path>:out". One that is called again in the same pass (a
    tied embedding) has "<path>#2:in" and so on. `nn.jit` is refused: one compiled body
    would serve all layers of a class, and edit the wrong ones.
    """

    def forward(frozen: PyTree, x: PyTree, edit: Callable = passthrough) -> PyTree:
        visits, here = Counter(), get_opaque_trace_state()

        def intercept(next_fun: Callable, args: tuple, kwargs: dict, ctx: Any) -> Any:
            if ctx.method_name != "__call__" or not ctx.module.path:
                return next_fun(*args, **kwargs)
            path = "/".join(ctx.module.path)
            _refuse_jit(ctx.module, path)
            if get_opaque_trace_state() == here:  # a scanned body may be traced more
                visits[path] += 1  # than once: never number it
                if visits[path] > 1:
                    path = f"{path}#{visits[path]}"
            args, kwargs = edit(f"{path}:call", (args, kwargs))
            value = edit(f"{path}:in", args[0])
            return edit(f"{path}:out", next_fun(value, *args[1:], **kwargs))

        x = edit("input", x)
        with nn.intercept_methods(intercept):
            y = module.apply(frozen, x, **kw)
        return edit("output", y)

    return forward


def _refuse_jit(module: nn.Module, path: str) -> None:
    # nn.jit names the class that it makes after itself; nothing else tells it apart.
    if "Jit" in type(module).__name__:
        raise ValueError(
            f"the module {path!r} is wrapped in nn.jit, which edits the wrong layers in "
            "silence; expected a plain module; drop nn.jit (the frozen tree fits both)"
        )
