"""Any keras 3 model on the JAX backend as a forward over a plain tree of its arrays."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from reprojax.core import Edit, Forward, PyTree, passthrough
from reprojax.locations.visits import Visits, check_tree, plain, refuse


def keras(
    model: Any, call: Callable[[Callable, PyTree], PyTree] = plain
) -> tuple[Forward, PyTree]:
    """(forward, frozen) of a built keras model, called with training=False.

    `frozen` holds the model's weights by layer names, as in `{"dense": {"kernel":
    ...}}`, without random seeds. Sites are named as in `linen`, nested layers by path
    ("block_0/dense:in"). Name your layers: keras numbers unnamed ones on from model to
    model. The model keeps its own weights; a pass uses those of `frozen`.

    Args:
        call: how to call the model, such as lambda m, x: m({"pixels": x})["logits"]
    """
    library = sys.modules.get("keras")  # a caller who has a model has imported keras
    if library is None or not isinstance(model, library.Layer):
        refuse("keras", model, "a keras.Model")
    if (backend := library.config.backend()) != "jax":
        raise ValueError(
            f"keras computes with {backend}, expected jax; set the environment's "
            "KERAS_BACKEND=jax before keras is imported"
        )
    if not model.built:
        raise ValueError(
            f"the model {model.name!r} has no weights yet, expected a built one; call "
            "it on a batch first, or model.build(shape)"
        )
    layers = dict(_layers(model))
    calls = {path: layer.call for path, layer in layers.items()}
    variables = _variables({"": model, **layers})
    frozen = unflatten_dict({k: v.value for k, v in variables.items()}, sep="/")
    lock = RLock()  # a pass puts its taps into the one model, so passes take turns

    def run(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **{"training": False, **kwargs})

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        values = flatten_dict(frozen, sep="/")
        check_tree("keras", model.name, variables, values)
        visits = Visits(edit)
        x = visits.edit("input", x)
        weights = [(variable, values[path]) for path, variable in variables.items()]
        taps = {path: _tap(path, own, visits) for path, own in calls.items()}
        with lock, _replaced(layers, taps), library.StatelessScope(weights):
            y = call(run, x)
        return visits.edit("output", y)

    return forward, frozen


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(path, layer) of all nested layers; a shared layer has its first path."""
    seen: dict[int, str] = {}

    def walk(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
        names = set()
        for part in layer._flatten_layers(include_self=False, recursive=False):
            if part.name in names:
                raise ValueError(
                    f"two layers of {path or 'the model'!r} are named {part.name!r}, "
                    "expected names that differ; give each a name"
                )
            names.add(part.name)
            if seen.setdefault(id(part), below := f"{path}{part.name}") == below:
                yield below, part
                yield from walk(part, f"{below}/")

    return walk(model, "")


def _variables(layers: Mapping[str, Any]) -> dict[str, Any]:
    """{path: variable} of all weights, each by the innermost layer that has it."""
    owners: dict[int, tuple[str, Any]] = {}
    for path, layer in layers.items():  # an outer layer precedes its inner layers
        owners.update({id(v): (path, v) for v in layer.weights})
    found: dict[str, Any] = {}
    for path, variable in owners.values():
        name = f"{path}/{variable.name}".removeprefix("/")
        if name in found:
            raise ValueError(
                f"two weights are named {name!r}, expected names that differ; give "
                "each a name in add_weight"
            )
        found[name] = variable
    return found


def _tap(path: str, function: Callable, visits: Visits) -> Callable:
    def tapped(*args: Any, **kwargs: Any) -> Any:
        return visits(path, function, args, kwargs)

    return tapped


@contextmanager
def _replaced(
    layers: Mapping[str, Any], taps: Mapping[str, Callable]
) -> Iterator[None]:
    """The layers with taps in place of their calls. Passes may be nested."""
    before = {path: vars(layer).get("call") for path, layer in layers.items()}
    for path, layer in layers.items():
        object.__setattr__(layer, "call", taps[path])
    try:
        yield
    finally:
        for path, layer in layers.items():
            if before[path] is None:
                object.__delattr__(layer, "call")
            else:
                object.__setattr__(layer, "call", before[path])
