"""Any flax.linen module as a forward, by method interception."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
from flax.core import lift

from reprojax.core import Edit, Forward, PyTree, passthrough
from reprojax.locations.visits import Visits, plain, refuse


def linen(
    module: nn.Module,
    call: Callable[[Callable, PyTree], PyTree] = plain,
    **kw: Any,
) -> Forward:
    """`module.apply(frozen, x, **kw)` with sites at every submodule.

    Its sites are those of `Visits`: "<path>:call", "<path>:in" and "<path>:out", and
    "<path>#2:in" at the second call. The layers of `nn.scan` have one path, so an edit
    there serves them all. `nn.jit` is refused: its one compiled body serves all layers
    of a class, and later programs too, with the first program's edits.

    Args:
        call: how to call the module, such as
            lambda m, x: m(pixel_values=x.transpose(0, 3, 1, 2)).logits
    """
    if not isinstance(module, nn.Module):
        refuse("linen", module, "a flax.linen module")
    if module.scope is not None:
        raise ValueError(
            f"linen got {type(module).__name__} bound to its variables, expected a "
            "plain module, whose variables are the frozen tree; call linen on the "
            "first of module.unbind(), and take the second for the tree"
        )
    _refuse_jit(type(module), "<root>")

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        visits = Visits(edit)

        def intercept(next_fun: Callable, args: tuple, kwargs: dict, ctx: Any) -> Any:
            path = "/".join(ctx.module.path)
            _refuse_jit(type(ctx.module), path or str(ctx.module.name))
            if ctx.method_name != "__call__" or not path:
                return next_fun(*args, **kwargs)
            return visits(path, next_fun, args, kwargs)

        x = visits.edit("input", x)
        with nn.intercept_methods(intercept):
            y = call(partial(module.apply, frozen, **kw), x)
        return visits.edit("output", y)

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

    Names cannot tell: a decorated method keeps its name, and a class may be called
    Jitter. But what nn.jit wraps has `lift.jit` in its closure.
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
