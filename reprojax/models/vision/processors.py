"""Preprocessing and class names from the files beside an image model's weights."""

from collections.abc import Sequence
from typing import Any, TypedDict

from reprojax.models.settings import Config, Positive, refuse, settings
from reprojax.saving.files import checked


class Looks(TypedDict, total=False):
    """The keys of preprocessor_config.json that are read."""

    size: int | list[int] | dict[str, int | None]
    crop_size: int | list[int] | dict[str, int | None]
    do_center_crop: bool
    do_rescale: bool
    rescale_factor: Positive
    do_normalize: bool
    image_mean: list[float]
    image_std: list[float]
    do_flip_channel_order: bool
    offset: bool
    rescale_offset: bool
    include_top: bool


class TimmLooks(TypedDict, total=False):
    """The keys of pretrained_cfg that are read."""

    input_size: list[int]
    mean: list[float]
    std: list[float]


RESIZING = (
    "do_(resize|convert_rgb|pad|reduce_labels)|resample|(image_processor|feature_"
    "extractor)_type|crop_pct|default_to_square|(input_)?data_format|return_tensors"
    "|device|disable_grouping|pad_size|size_divisor|image_seq_length|interpolation"
)


def described(
    model: str, looks: Config, config: Config, ignore: Sequence[str]
) -> dict[str, Any]:
    """Size, mean, std and classes that the files beside the weights give; None if not.

    Args:
        looks: preprocessor_config.json; without it, timm's pretrained_cfg is used.
        config: config.json, its settings checked.
        ignore: keys to ignore at the caller's request.
    """
    name = f"{model}'s preprocessor_config.json"
    looks = settings(looks, Looks, name, RESIZING, ignore)
    refuse(looks, name, do_flip_channel_order=False, offset=False, rescale_offset=False)
    timm = config.get("pretrained_cfg") or {}
    timm = {k: v for k, v in timm.items() if k in TimmLooks.__annotations__ and v}
    checked(timm, TimmLooks, f"pretrained_cfg in {model}'s config.json")
    crop = looks.get("crop_size") if looks.get("do_center_crop") else None
    side = side_of(crop or looks.get("size") or timm.get("input_size", [])[1:], name)
    mean, std = _constants(looks, name)
    mean, std = mean or timm.get("mean"), std or timm.get("std")
    classes = _names(config, f"{model}'s config.json") or None
    return {"size": side, "mean": mean, "std": std, "classes": classes}


def _constants(looks: Config, name: str) -> tuple[Any, Any]:
    """Mean and std of pixels in [0, 1]. A processor may omit either of its steps, and
    its own constants apply to pixels that it has rescaled. EfficientNet's divides by
    the std again if it has `include_top`."""
    mean, std = looks.get("image_mean"), looks.get("image_std")
    if looks.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    if looks.get("include_top"):
        if not (again := looks.get("image_std")):
            raise ValueError(
                f"{name} has include_top without image_std, expected it, because this "
                "step divides by it; add it, or call load(..., ignore=['include_top'])"
            )
        std = [one * two for one, two in zip(std or (), again, strict=False)]
    scale = 1.0 if looks.get("do_rescale") is False else looks.get("rescale_factor")
    if mean is None or std is None or scale is None:
        return mean, std
    # keep the constants exactly as written if the factor is 1 / 255
    scale = 1.0 if abs(255 * scale - 1) < 1e-6 else 255 * scale
    return [m / scale for m in mean], [s / scale for s in std]


def _names(config: Config, name: str) -> tuple[str, ...]:
    """The class names, of transformers or timm."""
    labels = config.get("id2label") or config.get("label_names") or ()
    if not isinstance(labels, dict):
        return tuple(labels)
    if {*labels} != {str(i) for i in range(len(labels))}:
        raise ValueError(
            f"{name} has names for the classes {sorted(labels)[:5]} ..., expected one "
            "for each number from 0; call load(..., classes=[...])"
        )
    return tuple(str(labels[str(i)]) for i in range(len(labels)))


def side_of(size: Any, name: str) -> int | None:
    """The side from {"height", "width"}, {"shortest_edge"}, [height, width] or a
    number."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [size.get("height") or edge, size.get("width") or edge]
    if isinstance(size, list):
        if len({*size}) > 1:
            raise ValueError(
                f"{name} has images of {size}, expected squares; correct that file"
            )
        return size[0] if size else None
    return size
