"""Any flax.nnx module as a forward over a plain tree of its arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from flax.traverse_util import flatten_dict, unflatten_dict

from reprojax.core import Edit, Forward, PyTree, passthrough, spec_of
from reprojax.locations.visits import Visits, check_tree, plain, refuse, tapped

if TYPE_CHECKING:
    from flax import nnx as flax_nnx


def nnx(
    module: "flax_nnx.Module", call: Callable[[Callable, PyTree], PyTree] = plain
) -> tuple[Forward, PyTree]:
    """(forward, frozen) of a module in evaluation: no dropout, stored statistics.

    `frozen` is a dictionary by attribute names, like a linen module's "params" (list
    indices as strings), without random streams. The module itself is never changed.
    Sites are named as in `linen`; a shared module has its first path, and a module
    inside nnx.scan or nnx.vmap one site for all its layers. Graph mode, tree mode,
    nnx.jit and nnx.remat are handled; values inside them can be edited, not recorded.

    Args:
        call: how to call the module, such as
            lambda m, x: m(pixel_values=x.transpose(0, 3, 1, 2)).logits
    """
    from flax import nnx

    if not isinstance(module, nnx.Module):
        refuse("nnx", module, "a flax.nnx module")
    # graph mode, whatever flax's setting: it handles shared modules and either state
    graphdef, streams, state = nnx.split(module, nnx.RngState, ..., graph=True)
    flat = nnx.to_flat_state(state)
    arrays = {tuple(map(str, path)): v[...] for path, v in flat}
    if len(arrays) < len(flat):
        raise ValueError(
            f"{type(module).__name__} has a key both as a number and as a string; "
            "expected names that differ as strings; rename one"
        )
    variables = {  # specs alone, so that no second copy of the arrays stays alive
        tuple(map(str, path)): (path, v.replace(spec_of(v[...]))) for path, v in flat
    }
    frozen, kind = unflatten_dict(arrays), type(module).__name__
    del state, flat, arrays

    def merge(frozen: PyTree) -> Any:
        values = flatten_dict(frozen)
        check_tree("nnx", kind, map("/".join, variables), map("/".join, values))
        flat = [(p, v.replace(values[k])) for k, (p, v) in variables.items()]
        model = nnx.merge(graphdef, streams, nnx.from_flat_state(flat), copy=True)
        evaluation = {"deterministic": True, "use_running_average": True}
        model.set_attributes(**evaluation, raise_if_not_found=False, graph=True)
        return model

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        model, visits = merge(frozen), Visits(edit)
        for path, part in list(nnx.iter_modules(model, graph=True)):
            if path and callable(part):
                _tap(part, _Tap("/".join(map(str, path)), visits))
        return visits.edit("output", call(model, visits.edit("input", x)))

    return forward, frozen


@dataclass(frozen=True, eq=False)
class _Tap:
    """A static field equal to no other pass's tap: nnx.jit and nnx.remat key their
    traces by the static part, so they never reuse one with another pass's edits."""

    path: str
    visits: Visits


def _tap(module: Any, tap: _Tap) -> None:
    object.__setattr__(module, "__class__", _tapped(type(module)))
    module._reprojax_tap = tap


_tapped = cache(
    tapped
)  # one for each class: flax and jax keep registered classes forever
