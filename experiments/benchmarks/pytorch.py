"""The same floor in PyTorch, on transformers' classes, in forms that may be fastest.

- eager: channels last, weights that want no gradient, batch norms folded into their
  convolutions;
- compiled: that under torch.compile (inductor);
- frozen: the input gradient by torch.func under no_grad, so that inductor takes weights
  for constants and packs them for oneDNN or MKL.

The compiled ones need a C++ compiler on a CPU. The caller takes the fastest.
"""

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from reprojax.models.vision.vit import ViT


def floors(
    module: nn.Module, x: np.ndarray, dtype: str
) -> dict[str, Callable[[], Any]]:
    """{form: a call that computes forward and input gradient of images [B H W 3]}.

    Raises:
        ValueError: if there is no compiler, without which PyTorch is not at its best.
    """
    import torch

    if not (torch.cuda.is_available() or shutil.which("g++") or shutil.which("c++")):
        raise ValueError("no C++ compiler (g++) found, expected one for torch.compile")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != jax.default_backend().replace("gpu", "cuda"):
        raise ValueError(
            f"PyTorch runs on {device}, JAX on {jax.default_backend()}; expected one "
            "kind of device for both"
        )
    last, kind = torch.channels_last, getattr(torch, dtype)
    model = _fold(built(module).eval()).requires_grad_(False)
    model = model.to(device, kind, memory_format=last)
    images = torch.tensor(x).permute(0, 3, 1, 2).to(device, kind)
    images = images.contiguous(memory_format=last)

    def total(x: Any) -> Any:
        return model(pixel_values=x).logits.float().sum()

    forms = {"eager": _backward(total, images)}
    forms["compiled"] = _backward(torch.compile(total), images)
    forms["frozen"] = _frozen(total, images)
    return {f"torch {form}": _waited(call, device) for form, call in forms.items()}


def built(module: Any, size: int = 224) -> Any:
    """transformers' class of a linen module of ours, with random weights."""
    import transformers

    vit: Any = transformers.ViTConfig
    resnet: Any = transformers.ResNetConfig  # any: their arguments are not declared
    if isinstance(module, ViT):
        config = vit(
            hidden_size=module.width,
            num_hidden_layers=module.depth,
            num_attention_heads=module.heads,
            intermediate_size=module.hidden,
            image_size=size,
            patch_size=module.patch,
            num_labels=module.classes,
            layer_norm_eps=module.epsilon,
            attn_implementation="sdpa",
        )
        return transformers.ViTForImageClassification(config)
    config = resnet(
        embedding_size=module.stem,
        depths=list(module.depths),
        hidden_sizes=[
            width * (4 if module.bottleneck else 1) for width in module.widths
        ],
        layer_type="bottleneck" if module.bottleneck else "basic",
        num_labels=module.classes,
    )
    return transformers.ResNetForImageClassification(config)


def _fold(model: Any) -> Any:
    """transformers' convolutions and their batch norms as one; a ViT has none."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for part in model.modules():
        if hasattr(part, "convolution") and hasattr(part, "normalization"):
            part.convolution = fuse_conv_bn_eval(part.convolution, part.normalization)
            part.normalization = torch.nn.Identity()
    return model


def _backward(total: Callable, images: Any) -> Callable[[], Any]:
    images = images.clone().requires_grad_(True)

    def call() -> Any:
        images.grad = None
        total(images).backward()
        return images.grad

    return call


def _frozen(total: Callable, images: Any) -> Callable[[], Any]:
    import torch

    gradient = torch.compile(torch.func.grad(total), options={"freezing": True})

    def call() -> Any:
        with torch.no_grad():
            return gradient(images)

    return call


def _waited(call: Callable[[], Any], device: str) -> Callable[[], None]:
    """JAX would not know PyTorch's arrays."""
    import torch

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about itself
            call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run
