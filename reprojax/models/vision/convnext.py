"""ConvNeXt (arXiv 2201.03545), and its second version (arXiv 2301.00808)."""

import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from reprojax.models.settings import Config, Positive, Vision, refuse
from reprojax.models.vision.layers import Depthwise, LayerScale, Patches, gelu, head
from reprojax.models.vision.resnet import roles
from reprojax.models.weights import (
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


class ResponseNorm(nn.Module):
    """Channels that respond more than the others are strengthened (version 2).

    A response is the norm over places; a channel that is 0 everywhere has gradient 0.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        squares = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
        some = squares > 0
        response = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0)
        share = response / (response.mean(-1, keepdims=True) + 1e-6)
        return x + scale * x * share.astype(x.dtype) + bias


class Block(nn.Module):
    """A 7x7 filter for each channel and an MLP, added to the input."""

    responds: bool
    layer_scale: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        width = x.shape[-1]
        y = Depthwise(side=7, name="depthwise")(x)
        y = nn.LayerNorm(epsilon=1e-6, name="norm")(y)
        y = gelu(nn.Dense(4 * width, name="up")(y))
        y = ResponseNorm(name="response_norm")(y) if self.responds else y
        y = nn.Dense(width, name="down")(y)
        return x + (LayerScale(name="scale")(y) if self.layer_scale else y)


class Stage(nn.Module):
    """Blocks of one width; all but the first stage halve the sides before."""

    depth: int
    width: int
    halves: bool
    responds: bool
    layer_scale: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        if self.halves:
            x = nn.LayerNorm(epsilon=1e-6, name="patches_norm")(x)
            x = Patches(2, self.width, grid=True, name="patches")(x)
        for i in range(self.depth):
            x = Block(self.responds, self.layer_scale, name=f"block_{i}")(x)
        return x


class ConvNeXt(nn.Module):
    """Patches, stages, the mean over places, a norm, and a linear head."""

    patch: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    classes: int
    responds: bool
    layer_scale: bool
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        x = Patches(self.patch, self.widths[0], grid=True, name="patches")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="patches_norm")(x)
        for i, (depth, width) in enumerate(
            zip(self.depths, self.widths, strict=True), 1
        ):
            stage = Stage(
                depth, width, i > 1, self.responds, self.layer_scale, name=f"stage_{i}"
            )
            x = stage(x)
        x = nn.LayerNorm(epsilon=self.epsilon, name="norm")(x.mean((1, 2)))
        return head(self.classes)(x)


class Settings(Vision, total=False):
    """Settings by transformers."""

    hidden_act: str
    layer_norm_eps: Positive


def _planner(rules: Rules, blocks: str):
    """All from shapes, but the last norm's epsilon."""

    def plan(shapes: Shapes, config: Config) -> Plan:
        refuse(
            config,
            "a ConvNeXt",
            hidden_act="gelu",
            global_pool="avg",
        )
        look = lambda path, default: shape_of(shapes, rules, path, default)
        named = lambda path: origin(rules, f"stage_1/block_0/{path}")[0] in shapes
        depths = [count_numbered(shapes, blocks % s) for s in range(STAGES)]
        depths = tuple(depth for depth in depths if depth)
        stem, _, patch, _ = look("patches/kernel", (96, 3, 4, 4))
        widths = tuple(
            look(f"stage_{s}/block_0/depthwise/bias", (stem * 2 ** (s - 1),))[0]
            for s in range(1, len(depths) + 1)
        )
        classes = look("head/kernel", (*look("head/bias", (0,)), 0))[0]
        module = ConvNeXt(
            patch,
            depths,
            widths,
            classes,
            named("response_norm/scale") or named("response_norm/bias"),
            named("scale/gamma"),
            config.get("layer_norm_eps") or 1e-6,
        )
        return Plan(module, 224, IMAGENET_MEAN, IMAGENET_STD, roles(depths), classes)

    return plan


def _prepare(tensors: Tensors, plan: Plan) -> Tensors:
    """1x1 convolutions as matrices, norms as vectors; raise if images are too small."""
    least = plan.module.patch * 2 ** (len(plan.module.depths) - 1)
    if plan.size < least:
        raise ValueError(
            f"got size {plan.size} for a ConvNeXt that divides it by {least}, expected "
            f"at least {least}; call load(..., size=...)"
        )
    return {name: _flat(name, value) for name, value in tensors.items()}


def _flat(name: str, value: np.ndarray) -> np.ndarray:
    if ".grn." in name:
        return value.reshape(-1)
    one = re.search(r"\.mlp\.fc\d\.weight$", name) and value.shape[2:] == (1, 1)
    return value[:, :, 0, 0] if one else value


STAGES = 4  # named apart, because theirs count from 0


def _rules(stage: str, down: str, block: str, ours: Rules, other: Rules) -> Rules:
    """`stage` with %d for their number, `block` and `down` within it."""
    inner = lambda s: (
        (f"stage_{s + 1}/patches_norm", stage % s + f"{down}.0"),
        (f"stage_{s + 1}/patches", stage % s + f"{down}.1"),
        *(
            (rf"stage_{s + 1}/block_(\d+)/{name}", stage % s + block + theirs)
            for name, theirs in ours
        ),
    )
    return (*other, *(rule for s in range(STAGES) for rule in inner(s)))


TIMM = _rules(
    "stages.%d.",
    "downsample",
    "blocks.{}.",
    (
        ("depthwise", "conv_dw"),
        ("norm", "norm"),
        ("up", "mlp.fc1"),
        ("response_norm", "mlp.grn"),
        ("down", "mlp.fc2"),
        ("scale/gamma", "gamma"),
    ),
    (
        ("patches", "stem.0"),
        ("patches_norm", "stem.1"),
        ("norm", "head.norm"),
        ("head", "head.fc"),
    ),
)
TRANSFORMERS = _rules(
    "encoder.stages.%d.",
    "downsampling_layer",
    "layers.{}.",
    (
        ("depthwise", "dwconv"),
        ("norm", "layernorm"),
        ("up", "pwconv1"),
        ("response_norm", "grn"),
        ("down", "pwconv2"),
        ("scale/gamma", "layer_scale_parameter"),
    ),
    (
        ("patches", "embeddings.patch_embeddings"),
        ("patches_norm", "embeddings.layernorm"),
        ("norm", "layernorm"),
        ("head", "classifier"),
    ),
)

# architectures whose stem, activations, epsilons and head are those built here
NAMES = (
    r"convnext|convnextv2|convnext(v2)?_(atto|femto|pico|nano|tiny|small|base|large)"
    r"|convnext_xlarge|convnextv2_huge"
    r"|convnext_(tiny|small|base|large|xlarge)(_in22k|(_384)?_in22ft1k)"
)
LAYOUTS = (
    Layout(
        "ConvNeXt, timm names",
        r"stages\.\d\.(blocks\.\d+\.(conv_dw|mlp|gamma)|downsample)",
        _planner(TIMM, r"stages\.%d\.blocks\.(\d+)\."),
        TIMM,
        _prepare,
        NAMES,
        "convnext_tiny",
        Settings,
        arguments=r"depths|dims|use_grn|conv_mlp|ls_init_value|patch_size"
        r"|head_init_scale|drop_rate|\w+_drop_rate",
    ),
    Layout(
        "ConvNeXt, transformers names",
        r"encoder\.stages\.\d\.(layers\.\d+\.(dwconv|pwconv|grn|layer_scale)"
        r"|downsampling_layer)",
        _planner(TRANSFORMERS, r"encoder\.stages\.%d\.layers\.(\d+)\."),
        TRANSFORMERS,
        _prepare,
        "convnext|convnextv2",
        "convnext",
        Settings,
        "num_channels|patch_size|num_stages|hidden_sizes|depths|layer_scale_init_value"
        "|image_size|stage_names|out_features|out_indices",
    ),
)
