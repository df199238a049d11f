"""Small models as files, their tensors named by hand as torch's libraries name them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def vit(width: int = 128, depth: int = 2, classes: int = 5) -> dict[str, np.ndarray]:
    """timm's names: patches of 8 pixels, images of 16, an MLP of 32, two heads."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "patch_embed.proj.weight": (width, 3, 8, 8),
        "patch_embed.proj.bias": (width,),
        **_dense("head", classes, width),
        **_norm("norm", width),
    }
    for i in range(depth):
        at = f"blocks.{i}."
        shapes |= _norm(at + "norm1", width) | _norm(at + "norm2", width)
        shapes |= _dense(at + "attn.qkv", 3 * width, width)
        shapes |= _dense(at + "attn.proj", width, width)
        shapes |= _dense(at + "mlp.fc1", 32, width)
        shapes |= _dense(at + "mlp.fc2", width, 32)
    return _drawn(shapes)


def beit(classes: int = 5) -> dict[str, np.ndarray]:
    """timm's names: width 8, patches of 8 pixels, images of 16, two heads."""
    shapes = {"cls_token": (1, 1, 8)} | _conv("patch_embed.proj", 8, 3, 8)
    for i in range(2):
        at = f"blocks.{i}."
        shapes[at + "attn.relative_position_bias_table"] = (12, 2)
        shapes |= {at + f"attn.{name}_bias": (8,) for name in "qv"}
        shapes |= {at + "attn.qkv.weight": (24, 8), at + "gamma_1": (8,)}
        shapes |= {at + "gamma_2": (8,)} | _dense(at + "attn.proj", 8, 8)
        shapes |= _norm(at + "norm1", 8) | _norm(at + "norm2", 8)
        shapes |= _dense(at + "mlp.fc1", 16, 8) | _dense(at + "mlp.fc2", 8, 16)
    return _drawn(shapes | _norm("fc_norm", 8) | _dense("head", classes, 8))


def dinov3() -> dict[str, np.ndarray]:
    """transformers' names: width 16, patches of 8 pixels, two registers, no head."""
    shapes = {"embeddings.cls_token": (1, 1, 16)}
    shapes |= {"embeddings.register_tokens": (1, 2, 16)} | _norm("norm", 16)
    shapes |= _conv("embeddings.patch_embeddings", 16, 3, 8)
    for i in range(2):
        at = f"layer.{i}."
        shapes[at + "attention.k_proj.weight"] = (16, 16)
        for name in ("q", "v", "o"):
            shapes |= _dense(at + f"attention.{name}_proj", 16, 16)
        shapes |= _dense(at + "mlp.up_proj", 24, 16)
        shapes |= _dense(at + "mlp.down_proj", 16, 24)
        for j in (1, 2):
            shapes |= _norm(at + f"norm{j}", 16)
            shapes[at + f"layer_scale{j}.lambda1"] = (16,)
    return _drawn(shapes)


def vit_head(name: str, width: int, classes: int = 5) -> dict[str, np.ndarray]:
    """One more head."""
    return _drawn(_dense(name, classes, width))


def resnet(classes: int = 5) -> dict[str, np.ndarray]:
    """torchvision's names: one basic block a stage, 8 to 64 channels."""
    shapes = {"conv1.weight": (8, 3, 7, 7), **_norm("bn1", 8, stored=True)}
    for stage, width in enumerate((8, 16, 32, 64), 1):
        at, before = f"layer{stage}.0.", 8 if stage == 1 else width // 2
        shapes[at + "conv1.weight"] = (width, before, 3, 3)
        shapes[at + "conv2.weight"] = (width, width, 3, 3)
        shapes |= _norm(at + "bn1", width, stored=True)
        shapes |= _norm(at + "bn2", width, stored=True)
        if stage > 1:
            shapes[at + "downsample.0.weight"] = (width, before, 1, 1)
            shapes |= _norm(at + "downsample.1", width, stored=True)
    return _drawn(shapes | _dense("fc", classes, 64))


def cifar(classes: int = 5) -> dict[str, np.ndarray]:
    """One block a stage, 4, 8 and 16 channels."""
    shapes = {"conv1.weight": (4, 3, 3, 3), **_norm("bn1", 4, stored=True)}
    for stage, width in enumerate((4, 8, 16), 1):
        at, before = f"layer{stage}.0.", 4 if stage == 1 else width // 2
        shapes[at + "conv1.weight"] = (width, before, 3, 3)
        shapes[at + "conv2.weight"] = (width, width, 3, 3)
        shapes |= _norm(at + "bn1", width, stored=True)
        shapes |= _norm(at + "bn2", width, stored=True)
    return _drawn(shapes | _dense("linear", classes, 16))


def mobilenet(classes: int = 5) -> dict[str, np.ndarray]:
    """17 blocks of 4 channels that expand to 8."""
    shapes = _conv("stem", 4, 3, 3) | _conv("head", 16, 4, 1)
    for i in range(17):
        at, hidden = f"blocks.{i}.", 8 if i else 4
        shapes |= _conv(at + "expand", 8, 4, 1) if i else {}
        shapes |= _conv(at + "depthwise", hidden, 1, 3)
        shapes |= _conv(at + "project", 4, hidden, 1)
    return _drawn(shapes | _dense("classifier", classes, 16))


def convnext(classes: int = 5) -> dict[str, np.ndarray]:
    """timm's names: one block in each of two stages, 8 and 12 channels."""
    shapes = _conv("stem.0", 8, 3, 4) | _norm("stem.1", 8)
    shapes |= _norm("stages.1.downsample.0", 8)
    shapes |= _conv("stages.1.downsample.1", 12, 8, 2)
    for stage, width in enumerate((8, 12)):
        at = f"stages.{stage}.blocks.0."
        shapes |= _conv(at + "conv_dw", width, 1, 7) | _norm(at + "norm", width)
        shapes |= _dense(at + "mlp.fc1", 4 * width, width)
        shapes |= _dense(at + "mlp.fc2", width, 4 * width)
        shapes[at + "gamma"] = (width,)
    return _drawn(shapes | _norm("head.norm", 12) | _dense("head.fc", classes, 12))


def swin(classes: int = 5) -> dict[str, np.ndarray]:
    """timm's names: two stages of 8 and 16 channels, windows of 2 x 2, patches of 2
    pixels; the second block of the first stage shifts."""
    shapes = _conv("patch_embed.proj", 8, 3, 2) | _norm("patch_embed.norm", 8)
    shapes |= _norm("layers.1.downsample.norm", 32)
    shapes["layers.1.downsample.reduction.weight"] = (16, 32)
    for at, width, heads in (
        ("0.blocks.0", 8, 2),
        ("0.blocks.1", 8, 2),
        ("1.blocks.0", 16, 4),
    ):
        at = f"layers.{at}."
        shapes[at + "attn.relative_position_bias_table"] = (9, heads)
        shapes |= _norm(at + "norm1", width) | _norm(at + "norm2", width)
        shapes |= _dense(at + "attn.qkv", 3 * width, width)
        shapes |= _dense(at + "attn.proj", width, width)
        shapes |= _dense(at + "mlp.fc1", 2 * width, width)
        shapes |= _dense(at + "mlp.fc2", width, 2 * width)
    return _drawn(shapes | _norm("norm", 16) | _dense("head.fc", classes, 16))


SIZES = {
    "vit": 16,
    "resnet": 64,
    "cifar": 32,
    "mobilenet": 32,
    "convnext": 16,
    "swin": 8,
    "beit": 16,
}
CONFIG = {"architecture": "vit", "model_args": {"num_heads": 2}}
TOLD = {  # what a bare file of it does not tell
    "vit": dict(architecture="vit", heads=2),
    "resnet": dict(architecture="resnet50"),
    "cifar": {},
    "mobilenet": {},
    "convnext": dict(architecture="convnext_tiny"),
    "swin": dict(architecture="swin"),
    "beit": dict(architecture="beit"),
}
MODELS = {
    "vit": vit,
    "resnet": resnet,
    "cifar": cifar,
    "mobilenet": mobilenet,
    "convnext": convnext,
    "swin": swin,
    "beit": beit,
}


def write(folder: Path, name: str) -> Path:
    """One of MODELS as a file."""
    save_file(MODELS[name](), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def write_shards(folder: Path, tensors: dict[str, np.ndarray], shards: int = 3) -> Path:
    """A folder of shards and their index, as save_pretrained writes it."""
    folder.mkdir(exist_ok=True)
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i::shards]}
        save_file(part, folder / file)
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def photos(size: int, batch: int = 2) -> np.ndarray:
    """uint8 images of noise."""
    shape = (batch, size, size, 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def _dense(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _conv(name: str, out: int, width: int, side: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width, side, side), f"{name}.bias": (out,)}


def _norm(name: str, width: int, stored: bool = False) -> dict[str, tuple[int, ...]]:
    leaves = ["weight", "bias"] + ["running_mean", "running_var"] * stored
    shapes = {f"{name}.{leaf}": (width,) for leaf in leaves}
    return shapes | ({f"{name}.num_batches_tracked": ()} if stored else {})


def _drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    out = {}
    for name, shape in shapes.items():
        scale = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.3
        value = scale * draw.standard_normal(shape)
        one = (
            name.endswith("running_var")
            or ("norm" in name or "bn" in name)
            and (name.endswith(".weight"))
        )
        out[name] = np.asarray(np.abs(1 + value) if one else value, np.float32)
    return out
