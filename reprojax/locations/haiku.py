"""The result of hk.transform as a forward, by method interception."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

from reprojax.core import Edit, Forward, PyTree, passthrough
from reprojax.locations.visits import Visits, plain, refuse


def haiku(
    transformed: Any, call: Callable[[Callable, PyTree], PyTree] = plain, **kw: Any
) -> Forward:
    """`transformed.apply(frozen, None, x, **kw)` with sites at every module.

    Sites are named as haiku names params ("net/~/linear:in"). The frozen tree is what
    `init` gave: params, or {"params": params, "state": state} for
    `hk.transform_with_state`. A module called with `is_training=True` is refused.
    `hk.scan`, `hk.remat` and `hk.layer_stack` have one site for all layers and steps.

    Args:
        call: how to call the function, such as
            lambda f, x: f(x, is_training=False)["logits"]
    """
    import haiku as hk

    stateful = isinstance(transformed, hk.TransformedWithState)
    if not stateful and not isinstance(transformed, hk.Transformed):
        refuse("haiku", transformed, "what hk.transform(function) gives")
    apply, place = transformed.apply, 1 + stateful
    takes_key = list(inspect.signature(apply).parameters)[place : place + 1] == ["rng"]
    key = (None,) if takes_key else ()  # without a key, dropout raises

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        trees = _params_and_state(frozen) if stateful else (frozen,)
        visits, stacks = Visits(edit), _Stacks(trees[0])

        def intercept(next_fun: Callable, args: tuple, kwargs: dict, ctx: Any) -> Any:
            if ctx.method_name != "__call__":
                return next_fun(*args, **kwargs)
            own = next(k for k in type(ctx.module).__mro__ if "__call__" in vars(k))
            if ctx.orig_class is not own:  # super().__call__ is not a visit
                return next_fun(*args, **kwargs)
            if own.__module__ == hk.lift.__module__:
                # this call only hands the params to a scan or a vmap
                stacks.enter(ctx.module.module_name, hk.get_params())
                return next_fun(*args, **kwargs)
            path = stacks.path(ctx.module.module_name, hk.get_params())
            _refuse_training(path, ctx.orig_method, args, kwargs)
            return visits(path, next_fun, args, kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            y = apply(*trees, *key, *args, **kwargs, **kw)
            return y[0] if stateful else y

        x = visits.edit("input", x)
        with hk.intercept_methods(intercept):
            y = call(run, x)
        return visits.edit("output", y)

    return forward


class _Stacks:
    """Full paths of modules inside a transform within the function (`hk.layer_stack`).

    Such a transform names its modules without the stack's name, so its "linear" may be
    another module than the "linear" outside. The params that a module sees tell which
    transform it is in: the stack, called just before, selected them from those outside.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params, self.here = params, get_opaque_trace_state()
        self.known = [("", frozenset(params))]

    def path(self, name: str, params: Mapping[str, Any]) -> str:
        return self._prefix(name, params) + name

    def enter(self, name: str, params: Mapping[str, Any]) -> None:
        start = f"{name}/"
        inside = frozenset(k.removeprefix(start) for k in params if k.startswith(start))
        self.known.append((self._prefix(name, params) + start, inside))

    def _prefix(self, name: str, params: Mapping[str, Any]) -> str:
        for prefix, paths in reversed(self.known):
            if paths == set(params) and (prefix or self._outside(params)):
                return prefix
        raise ValueError(
            f"the module {name!r} lies in a transform within the function that names "
            "its params otherwise (transparent=True, or a transform without hk.lift), "
            "where an edit could meet another module of that name; expected one "
            "transform; call the layers in a Python loop"
        )

    def _outside(self, params: Mapping[str, Any]) -> bool:
        """Whether these are the frozen params. Inside scan or remat they are other
        tracers, so there only the names can be compared."""
        pair = jax.tree.leaves(params), jax.tree.leaves(self.params)
        same = all(a is b for a, b in zip(*pair, strict=True))
        return same or get_opaque_trace_state() != self.here


def _params_and_state(frozen: PyTree) -> tuple[Any, Any]:
    if not isinstance(frozen, Mapping) or set(frozen) != {"params", "state"}:
        found = sorted(frozen) if isinstance(frozen, Mapping) else type(frozen).__name__
        raise ValueError(
            f"haiku got {found} for the frozen tree of hk.transform_with_state, "
            'expected {"params": params, "state": state} of its init'
        )
    return frozen["params"], frozen["state"]


def _refuse_training(path: str, method: Callable, args: tuple, kwargs: dict) -> None:
    given = inspect.signature(method).bind_partial(*args, **kwargs).arguments
    if given.get("is_training") is True:
        raise ValueError(
            f"the module {path!r} was called with is_training=True, expected a frozen "
            "model in evaluation, with its stored statistics; call haiku(transformed, "
            "lambda f, x: f(x, is_training=False)), or as your function has it"
        )
