"""Values and input gradients of more architectures against torch, random weights."""

import pytest
from torch_models import (
    agree,
    answer,
    from_timm,
    from_transformers,
    noise,
    ours,
    theirs,
)

from reprojax.models import load

pytestmark = pytest.mark.verify

VIT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_labels=5)
REG = VIT | dict(image_size=32, patch_size=8, mlp_ratio=2)
DEIT = VIT | dict(image_size=32, patch_size=8, intermediate_size=48)
TIMM_VIT = dict(embed_dim=32, depth=2, num_heads=4, img_size=28, num_classes=5)
DINO3 = DEIT | dict(num_register_tokens=1)
BEIT = DEIT | dict(use_relative_position_bias=True)
EFFICIENT = dict(width_coefficient=0.5, depth_coefficient=1.0, hidden_dim=640)
EFFICIENT |= dict(num_block_repeats=[1, 2, 1, 1, 1, 1, 1], num_labels=5)
MOBILE = dict(depth_multiplier=0.2, num_labels=5, finegrained_output=False)
SWIN = dict(image_size=32, patch_size=2, embed_dim=8, depths=[2, 3], num_labels=5)
SWIN |= dict(num_heads=[1, 4], window_size=4, mlp_ratio=2.0)
TIMM_SWIN = dict(patch_size=2, embed_dim=8, num_heads=(2, 4), num_classes=5)
TIMM_SWIN |= dict(depths=(2, 2))
NEXT = dict(depths=[1, 2, 1, 1], num_labels=5)
WIDE = dict(hidden_sizes=[8, 12, 16, 24])
TIMM_NEXT = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 24), num_classes=5)
TRANSFORMERS = {
    "ConvNext": (64, NEXT | WIDE),
    "ConvNext, no layer scale": (64, NEXT | WIDE | dict(layer_scale_init_value=0.0)),
    "ConvNext, three stages": (
        32,
        dict(num_stages=3, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], num_labels=5),
    ),
    "ConvNext, no head": (64, NEXT | WIDE),
    "ConvNextV2": (64, NEXT | WIDE),
    "Dinov2WithRegisters": (32, REG | dict(layer_norm_eps=0.1)),
    "Dinov2WithRegisters, larger images": (56, REG),
    "Dinov2WithRegisters, smaller images": (24, REG | dict(num_register_tokens=1)),
    "Dinov2WithRegisters, no head": (32, REG),
    "DeiT": (32, DEIT | dict(layer_norm_eps=0.1)),
    "DeiT, two heads": (32, DEIT | dict(qkv_bias=False)),
    "DeiT, no head": (32, DEIT),
    "Beit": (32, BEIT | dict(layer_norm_eps=0.1)),
    "Beit, class token": (32, BEIT | dict(use_mean_pooling=False)),
    "Beit, larger images": (48, BEIT | dict(layer_scale_init_value=0.0)),
    "Beit, smaller images": (16, BEIT),
    "Beit, no head": (32, BEIT | dict(use_mask_token=True)),
    "DINOv3ViT, no head": (32, DINO3 | dict(layer_norm_eps=0.1, rope_theta=20.0)),
    "DINOv3ViT, gated, no head": (
        48,
        DINO3 | dict(use_gated_mlp=True, hidden_act="silu", key_bias=True),
    ),
    "DINOv3ViT, no biases, no head": (
        16,
        DINO3 | dict(query_bias=False, value_bias=False, num_register_tokens=4),
    ),
    "MobileNetV2": (64, MOBILE),
    "MobileNetV2, equal padding": (64, MOBILE | dict(tf_padding=False)),
    "MobileNetV2, an odd size": (75, MOBILE | dict(layer_norm_eps=0.1)),
    "MobileNetV2, no head": (64, MOBILE),
    "EfficientNet": (64, EFFICIENT | dict(batch_norm_eps=0.1)),
    "EfficientNet, deeper, odd sides": (
        50,  # sides of 25, 13, 7, 4
        EFFICIENT | dict(depth_coefficient=1.1, depthwise_padding=[2, 5, 7]),
    ),
    "EfficientNet, no head": (64, EFFICIENT),
    "Swin": (32, SWIN | dict(layer_norm_eps=0.1)),
    "Swin, larger images": (48, SWIN),
    "Swin, one window in the last stage": (32, SWIN | dict(window_size=8)),
    "Swin, no biases": (32, SWIN | dict(qkv_bias=False)),
    "Swin, no head": (32, SWIN),
}
TIMM = {
    "convnext_tiny": (64, TIMM_NEXT),
    "convnext_nano": (75, TIMM_NEXT),  # 1x1 convolutions; sides that do not halve
    "convnextv2_base": (64, TIMM_NEXT | dict(num_classes=0)),
    "convnextv2_femto": (64, TIMM_NEXT),
    "vit_small_patch14_reg4_dinov2": (28, TIMM_VIT),
    "vit_base_patch14_reg4_dinov2": (28, TIMM_VIT | dict(num_classes=0)),
    "deit_tiny_distilled_patch16_224": (32, TIMM_VIT | dict(img_size=32)),
    "deit_small_distilled_patch16_224": (
        32,  # without heads it gives the mean of two tokens
        TIMM_VIT | dict(img_size=32, patch_size=8, num_classes=0),
    ),
    "deit_base_patch16_224": (32, TIMM_VIT | dict(img_size=32)),
    "beit_base_patch16_224": (32, TIMM_VIT | dict(img_size=32)),
    "beitv2_large_patch16_224": (
        32,
        TIMM_VIT | dict(img_size=32, patch_size=8, num_classes=0),
    ),
    "mobilenetv2_035": (64, dict(num_classes=5)),
    "mobilenetv2_050": (75, dict(num_classes=0)),
    "swin_tiny_patch4_window7_224": (32, TIMM_SWIN | dict(window_size=4, img_size=32)),
    "swin_base_patch4_window12_384": (
        24,  # one window in the last stage; no head
        TIMM_SWIN | dict(window_size=6, img_size=24, num_classes=0),
    ),
    "swin_s3_tiny_224": (
        32,
        dict(depths=(2, 2, 2), num_heads=(1, 2, 2), window_size=(4, 8, 2), img_size=32)
        | dict(patch_size=2, embed_dim=8, num_classes=5),
    ),
}


POOLED = ("Beit", "Swin")  # without a head these give a mean


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_values_and_input_gradients_of_transformers(name, tmp_path):
    size, its = TRANSFORMERS[name]
    kind, headless = name.split(",")[0], name.endswith("no head")
    head = "Model" if headless else "ForImageClassification"
    head += "WithTeacher" if name.endswith("two heads") else ""
    reference = from_transformers(kind, its, head, tmp_path)
    model = load(tmp_path, size=size)
    assert len(model.classes) == (0 if headless else 5)
    pooled = headless and kind in POOLED
    read = (lambda out: out.pooler_output) if pooled else answer
    agree(ours(model, noise(size)), theirs(reference, noise(size), read))


@pytest.mark.parametrize("name", TIMM)
def test_values_and_input_gradients_of_timm(name, tmp_path):
    size, its = TIMM[name]
    reference, _ = from_timm(name, its, tmp_path)
    model = load(tmp_path, size=size)
    assert len(model.classes) == its["num_classes"]
    agree(ours(model, noise(size)), theirs(reference, noise(size)))
