"""Random models of other packages: each is the same here, or refused by name.

Saved as folders and as bare files. What a forward pass does not show (heads, epsilons,
rotations, activations) is varied, so that a setting that nobody reads would be seen.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from timm_models import timm
from torch_models import from_timm, from_transformers, torch

from reprojax.core import tokens
from reprojax.models import language, load

pytestmark = pytest.mark.verify

SMALL = dict(embed_dim=32, depth=2, num_heads=4, img_size=32, num_classes=5)
NET = dict(layers=(1, 1, 1, 1), channels=(8, 16, 24, 32), num_classes=5)
NEXT = dict(depths=(1, 1, 1, 2), dims=(8, 8, 16, 8), num_classes=5)
SWIN = dict(img_size=32, patch_size=2, embed_dim=8, depths=(2, 1), num_heads=(1, 2))
SWIN |= dict(window_size=4, num_classes=5)
SAME = {
    "vit_tiny_patch16_224": SMALL,
    "vit_base_patch8_224": SMALL | dict(num_heads=2, qkv_bias=False, mlp_ratio=3),
    "deit_small_patch16_224": SMALL | dict(num_heads=8),
    "vit_small_patch14_dinov2": SMALL | dict(img_size=28, num_heads=1),
    "vit_large_patch32_224": SMALL | dict(num_classes=0),
    "vit_base_patch14_reg4_dinov2": SMALL | dict(img_size=28),
    "deit_tiny_distilled_patch16_224": SMALL | dict(num_heads=2),
    "resnet18": dict(num_classes=5),
    "convnext_tiny": NEXT,
    "swin_base_patch4_window7_224": SWIN,
    "mobilenetv2_035": dict(num_classes=5),
    "beit_large_patch16_384": SMALL | dict(num_heads=2),
    "convnextv2_atto": NEXT | dict(num_classes=0),
}
OTHER = {
    "resnetaa50": NET,
    "resnetblur18": NET,
    "resnet50d": NET,
    "resnet18d": NET,
    "seresnet18": NET,
    "resnet50_gn": dict(num_classes=5),
    "test_vit": dict(num_classes=5),
    "vit_base_patch16_rpn_224": SMALL,
    "vit_medium_patch16_reg4_gap_256": SMALL,
    "vit_base_patch16_clip_quickgelu_224": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "mixer_s32_224": dict(img_size=32, num_classes=5),
    "swinv2_tiny_window8_256": SWIN,
    "convnext_tiny_hnf": NEXT,
    "convnext_large_mlp": NEXT | dict(head_hidden_size=8),
    "convnext_atto_ols": NEXT,
    "convnext_atto_rms": NEXT,
    "test_convnext": NEXT,
    "test_convnext3": NEXT,
    "mobilenetv2_110d": dict(num_classes=5),
    "mnasnet_small": dict(num_classes=5),
    "efficientnet_lite0": dict(num_classes=5),
}


def agree(mine, theirs):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(mine / scale, theirs / scale, atol=1e-4)


def same_images(model, reference):
    x = np.random.default_rng(0).standard_normal(
        (2, model.input.size, model.input.size, 3)
    )
    x = x.astype(np.float32)
    put = lambda site, v: jnp.asarray(x) if site == "normalized" else v
    blank = np.zeros(x.shape, np.uint8)
    mine = jax.jit(lambda f: model.forward(f, blank, edit=put))(model.frozen)
    with torch.no_grad():
        y = reference(torch.tensor(x.transpose(0, 3, 1, 2)))
    y = getattr(y, "logits", y)
    agree(mine, getattr(y, "pooler_output", y).numpy().reshape(mine.shape))


@pytest.mark.parametrize("name", SAME)
def test_models_of_timm(name, tmp_path):
    reference, file = from_timm(name, SAME[name], tmp_path)
    size = {"size": 64} if re.match("resnet|conv|mobile", name) else {}
    size |= {"size": 32} if "swin" in name else {}
    same_images(load(tmp_path, **size), reference)
    with pytest.raises(ValueError, match="without a name of its architecture"):
        load(file)
    heads = SAME[name].get("num_heads")
    heads = {"heads": heads} if isinstance(heads, int) else {}
    same_images(load(file, architecture=f"{name}.mine", **heads, **size), reference)


@pytest.mark.parametrize("name", OTHER)
def test_other_models_of_timm(name, tmp_path):
    _, file = from_timm(name, OTHER[name], tmp_path)
    with pytest.raises(ValueError, match=rf"{name}|none of the known"):
        load(tmp_path)
    with pytest.raises(ValueError, match="none of the known|without a name|unexpected"):
        load(file)
    with pytest.raises(ValueError, match=f"{name}|none of the known"):
        load(file, architecture=name)


VIT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_labels=5)
VIT |= dict(image_size=32, patch_size=16, intermediate_size=48)
RES = dict(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1])
EFFICIENT = dict(width_coefficient=0.5, depth_coefficient=1.0, hidden_dim=640)
EFFICIENT |= dict(num_block_repeats=[1, 1, 2, 1, 1, 1, 1], num_labels=5)
MOBILE = dict(depth_multiplier=0.2, num_labels=5)
GRID = dict(image_size=32, patch_size=2, embed_dim=8, depths=[2, 1], num_labels=5)
GRID |= dict(num_heads=[1, 2], window_size=4)
CONV = dict(hidden_sizes=[8, 8, 16, 8], depths=[1, 1, 2, 1], num_labels=5)
IMAGES = {
    "ViT": VIT | dict(layer_norm_eps=0.1, num_attention_heads=2),
    "Dinov2": VIT | dict(layer_norm_eps=0.1, mlp_ratio=2, qkv_bias=False),
    "Dinov2WithRegisters": VIT | dict(layer_norm_eps=0.1, num_register_tokens=2),
    "DeiT": VIT | dict(layer_norm_eps=0.1),
    "Beit": VIT | dict(layer_norm_eps=0.1, use_relative_position_bias=True),
    "ResNet": RES | dict(layer_type="basic", num_labels=5),
    "ConvNext": CONV | dict(layer_norm_eps=0.1, patch_size=2),
    "ConvNextV2": CONV | dict(layer_norm_eps=0.1),
    "Swin": GRID | dict(layer_norm_eps=0.1),
    "MobileNetV2": MOBILE | dict(tf_padding=False),
    "EfficientNet": EFFICIENT | dict(hidden_act="silu", depthwise_padding=[1]),
}
OTHER_IMAGES = {
    "ViT": VIT | dict(hidden_act="quick_gelu"),
    "Dinov2": VIT | dict(use_swiglu_ffn=True),
    "ResNet": RES | dict(hidden_act="silu"),
    "Beit": VIT,  # no biases by distance
    "Data2VecVision": VIT | dict(use_relative_position_bias=True),
    "ViTMSN": VIT,
    "Dinov2WithRegisters": VIT | dict(use_swiglu_ffn=True),
    "DeiT": VIT | dict(hidden_act="relu"),
    "ConvNext": CONV | dict(hidden_act="relu"),
    "RegNet": RES,
    "MobileNetV2": MOBILE | dict(output_stride=16),
    "MobileNetV1": MOBILE,
    "EfficientNet": EFFICIENT | dict(pooling_type="max"),
    "Swin": GRID | dict(hidden_act="relu"),
    "Swinv2": GRID,
    "DonutSwin": GRID,
}


@pytest.mark.parametrize("kind", IMAGES)
def test_image_models_of_transformers(kind, tmp_path):
    head = "ForImageClassification"
    reference = from_transformers(kind, IMAGES[kind], head, tmp_path)
    model = load(tmp_path, size=64 if re.match("Res|Conv|Mobile|Eff", kind) else None)
    same_images(model, reference)
    with pytest.raises(ValueError, match="without a name of its architecture"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", OTHER_IMAGES)
def test_other_image_models_of_transformers(kind, tmp_path):
    head = "ForImageClassification"
    from_transformers(kind, OTHER_IMAGES[kind], head, tmp_path)
    named = r"is a '|none of the known|hidden_act|use_swiglu_ffn"
    named += "|use_relative|output_stride|pooling_type"
    with pytest.raises(ValueError, match=named):
        load(tmp_path)
    with pytest.raises(ValueError, match="without a name|none of the known"):
        load(tmp_path / "model.safetensors")


TEXT = dict(vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
TEXT |= dict(intermediate_size=24, max_position_embeddings=24)
GPT2 = dict(vocab_size=31, n_embd=16, n_layer=2, n_head=2, n_positions=24)
ROPE = dict(rope_type="linear", factor=3.0, rope_theta=50.0)
TEXTS = {
    "Bert": ("ForMaskedLM", TEXT | dict(layer_norm_eps=0.1, num_attention_heads=2)),
    "Roberta": ("ForMaskedLM", TEXT | dict(pad_token_id=3, hidden_act="gelu_new")),
    "GPT2": ("LMHeadModel", GPT2 | dict(n_inner=20, layer_norm_epsilon=0.1)),
    "Llama": ("ForCausalLM", TEXT | dict(head_dim=6, rope_parameters=ROPE)),
    "Mistral": ("ForCausalLM", TEXT | dict(sliding_window=3, rms_norm_eps=0.1)),
    "Qwen2": ("ForCausalLM", TEXT | dict(tie_word_embeddings=True, hidden_act="relu")),
    "Qwen3": ("ForCausalLM", TEXT | dict(head_dim=8, attention_bias=True)),
}
TEXTS = {
    kind: (head, its | dict(num_key_value_heads=2) if kind[0] in "LMQ" else its)
    for kind, (head, its) in TEXTS.items()
}
YARN = dict(rope_type="yarn", factor=2.0, rope_theta=50.0)
YARN |= dict(original_max_position_embeddings=12)
OTHER_TEXTS = {
    "Bert": ("LMHeadModel", TEXT | dict(is_decoder=True)),
    "Roberta": ("ForSequenceClassification", TEXT),
    "GPT2": ("LMHeadModel", GPT2 | dict(scale_attn_by_inverse_layer_idx=True)),
    "Llama": ("ForCausalLM", TEXT | dict(rope_parameters=YARN)),
    "Qwen2": ("ForCausalLM", TEXT | dict(use_sliding_window=True, max_window_layers=0)),
    "Mistral": ("ForTokenClassification", TEXT | dict(num_key_value_heads=2)),
    "Gemma": ("ForCausalLM", TEXT | dict(head_dim=4, num_key_value_heads=2)),
    "Phi": ("ForCausalLM", TEXT),
    "Granite": ("ForCausalLM", TEXT | dict(logits_scaling=3.0)),
    "Olmo": ("ForCausalLM", TEXT),
    "Electra": ("ForMaskedLM", TEXT),
    "XLMRoberta": ("ForMaskedLM", TEXT),
    "DistilBert": ("ForMaskedLM", dict(vocab_size=31, dim=16, n_layers=1, n_heads=2)),
    "OPT": ("ForCausalLM", TEXT | dict(ffn_dim=24, word_embed_proj_dim=16)),
    "GPTNeoX": ("ForCausalLM", TEXT),
    "Bloom": ("ForCausalLM", dict(vocab_size=31, hidden_size=16, n_layer=1, n_head=2)),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_language_models_of_transformers(kind, tmp_path):
    head, its = TEXTS[kind]
    reference = from_transformers(kind, its, head, tmp_path)
    model = language.load(tmp_path)
    ids = np.random.default_rng(0).integers(4, 31, (2, 9))
    mine = jax.jit(lambda f, x: model.forward(f, x).value)(
        model.frozen, tokens(jnp.asarray(ids))
    )
    with torch.no_grad():
        agree(mine, reference(torch.tensor(ids)).logits.numpy())


@pytest.mark.parametrize("kind", OTHER_TEXTS)
def test_other_language_models_of_transformers(kind, tmp_path):
    head, its = OTHER_TEXTS[kind]
    from_transformers(kind, its, head, tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    named = rf"is a '{kind}'|is_decoder|was saved as|layer_idx|'yarn'|sliding"
    with pytest.raises(ValueError, match=named):
        language.load(tmp_path)
    with pytest.raises(ValueError, match="expected a .gguf file or a folder"):
        language.load(tmp_path / "model.safetensors")


def test_the_names_that_are_taken_for_plain_ones_are():
    """Of all timm's names that the patterns take: heads, epsilon, activation, place of
    the norms, pooling; for a ResNet the stem, blur and pooling."""
    from reprojax.models.vision import (
        beit,
        convnext,
        mobilenet,
        resnet,
        swin,
        vit_layouts,
    )

    for name in timm().list_models():
        if re.fullmatch(vit_layouts.NAMES, name):
            with torch.device("meta"):
                net = timm().create_model(name)
            block, width = net.blocks[0], net.embed_dim
            assert block.attn.num_heads == vit_layouts.HEADS[width]
            assert type(block).__name__ == "Block" and net.global_pool == "token"
            assert block.norm1.eps == net.norm.eps == 1e-6
        elif re.fullmatch(resnet.LAYOUTS[0].names, name):
            with torch.device("meta"):
                net = timm().create_model(name)
            assert type(net.maxpool).__name__ == "MaxPool2d"
            assert net.conv1.kernel_size == (7, 7) and net.bn1.eps == 1e-5
            block = net.layer2[0]
            parts = {str(getattr(block, name, None)) for name in ("se", "aa")}
            assert parts <= {"None", "Identity()"}
            assert isinstance(block.act1, torch.nn.ReLU)
        elif re.fullmatch(mobilenet.LAYOUTS[1].names, name):
            with torch.device("meta"):
                net = timm().create_model(name)
            assert [len(stage) for stage in net.blocks] == list(mobilenet.DEPTHS)
            assert net.bn1.eps == net.blocks[1][0].bn1.eps == net.bn2.eps == 1e-5
            assert type(net.bn1.act).__name__ == "ReLU6"
            assert net.conv_stem.padding == (1, 1)
        elif re.fullmatch(beit.LAYOUTS[0].names, name):
            with torch.device("meta"):
                net = timm().create_model(name)
            block = net.blocks[0]
            assert block.norm1.eps == net.fc_norm.eps == 1e-6
            assert isinstance(block.mlp.act, torch.nn.GELU) and net.pos_embed is None
            assert net.global_pool == "avg" and net.rel_pos_bias is None
        elif re.fullmatch(swin.LAYOUTS[0].names, name):
            with torch.device("meta"):
                net = timm().create_model(name)
            block = net.layers[1].blocks[1]
            assert block.norm1.eps == net.norm.eps == net.patch_embed.norm.eps == 1e-5
            assert isinstance(block.mlp.act, torch.nn.GELU)
            assert net.head.global_pool.pool_type == "avg"
            assert not block.always_partition
        elif re.fullmatch(convnext.NAMES, name):
            with torch.device("meta"):
                net = timm().create_model(name)
            block, down = net.stages[1].blocks[0], net.stages[1].downsample
            norms = (net.stem[1], block.norm, down[0], net.head.norm)
            assert {norm.eps for norm in norms} == {1e-6}
            assert {type(n).__name__ for n in norms} <= {"LayerNorm", "LayerNorm2d"}
            assert repr(block.mlp.act) == "GELU()"  # not GELUTanh()
