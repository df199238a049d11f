"""Values and input gradients against transformers in torch, weights drawn at random."""

import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch_models import agree, noise, ours, theirs, torch, transformers

from reprojax.models import load

pytestmark = pytest.mark.verify

TINY = dict(hidden_size=96, num_hidden_layers=3, num_attention_heads=4, patch_size=8)
RESNET_18 = dict(
    layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]
)
RESNET_50 = dict(depths=[3, 4, 6, 3])
MODELS = {
    "vit": lambda t: t.ViTForImageClassification(
        t.ViTConfig(**TINY, image_size=32, intermediate_size=160, num_labels=7)
    ),
    "vit without a head": lambda t: t.ViTModel(
        t.ViTConfig(**TINY, image_size=32, intermediate_size=160, qkv_bias=False)
    ),
    "dinov2": lambda t: t.Dinov2ForImageClassification(
        t.Dinov2Config(**TINY, image_size=32, mlp_ratio=2, num_labels=7)
    ),
    "dinov2 without a head": lambda t: t.Dinov2Model(
        t.Dinov2Config(**TINY, image_size=32, mlp_ratio=2)
    ),
    "resnet-18": lambda t: t.ResNetForImageClassification(
        t.ResNetConfig(**RESNET_18, num_labels=7)
    ),
    "resnet-50": lambda t: t.ResNetForImageClassification(
        t.ResNetConfig(**RESNET_50, num_labels=7)
    ),
}


def drawn(name):
    """A torch model with every parameter and batch statistic random."""
    torch.manual_seed(0)
    model = MODELS[name](transformers).eval()
    with torch.no_grad():
        for path, leaf in model.named_parameters():
            if leaf.ndim == 4:
                torch.nn.init.kaiming_normal_(leaf, mode="fan_in")
            elif leaf.ndim == 2:
                leaf.normal_(0, leaf.shape[1] ** -0.5)
            elif re.search(r"(norm\w*|normalization)\.weight|lambda1", path):
                leaf.uniform_(0.5, 1.5)
            else:
                leaf.normal_(0, 0.2)
        for path, leaf in model.named_buffers():
            if path.endswith("running_mean"):
                leaf.normal_(0, 0.5)
            elif path.endswith("running_var"):
                leaf.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_values_and_input_gradients(name, tmp_path):
    reference = drawn(name)
    reference.save_pretrained(tmp_path)
    size = 64 if "resnet" in name else 32
    model = load(tmp_path, size=size)
    assert len(model.classes) == (0 if "without" in name else 7)
    agree(ours(model, noise(size)), theirs(reference, noise(size)))


def test_an_odd_size_of_a_resnet(tmp_path):
    """Where sides do not halve evenly."""
    reference = drawn("resnet-18")
    reference.save_pretrained(tmp_path)
    agree(ours(load(tmp_path, size=75), noise(75)), theirs(reference, noise(75)))


def test_dinov2_at_another_size(tmp_path):
    """transformers resizes the positions at each call, `load` once."""
    reference = drawn("dinov2")
    reference.save_pretrained(tmp_path)
    for size in (24, 56):
        model = load(tmp_path, size=size)
        agree(ours(model, noise(size)), theirs(reference, noise(size)))


def test_shards_of_save_pretrained(tmp_path):
    reference = drawn("dinov2")
    reference.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    agree(ours(load(tmp_path), noise(32)), theirs(reference, noise(32)))


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov2 without a head"])
def test_timm_names_are_the_same_model(name, tmp_path):
    """timm's and the DINOv2 repository's names, written out by hand."""
    drawn(name).save_pretrained(tmp_path)
    other = load(tmp_path)
    tensors = {
        name.removeprefix("vit.").removeprefix("dinov2."): value
        for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    (tmp_path / "timm").mkdir()
    path = tmp_path / "timm" / "model.safetensors"
    save_file(timm(tensors), path)
    model = load(path, architecture=name.split()[0], heads=4)
    assert model.input.size == other.input.size
    agree(ours(model, noise(32)), ours(other, noise(32)))


def timm(tensors):
    out = {}
    for name, value in tensors.items():
        name = re.sub(r"^encoder\.layer\.", "blocks.", name)
        for old, new in (
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.mask_token", "mask_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("layernorm.", "norm."),
            ("classifier.", "head."),
        ):
            name = name.replace(old, new)
        out[name] = value
    for name in [n for n in out if ".attention.attention.query." in n]:
        parts = [out.pop(name.replace("query", p)) for p in ("query", "key", "value")]
        fused = name.replace("attention.attention.query", "attn.qkv")
        out[fused] = np.concatenate(parts)
    return out


def test_torchvision_names_are_the_same_model(tmp_path):
    reference = drawn("resnet-50")
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "torchvision").mkdir()
    path = tmp_path / "torchvision" / "resnet50.safetensors"
    save_file(torchvision(tensors), path)
    model = load(path, architecture="resnet50", size=64)
    agree(ours(model, noise(64)), theirs(reference, noise(64)))


def torchvision(tensors):
    out = {}
    for name, value in tensors.items():
        name = name.removeprefix("resnet.")
        name = name.replace("embedder.embedder.convolution", "conv1")
        name = name.replace("embedder.embedder.normalization", "bn1")
        name = name.replace("classifier.1", "fc")
        if match := re.match(r"encoder\.stages\.(\d)\.layers\.(\d)\.(.*)", name):
            stage, block, rest = match.groups()
            rest = rest.replace("shortcut.convolution", "downsample.0")
            rest = rest.replace("shortcut.normalization", "downsample.1")
            conv = r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}"
            norm = r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}"
            rest = re.sub(*norm, re.sub(*conv, rest))
            name = f"layer{int(stage) + 1}.{block}.{rest}"
        out[name] = value
    return out


def test_wrong_variants_are_caught(tmp_path, monkeypatch):
    """SAME padding, the tanh GELU, no layer scale."""
    conv = nn.Conv

    def same(features, kernel, strides=1, *, padding, **kw):
        return conv(features, kernel, strides, padding="SAME", **kw)

    tanh = lambda x: jnp.tanh(x * 1.1284 * (1 + 0.0895 * x * x))
    for place, wrong, name in (
        ("flax.linen.Conv", same, "resnet-18"),
        ("reprojax.models.vision.vit.lax.erf", tanh, "vit"),
        ("reprojax.models.vision.vit.LayerScale.__call__", lambda self, x: x, "dinov2"),
    ):
        reference = drawn(name)
        reference.save_pretrained(tmp_path / name)
        x = noise(64 if "resnet" in name else 32)
        model = load(tmp_path / name, size=x.shape[1])
        with monkeypatch.context() as patch:
            patch.setattr(place, wrong)
            mine = ours(model, x)
        with pytest.raises(AssertionError):
            agree(mine, theirs(reference, x))
