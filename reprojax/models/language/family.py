"""An architecture: its module, and how other libraries name its weights."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from reprojax.models.language.layers import ACTIVATIONS
from reprojax.models.settings import Common, Config, refuse_heads
from reprojax.models.weights import Rules

Tensors = Mapping[str, np.ndarray]


class Family(NamedTuple):
    """An architecture as transformers names it.

    `rules` are those of `weights.Layout`; `prepare` converts tensors for them.
    """

    label: str
    plan: Callable[[Config, Tensors], nn.Module]
    rules: Rules
    prepare: Callable[[Tensors, Any], Tensors] = lambda tensors, module: tensors
    settings: Any = Common
    """A TypedDict of what `plan` reads in a config."""
    harmless: str = ""
    """A pattern of further keys that do not affect the forward pass."""


def clean(tensors: Tensors) -> dict[str, np.ndarray]:
    """Rename layer norms from TensorFlow's names to torch's."""

    def short(name: str) -> str:
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)

    return {short(name): value for name, value in tensors.items()}


def one_of(tensors: Tensors, name: str, copy: str) -> dict[str, np.ndarray]:
    """Remove the copy of a tied tensor; if only the copy is stored, use it.

    Raises:
        ValueError: the two differ, so the file is of an untied model.
    """
    rest = {key: value for key, value in tensors.items() if key != copy}
    if copy not in tensors:
        return rest
    own, other = tensors.get(name), tensors[copy]
    if own is not None and not np.array_equal(own, other):
        raise ValueError(
            f"{copy} differs from {name}, expected the same in a tied model; if the "
            "model is not tied, say so in its config.json: "
            '"tie_word_embeddings": false'
        )
    return {**rest, name: other if own is None else own}


def headless(config: Config) -> bool:
    """Whether the checkpoint is of the bare model, without logits."""
    refuse_heads(config, r"\w*(Model|LM|ForPreTraining)", "the language model")
    names = config.get("architectures") or ["LM"]
    return not any(re.search("LM|PreTraining", name) for name in names)


def need(config: Config, *names: str) -> Any:
    """The value of the first of these settings that is set; raise if none is."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise ValueError(
        f"the model's config has no {' or '.join(names)}, only {sorted(config)}; "
        "expected config.json as transformers writes it; fetch it again"
    )


def activation(config: Config, *names: str) -> str:
    """The name of the activation function; raise if it is not known here."""
    name = need(config, *names)
    if name not in ACTIVATIONS:
        raise ValueError(
            f"got the activation {name!r}, expected one of {sorted(ACTIVATIONS)}; "
            "write a module with it, and call language.texts(module)"
        )
    return name


def size_of_heads(width: int, heads: int) -> int:
    """The size of each head, if the heads divide the width."""
    if width % heads:
        raise ValueError(
            f"got a model of width {width} with {heads} heads, expected a divisor of "
            "the width; correct config.json"
        )
    return width // heads
