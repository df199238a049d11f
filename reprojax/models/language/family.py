"""What is known of an architecture: its module, and how others name its weights."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from reprojax.models.language.layers import ACTIVATIONS
from reprojax.models.weights import Config, Rules

Tensors = Mapping[str, np.ndarray]
WRAPPER = re.compile(r"^(bert|roberta|transformer|model)\.")
IGNORED = re.compile(
    r"pooler\..*|cls\.seq_relationship\..*|(cls\.predictions|lm_head)\.decoder\..*"
    r"|.*\.attn\.(masked_)?bias|.*\.rotary_emb\.inv_freq|.*position_ids"
)


class Family(NamedTuple):
    """An architecture as transformers names it.

    `rules` are those of `weights.Layout`; `prepare` makes tensors ready for them.
    """

    label: str
    plan: Callable[[Config, Tensors], nn.Module]
    rules: Rules
    prepare: Callable[[Tensors, Any], Tensors] = lambda tensors, module: tensors


def clean(tensors: Tensors) -> dict[str, np.ndarray]:
    """Names without wrappers, and without what no forward pass reads."""

    def short(name: str) -> str:
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", WRAPPER.sub("", name))
        return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)  # TensorFlow's names

    found = {short(name): value for name, value in tensors.items()}
    return {name: t for name, t in found.items() if not IGNORED.fullmatch(name)}


def headless(config: Config) -> bool:
    """Whether the checkpoint is of the bare model, that has no logits."""
    names = config.get("architectures") or ["LM"]
    return not any(re.search("LM|PreTraining", name) for name in names)


def need(config: Config, *names: str) -> Any:
    """The first of some settings that is there."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise ValueError(
        f"the model's config has no {' or '.join(names)}, only {sorted(config)}; "
        "expected config.json as transformers writes it; fetch it again"
    )


def activation(config: Config, *names: str) -> str:
    """The name of the activation function, one that is known here."""
    name = need(config, *names)
    if name not in ACTIVATIONS:
        raise ValueError(
            f"the activation {name!r} came, expected one of {sorted(ACTIVATIONS)}; "
            "write a module with it, and call language.texts(module)"
        )
    return name


def refuse(config: Config, **wanted: Any) -> None:
    """Refuses settings that differ from what is built here; absent ones are these."""
    for name, value in wanted.items():
        given = config.get(name)
        if given is not None and given != value:
            raise ValueError(
                f"a model with {name} = {given!r} came, expected {value!r}, the only "
                "kind that is built here; write a module for it, and call "
                "language.texts(module)"
            )
