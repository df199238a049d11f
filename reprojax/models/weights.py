"""Named tensors as a frozen tree."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from reprojax.models.settings import Config, Vision, bounded

Shapes = Mapping[str, tuple[int, ...]]
Rules = Sequence[tuple[str, str]]

# of training pixels in [0, 1], for normalisation
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

SUFFIX = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

Tensors = dict[str, np.ndarray]


class Plan(NamedTuple):
    """A model as its tensors' shapes, and a config beside them, describe it."""

    module: nn.Module
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    roles: Mapping[str, tuple[str, ...]]
    classes: int


class Layout(NamedTuple):
    """A naming scheme for an architecture's tensors.

    `rules` are (pattern of our path, their name with {} for the pattern's groups). In a
    rule for a module, SUFFIX adds ".weight", ".bias" and so on. "name#1" is the second
    third of a tensor that holds query, key and value.
    """

    label: str
    signature: str
    plan: Callable[[Shapes, Config], Plan]
    rules: Rules
    prepare: Callable[[Tensors, Plan], Tensors] = lambda tensors, plan: tensors
    names: str = ""
    """A pattern of timm's or transformers' names for architectures of this kind."""
    example: str = ""
    """One such name. Set if tensors alone do not tell this architecture from others, so
    that a bare file needs its name."""
    settings: Any = Vision
    """A TypedDict of what `plan` reads in a config."""
    harmless: str = ""
    """A pattern of keys that change nothing, or that shapes give, too."""
    arguments: str = ""
    """The same for timm's model_args."""


def shape_of(shapes: Shapes, rules: Rules, path: str, default: Sequence[int]):
    """The stored shape of our `path`; the default if it is missing or of another rank.
    (`filled` lists all misfits once a model is planned.)"""
    shape = tuple(shapes.get(origin(rules, path)[0], default))
    return shape if len(shape) == len(default) else tuple(default)


def count_numbered(shapes: Shapes, pattern: str) -> int:
    """1 + the largest number in the pattern's group; 0 if nothing matches."""
    found = (re.match(pattern, name) for name in shapes)
    return bounded(1 + max((int(m[1]) for m in found if m), default=-1), shapes)


def identify(layouts: Sequence[Layout], names: Iterable[str], source: str) -> Layout:
    """The layout whose signature matches some tensor's name."""
    names = sorted(names)
    for layout in layouts:
        if any(re.match(layout.signature, name) for name in names):
            return layout
    supported = "\n  ".join(layout.label for layout in layouts)
    raise ValueError(
        f"{source} holds none of the known architectures (its {len(names)} tensors "
        f"begin {names[:4]}), expected one of\n  {supported}\nwrap another model with "
        "reprojax.models.images(module, size, mean, std)"
    )


def frozen(layout: Layout, plan: Plan, tensors: Mapping[str, np.ndarray], dtype):
    """The filled tree of `plan.module`; raise with a list of tensors that misfit."""
    tensors = layout.prepare(dict(tensors), plan)
    x = jax.ShapeDtypeStruct((1, plan.size, plan.size, 3), jnp.float32)
    return filled(plan.module, x, layout.label, layout.rules, tensors, dtype)


def filled(
    module: nn.Module,
    x: Any,
    label: str,
    rules: Rules,
    tensors: Mapping[str, np.ndarray],
    dtype: Any,
) -> Any:
    """The tree of `module` for inputs like `x`, each leaf filled from the tensor that a
    rule names."""
    spec: Any = jax.eval_shape(module.init, jax.random.key(0), x)
    flat: dict[str, Any] = flatten_dict(spec["params"], sep="/")
    spec = {path: leaf.shape for path, leaf in flat.items()}
    origins = {path: origin(rules, path) for path in spec}
    expected = {}
    for path, (name, third) in origins.items():
        shape = _stored_shape(path, spec[path])
        expected[name] = (3 * shape[0], *shape[1:]) if third else shape
    _refuse_misfits(label, tensors, expected)
    leaves = {}
    for path, (name, third) in origins.items():
        value = tensors[name]
        value = np.split(value, 3)[int(third)] if third else value
        value = _converted(path, value.astype(np.float32), spec[path])
        leaves[path] = jnp.asarray(value, dtype)
    return {"params": unflatten_dict(leaves, sep="/")}


def origin(rules: Rules, path: str) -> tuple[str, str]:
    """A leaf's path -> its tensor's name, and which third of it ("": all)."""
    module, _, leaf = path.rpartition("/")
    for pattern, name in rules:
        for place, suffix in ((path, ""), (module, f".{SUFFIX.get(leaf, leaf)}")):
            if match := re.fullmatch(pattern, place):
                stem, _, third = name.format(*match.groups()).partition("#")
                return stem + suffix, third
    raise ValueError(f"no rule names {path}, expected one of each; add it to the rules")


def _stored_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Our shape of a leaf as torch's: [out, in, kh, kw], [out, in], flat biases."""
    leaf = path.rpartition("/")[2]
    if leaf == "kernel" and len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    if leaf == "kernel":
        return (math.prod(shape[1:]), shape[0])
    return (math.prod(shape),) if leaf == "bias" else shape


def _converted(path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if path.rpartition("/")[2] == "kernel":
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return value.reshape(shape)


def _refuse_misfits(
    label: str, tensors: Mapping[str, np.ndarray], expected: Shapes
) -> None:
    lists = {
        "missing": sorted(set(expected) - set(tensors)),
        "unexpected": sorted(set(tensors) - set(expected)),
        "misshaped": [
            f"{name} is {list(tensors[name].shape)}, expected {list(shape)}"
            for name, shape in sorted(expected.items())
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if any(lists.values()):
        lines = [
            f"\n  {kind}: {', '.join(some)}" for kind, some in lists.items() if some
        ]
        raise ValueError(
            f"the tensors do not make a {label} of the size that their shapes suggest"
            + "".join(lines)
            + "\nexpected exactly the model's; fetch the file again, or rename them"
        )
