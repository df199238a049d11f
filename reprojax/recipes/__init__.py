"""Published methods, one short function each, with their papers' own settings.

`METHODS` and `ALIGNMENTS` are what the command line offers; both are plain
dictionaries, and a method of one's own needs neither.
"""

from collections.abc import Mapping
from typing import TypeVar

from reprojax.alignments import (
    bayesian,
    bayesian_plus,
    columns,
    linear,
    mean_probability,
    one_to_one,
    random_map,
)
from reprojax.core.guards import nearest
from reprojax.recipes.controls import linear_probe, no_prompt
from reprojax.recipes.method import Alignment, BlackBox, Method, Preset
from reprojax.recipes.model_reprogramming import (
    adversarial_reprogramming,
    black_box_reprogramming,
    padding,
    sample_specific_masks,
    visual_prompting,
    watermark,
)
from reprojax.recipes.model_reprogramming.adversarial_reprogramming import METHOD as _AR
from reprojax.recipes.model_reprogramming.black_box_reprogramming import METHOD as _BAR
from reprojax.recipes.model_reprogramming.label_mapping import PADDING, WATERMARK
from reprojax.recipes.model_reprogramming.sample_specific_masks import METHOD as _SMM
from reprojax.recipes.model_reprogramming.visual_prompting import METHOD as _VP
from reprojax.recipes.prompt_tuning import black_vip, vpt_deep, vpt_shallow
from reprojax.recipes.prompt_tuning.black_box_visual_prompting import METHOD as _VIP
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import DEEP, SHALLOW

T = TypeVar("T")

METHODS: dict[str, Method] = {
    "ar": _AR,
    "vp": _VP,
    "padding": PADDING,
    "watermark": WATERMARK,
    "smm": _SMM,
    "vpt-shallow": SHALLOW,
    "vpt-deep": DEEP,
    "bar": _BAR,
    "blackvip": _VIP,
}

ALIGNMENTS: dict[str, Alignment] = {
    "first": Alignment(lambda targets: columns(range(targets)), "once"),
    "rlm": Alignment(random_map, "once"),
    "flm": Alignment(one_to_one, "once"),
    "ilm": Alignment(one_to_one, "epoch"),
    "blm": Alignment(bayesian, "epoch"),
    "blm+": Alignment(bayesian_plus, "epoch"),
    "bar": Alignment(mean_probability, "once"),
    "linear": Alignment(
        lambda targets: linear(targets, bias=False), "once", probable=False
    ),
}


def _find(kind: str, name: str, table: Mapping[str, T]) -> T:
    if not isinstance(name, str) or name not in table:
        raise ValueError(
            f"no {kind} {name!r}{nearest(str(name), table)}; expected one of "
            f"{', '.join(table)}"
        )
    return table[name]


def find_method(name: str) -> Method:
    """The method of a name, or an error with the nearest names."""
    return _find("method", name, METHODS)


def find_alignment(name: str) -> Alignment:
    """The alignment of a name, or an error with the nearest names.

    "blm+15" is BLM+ that counts the 15 largest probabilities of each answer.
    """
    if isinstance(name, str) and name.startswith("blm+") and name[4:].isdecimal():
        k = int(name[4:])
        return Alignment(lambda targets: bayesian_plus(targets, k), "epoch")
    return _find("alignment", name, ALIGNMENTS)


__all__ = [
    "ALIGNMENTS",
    "Alignment",
    "BlackBox",
    "METHODS",
    "Method",
    "Preset",
    "adversarial_reprogramming",
    "black_box_reprogramming",
    "black_vip",
    "find_alignment",
    "find_method",
    "linear_probe",
    "no_prompt",
    "padding",
    "sample_specific_masks",
    "visual_prompting",
    "vpt_deep",
    "vpt_shallow",
    "watermark",
]
