"""Files of vision transformers: timm's and transformers' names, and what they leave
out."""

import math
import re
from typing import Any

import numpy as np

from reprojax.models.settings import Config, Count, Positive, Vision, bounded, refuse
from reprojax.models.vision.vit import ViT, refuse_size, roles
from reprojax.models.weights import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    Plan,
    Rules,
    Shapes,
    Tensors,
    count_numbered,
    origin,
    shape_of,
)


class Settings(Vision, total=False):
    """Settings by transformers and, in its model_args, timm."""

    num_hidden_layers: Count
    num_attention_heads: Count
    num_heads: Count
    layer_norm_eps: Positive
    hidden_act: str
    use_swiglu_ffn: bool
    interpolate_antialias: bool
    interpolate_offset: float


def _planner(rules: Rules, block: str, epsilon: float, teacher: bool):
    """Width, depth, patch and classes from shapes; heads and epsilon from a config.
    `teacher`: whether these files' head reads a distilled token."""

    def plan(shapes: Shapes, config: Config) -> Plan:
        look = lambda path, default: shape_of(shapes, rules, path, default)
        registers = look("registers", (1, 0, 0))[1]
        refuse(
            config,
            "a ViT",
            hidden_act="gelu",
            use_swiglu_ffn=False,
            interpolate_antialias=registers > 0,
            interpolate_offset=0.0,
            global_pool="token",
        )
        width, _, patch, _ = look("patches/kernel", (192, 3, 16, 16))
        hidden = look("block_0/mlp/up/kernel", (4 * width, width))[0]
        classes, *read = look("head/kernel", (*look("head/bias", (0,)), width))
        depth = config.get("num_hidden_layers") or count_numbered(shapes, block)
        depth = bounded(depth, shapes)
        heads = _heads(config, width)
        scaled = any(re.search(r"lambda1|gamma", name) for name in shapes)
        distilled = origin(rules, "distilled_token")[0] in shapes
        module = ViT(
            patch,
            width,
            depth,
            heads,
            hidden,
            classes,
            config.get("layer_norm_eps") or epsilon,
            layer_scale=scaled,
            with_mean=read == [2 * width],
            bias=any(re.search(r"(qkv|query)\.bias", name) for name in shapes),
            registers=registers,
            distilled=distilled,
            teacher=distilled and teacher,
        )
        length = look("positions", (1, 197 + distilled, width))[1]
        size = patch * (_side(length, module) or math.isqrt(length))
        imagenet = scaled or distilled
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (HALF, HALF)
        return Plan(module, size, mean, std, roles(depth), classes)

    return plan


def _side(length: int, module: Any) -> int | None:
    """The side of the grid that so many positions are of; None if they are of none.
    Beside registers, the class token may have none."""
    first = [1 + module.distilled, *[0] * bool(module.registers)]
    sides = [math.isqrt(max(length - n, 0)) for n in first]
    fits = (s for n, s in zip(first, sides, strict=True) if s * s + n == length)
    return next(fits, None)


HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}


def _heads(config: Config, width: int) -> int:
    """The config's number of heads, or that of published models of that width."""
    heads = config.get("num_attention_heads") or config.get("num_heads")
    heads = HEADS.get(width) if heads is None else heads
    if not heads or width % heads:
        raise ValueError(
            f"got a ViT of width {width} with {heads or 'no'} heads, expected a "
            "divisor of the width; call load(..., heads=...)"
        )
    return heads


def _prepare(rules: Rules, heads: tuple[str, str]):
    """Positions of the plan's size; of two `heads`, one that reads both tokens."""
    positions, _ = origin(rules, "positions")

    def prepare(tensors: Tensors, plan: Plan) -> Tensors:
        patch, old = plan.module.patch, tensors.get(positions)
        refuse_size(plan.size, patch)
        if plan.module.teacher:
            tensors = _joined(tensors, *heads)
        side = (
            None
            if old is None
            else _side(old.shape[1] if old.ndim == 3 else 0, plan.module)
        )
        if old is None or old.ndim != 3 or side is None:
            return tensors  # not a grid: `filled` lists it as misshaped
        return tensors | {positions: _resized(old, side, plan)}

    return prepare


def _joined(tensors: Tensors, one: str, two: str) -> Tensors:
    """The mean of two heads as one that reads their tokens side by side."""
    names = [f"{head}.{leaf}" for head in (one, two) for leaf in ("weight", "bias")]
    if not {*names} <= {*tensors}:
        return tensors
    tensors = dict(tensors)
    first, bias, second, other = (np.float32(tensors.pop(name)) for name in names)
    weight = np.concatenate([first, second], axis=1) / 2
    return tensors | {names[0]: weight, names[1]: (bias + other) / 2}


def _resized(old: np.ndarray, side: int, plan: Plan) -> np.ndarray:
    """Positions [1 L D] on the plan's grid; 0 of a class token that has none."""
    first, new = 1 + plan.module.distilled, plan.size // plan.module.patch
    token, grid = old[:, : -side * side], old[0, -side * side :]
    if token.shape[1] < first:
        token = np.zeros((1, first, old.shape[2]), np.float32)
    if side != new:
        weights = _bicubic(side, new, smooth=plan.module.registers > 0)
        grid = grid.reshape(side, side, -1).astype(np.float32)
        grid = np.einsum("ai,bj,ijd->abd", weights, weights, grid)
    return np.concatenate([token, grid.reshape(1, new * new, -1)], axis=1)


def _bicubic(old: int, new: int, smooth: bool) -> np.ndarray:
    """[new, old] weights of torch's interpolation: Keys' kernel, half-pixel centres.

    With `smooth` (torch's antialias, as DINOv2 with registers has it) a = -.5, the
    kernel is as wide as `old` / `new`, and weights outside go to those inside; else a =
    -.75, and the border is repeated.
    """
    a, step = (-0.5, max(old / new, 1)) if smooth else (-0.75, 1)
    out = np.zeros((new, old), np.float32)
    for row in range(new):
        at = (row + 0.5) * old / new - 0.5
        for column in range(math.floor(at - 2 * step), math.ceil(at + 2 * step) + 1):
            if smooth and not 0 <= column < old:
                continue
            weight = _keys(abs(at - column) / step, a)
            out[row, min(max(column, 0), old - 1)] += weight
    return out / out.sum(1, keepdims=True) if smooth else out


def _keys(t: float, a: float) -> float:
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


BLOCK = r"block_(\d+)"


def timm_blocks(trunk: str = "") -> Rules:
    """timm's blocks, of any of its transformers with one query-key-value layer."""
    layer = trunk + "blocks.{}."
    parts = ("query", "key", "value")
    return (
        (BLOCK + r"/norm_(\d)", layer + "norm{}"),
        *(
            (f"{BLOCK}/attention/{own}", f"{layer}attn.qkv#{i}")
            for i, own in enumerate(parts)
        ),
        (BLOCK + "/attention/out", layer + "attn.proj"),
        (BLOCK + "/mlp/up", layer + "mlp.fc1"),
        (BLOCK + "/mlp/down", layer + "mlp.fc2"),
    )


TIMM = (
    ("patches", "patch_embed.proj"),
    ("class_token", "cls_token"),
    ("distilled_token", "dist_token"),
    ("registers", "reg_token"),
    ("positions", "pos_embed"),
    *timm_blocks(),
    (BLOCK + r"/scale_(\d)/gamma", "blocks.{}.ls{}.gamma"),
    ("norm", "norm"),
    ("head", "head"),
)
TRANSFORMERS = (
    ("patches", "embeddings.patch_embeddings.projection"),
    ("class_token", "embeddings.cls_token"),
    ("distilled_token", "embeddings.distillation_token"),
    ("registers", "embeddings.register_tokens"),
    ("positions", "embeddings.position_embeddings"),
    (BLOCK + "/attention/query", "encoder.layer.{}.attention.attention.query"),
    (BLOCK + "/attention/key", "encoder.layer.{}.attention.attention.key"),
    (BLOCK + "/attention/value", "encoder.layer.{}.attention.attention.value"),
    (BLOCK + "/attention/out", "encoder.layer.{}.attention.output.dense"),
    ("norm", "layernorm"),
    ("head", "classifier"),
)
VIT = (
    (BLOCK + "/norm_1", "encoder.layer.{}.layernorm_before"),
    (BLOCK + "/norm_2", "encoder.layer.{}.layernorm_after"),
    (BLOCK + "/mlp/up", "encoder.layer.{}.intermediate.dense"),
    (BLOCK + "/mlp/down", "encoder.layer.{}.output.dense"),
)
DINOV2 = (
    (BLOCK + r"/norm_(\d)", "encoder.layer.{}.norm{}"),
    (BLOCK + r"/scale_(\d)/gamma", "encoder.layer.{}.layer_scale{}.lambda1"),
    (BLOCK + "/mlp/up", "encoder.layer.{}.mlp.fc1"),
    (BLOCK + "/mlp/down", "encoder.layer.{}.mlp.fc2"),
)


TEACHER = (("head", "cls_classifier"), *TRANSFORMERS, *VIT)


# architectures whose blocks, classifier and epsilon are those built here
NAMES = (
    r"vit|dinov2|deit_(tiny|small|base)(_distilled)?_patch16_\d+"
    r"|vit_(small|base|large)_patch14(_reg4)?_dinov2"
    r"|vit_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+(_in21k|_dino|_miil)?"
)
SHAPES = "hidden_size|intermediate_size|mlp_ratio|image_size|patch_size|num_channels"


def _layout(
    label: str,
    signature: str,
    block: str,
    rules: Rules,
    epsilon: float,
    names: str,
    example: str,
    heads: tuple[str, str] = ("", ""),
) -> Layout:
    """`block` has the number of a block as its group; `heads`, if there may be two."""
    return Layout(
        label,
        signature,
        _planner(rules, block, epsilon, bool(heads[0])),
        rules,
        _prepare(rules, heads),
        names,
        example,
        Settings,
        SHAPES + r"|qkv_bias|encoder_stride|pooler_(act|output_size)|apply_layernorm"
        r"|num_register_tokens|reshape_hidden_states|use_mask_token|stage_names"
        r"|out_features|out_indices",
        r"embed_dim|depth|patch_size|mlp_ratio|qkv_bias|init_values|dynamic_img_size"
        r"|drop_rate|\w+_drop_rate",
    )


THEIRS = r"encoder\.layer\.(\d+)\."
LAYOUTS = (
    _layout(
        "ViT, DeiT or DINOv2, timm names",
        r"blocks\.(\d+)\.attn\.",
        r"blocks\.(\d+)\.",
        TIMM,
        1e-6,
        NAMES,
        "vit_tiny_patch16_224",
        ("head", "head_dist"),
    ),
    _layout(
        "DINOv2, transformers names",
        THEIRS + r"(layer_scale\d|norm\d|mlp)\.",
        THEIRS,
        (*TRANSFORMERS, *DINOV2),
        1e-6,
        "dinov2(_with_registers)?",
        "dinov2",
    ),
    _layout(
        "DeiT with two heads, transformers names",
        r"(cls|distillation)_classifier\.",
        THEIRS,
        TEACHER,
        1e-12,
        "deit",
        "deit",
        ("cls_classifier", "distillation_classifier"),
    ),
    _layout(
        "ViT or DeiT, transformers names",
        THEIRS + r"layernorm_(before|after)\.",
        THEIRS,
        (*TRANSFORMERS, *VIT),
        1e-12,
        "vit|deit",
        "vit",
    ),
)
