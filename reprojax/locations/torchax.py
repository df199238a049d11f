"""A torch module as a forward in JAX, through torchax (an optional extra)."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from threading import RLock
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from reprojax.core import Edit, Forward, PyTree, passthrough
from reprojax.locations.visits import Visits, check_tree, plain, refuse


def torchax(
    module: Any, call: Callable[[Callable, Any], Any] = plain
) -> tuple[Forward, PyTree]:
    """(forward, frozen) of a torch.nn.Module in evaluation mode, under any jax
    transform.

    `frozen` holds copies of the module's parameters and buffers by path, as in
    `{"layer": {"0": {"weight": ...}}}`; the module itself is not changed. Sites are
    named as in `linen` ("layer/0:in"), and edits get jax arrays. A submodule that torch
    uses without calling it (the projections of nn.MultiheadAttention) has no site.
    TorchScript and torch.compile are refused: their submodules cannot be reached.

    Args:
        call: how to call the module, in torch's terms, such as
            lambda m, x: m(pixel_values=x.permute(0, 3, 1, 2)).logits
    """
    torch, env = _environment()
    if not isinstance(module, torch.nn.Module):
        refuse("torchax", module, "a torch.nn.Module")
    _refuse_compiled(module)
    own, kind = copy.deepcopy(module).eval(), type(module).__name__
    _register(own, torch.Tensor)
    tensors = (*own.named_parameters(), *own.named_buffers())
    frozen = {name: env.t2j_copy(t.detach()) for name, t in tensors}
    names = set(frozen)
    own.to("meta")  # frees torch's copy of the numbers
    del tensors
    frozen = unflatten_dict({tuple(k.split(".")): v for k, v in frozen.items()})
    passes: list[Visits] = []
    for path, part in own.named_modules():
        if path:
            part.forward = _tapped(part.forward, path.replace(".", "/"), passes, env)
    lock = RLock()  # a pass puts its values into the one module, so passes take turns

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        values = {".".join(k): v for k, v in flatten_dict(frozen).items()}
        check_tree("torchax", kind, names, values)
        visits = Visits(edit)
        x = visits.edit("input", x)

        def run(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(own, env.j2t_iso(values), args, kwargs)

        with lock, torch.no_grad(), env:
            passes.append(visits)
            try:
                y = env.t2j_iso(call(run, _to_torch(env, x)))
            finally:
                passes.pop()
        return visits.edit("output", y)

    return forward, frozen


def _tapped(forward: Callable, path: str, passes: list[Visits], env: Any) -> Callable:
    def tapped(*args: Any, **kwargs: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _to_torch(env, (args, kwargs))
            return env.t2j_iso(forward(*args, **kwargs))

        args, kwargs = env.t2j_iso((args, kwargs))
        return _to_torch(env, passes[-1](path, function, args, kwargs))

    return tapped


def _to_torch(env: Any, tree: Any) -> Any:
    """Arrays as torchax's tensors, without a copy; torchax takes jax arrays only."""
    from torch.utils import _pytree

    return env.j2t_iso(_pytree.tree_map_only(np.ndarray, jnp.asarray, tree))


def _refuse_compiled(module: Any) -> None:
    import torch
    from torch._dynamo import OptimizedModule

    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule | OptimizedModule):
            raise ValueError(
                f"the module {path or '<root>'!r} ({type(part).__name__}) is compiled, "
                "and its inside cannot be reached; expected a plain module; leave out "
                "torch.jit.script, torch.jit.trace or torch.compile"
            )


def _register(module: Any, tensor: type) -> None:
    """Register tensors that are plain attributes as buffers, so `frozen` has them."""
    for part in module.modules():
        plain_ones = {k: v for k, v in vars(part).items() if isinstance(v, tensor)}
        for name, value in plain_ones.items():
            delattr(part, name)
            part.register_buffer(name, value, persistent=False)


def _environment() -> tuple[Any, Any]:
    """(torch, torchax's environment)."""
    try:
        import torch

        with _named_overloads(torch):
            import torchax

            return torch, torchax.default_env()
    except ImportError as error:
        raise ValueError(
            f"a torch module needs torch and torchax, and {error.name} is not "
            "installed; pip install torch torchax"
        ) from None
    except AttributeError as error:
        raise ValueError(
            f"torchax {version('torchax')} does not load with torch {version('torch')} "
            f"({error}); expected a pair that fits; install another torch"
        ) from error


@contextmanager
def _named_overloads(torch: Any) -> Iterator[None]:
    """Let torchax 0.0.13 load with torch 2.13, which dropped operators of named tensors
    (google/torchax issue 101). While it loads, they are mere names: nothing calls them.
    """
    if hasattr(torch.ops.aten.prod, "dim_Dimname"):
        yield
        return
    packet = type(torch.ops.aten.prod)
    find = packet.__getattr__

    def look(self: Any, key: str) -> Any:
        try:
            return find(self, key)
        except AttributeError:
            if "dimname" in key.lower() or "names" in key:
                return f"{self}.{key}"
            raise

    packet.__getattr__ = look
    try:
        yield
    finally:
        packet.__getattr__ = find
