"""CLIP and SigLIP against transformers in torch, with random weights: logits of images
and texts, input gradients, and the names that OpenAI's files have."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from timm_models import timm

from reprojax.core import tokens
from reprojax.models import image_text
from reprojax.models.image_text.card import (
    Texts,
    compared,
    encoded,
    text_features,
)

pytestmark = pytest.mark.verify
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    vocab_size=40,
    max_position_embeddings=12,
    bos_token_id=38,
    eos_token_id=39,
    pad_token_id=1,
)
IMAGE = dict(
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
)
CLIP_IDS = [[38, 5, 6, 39] + [39] * 8, [38, 7, 8, 9, 10, 39] + [39] * 6]
SIGLIP_IDS = [[5, 6, 39] + [1] * 9, [7, 8, 9, 10, 39] + [1] * 7]


def of_torch(kind):
    """A random model, its ids, and how many of each row count."""
    torch.manual_seed(0)
    if kind == "siglip":
        config = transformers.SiglipConfig(
            text_config=TEXT, vision_config=IMAGE | {"hidden_size": 16}
        )
        model, ids, counts = transformers.SiglipModel(config), SIGLIP_IDS, (12, 12)
    else:
        exact = {"hidden_act": "gelu"} if kind == "exact clip" else {}
        config = transformers.CLIPConfig(
            text_config=TEXT | exact,
            vision_config=IMAGE | {"hidden_size": 24} | exact,
            projection_dim=8,
        )
        model, ids, counts = transformers.CLIPModel(config), CLIP_IDS, (4, 6)
    with torch.no_grad():
        for leaf in model.parameters():
            leaf += 0.1 * torch.randn_like(leaf)
    return model.eval(), np.array(ids), counts


def logits(pair, x, ids, counts):
    weight = jnp.asarray([[i < n for i in range(12)] for n in counts], jnp.float32)
    own = tokens(jnp.asarray(ids), weight)
    frozen = {
        "image": pair.image.frozen,
        "text": pair.text.frozen,
        "scale": pair.scale,
        "bias": pair.bias,
        "texts": Texts(own, text_features(pair, own), None),
    }
    return compared(pair.image.forward, pair.text.forward)(frozen, x)


def of_both(model, pair, ids, counts):
    """(logits, slopes of the pixels) of torch, and of JAX."""
    x = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)
    mean, std = (torch.tensor(a) for a in (pair.image.input.mean, pair.image.input.std))
    pixels = torch.tensor(x, requires_grad=True)
    normal = ((pixels - mean) / std).permute(0, 3, 1, 2)
    y = model(input_ids=torch.tensor(ids), pixel_values=normal).logits_per_image
    (y**2).sum().backward()
    ours = jax.jit(lambda x: logits(pair, x, ids, counts))
    slopes = jax.grad(lambda x: (ours(x) ** 2).sum())(x)
    return (y.detach().numpy(), pixels.grad.numpy()), (ours(x), slopes)


def compare(theirs, ours):
    for expected, found in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "exact clip", "siglip"])
def test_logits_and_input_gradients(kind, tmp_path):
    model, ids, counts = of_torch(kind)
    model.save_pretrained(tmp_path)
    pair = image_text.load(tmp_path, tokenizer=None)
    compare(*of_both(model, pair, ids, counts))


ENDS = ("weight", "bias")
OPENAI = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
TIMM = {
    "self_attn.out_proj": "attn.proj",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def of_tower(tensors, theirs):
    return {k[len(theirs) :]: v for k, v in tensors.items() if k.startswith(theirs)}


def of_blocks(own, block, joined, names):
    """Two blocks by other names; query, key and value are one tensor."""
    out = {}
    for i in range(2):
        layer = f"encoder.layers.{i}."
        for end in ENDS:
            out[block.format(i) + joined + end] = np.concatenate(
                [own[f"{layer}self_attn.{n}_proj.{end}"] for n in "qkv"]
            )
            for old, new in names.items():
                out[f"{block.format(i)}{new}.{end}"] = own[f"{layer}{old}.{end}"]
    return out


def openai_tower(own, ours):
    out = of_blocks(own, ours + "transformer.resblocks.{}.", "attn.in_proj_", OPENAI)
    names = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    for old, new in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        names |= {f"{old}.{end}": f"{new}.{end}" for end in ENDS}
    names |= {f"final_layer_norm.{end}": f"ln_final.{end}" for end in ENDS}
    return out | {ours + new: own[old] for old, new in names.items() if old in own}


def openai_names(tensors):
    """transformers' tensors of a CLIP by the names of OpenAI's files."""
    out = {
        "logit_scale": tensors["logit_scale"],
        "visual.proj": tensors["visual_projection.weight"].T,
        "text_projection": tensors["text_projection.weight"].T,
    }
    for theirs, ours in {"text_model.": "", "vision_model.": "visual."}.items():
        out |= openai_tower(of_tower(tensors, theirs), ours)
    return {name: np.ascontiguousarray(value) for name, value in out.items()}


def timm_trunk(own):
    """transformers' tensors of SigLIP's image tower by the names of timm."""
    width = own["head.probe"].shape[-1]
    out = of_blocks(own, "blocks.{}.", "attn.qkv.", TIMM)
    out |= {
        "pos_embed": own["embeddings.position_embedding.weight"][None],
        "attn_pool.latent": own["head.probe"],
    }
    for end in ENDS:
        joined = own[f"head.attention.in_proj_{end}"]
        out |= {
            f"patch_embed.proj.{end}": own[f"embeddings.patch_embedding.{end}"],
            f"norm.{end}": own[f"post_layernorm.{end}"],
            f"attn_pool.q.{end}": joined[:width],
            f"attn_pool.kv.{end}": joined[width:],
            f"attn_pool.proj.{end}": own[f"head.attention.out_proj.{end}"],
            f"attn_pool.norm.{end}": own[f"head.layernorm.{end}"],
            f"attn_pool.mlp.fc1.{end}": own[f"head.mlp.fc1.{end}"],
            f"attn_pool.mlp.fc2.{end}": own[f"head.mlp.fc2.{end}"],
        }
    return out


@pytest.mark.parametrize("kind", ["clip", "exact clip"])
def test_names_of_openai_and_of_open_clip(kind, tmp_path):
    # OpenAI's heads are 64 wide, and no config says so
    text = TEXT | dict(hidden_size=64, num_attention_heads=1, eos_token_id=39)
    exact = {"hidden_act": "gelu"} if kind == "exact clip" else {}
    config = transformers.CLIPConfig(
        text_config=text | exact,
        vision_config=IMAGE | dict(hidden_size=64, num_attention_heads=1) | exact,
        projection_dim=8,
    )
    torch.manual_seed(1)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    tensors = openai_names(load_file(tmp_path / "theirs/model.safetensors"))
    folder = tmp_path / "ours"
    folder.mkdir()
    save_file(tensors, folder / "open_clip_model.safetensors")
    if exact:
        said = '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"layers": 2}}}'
        (folder / "open_clip_config.json").write_text(said)
    pair = image_text.load(folder, tokenizer=None)
    compare(*of_both(model, pair, np.array(CLIP_IDS), (4, 6)))
    # as an archive of torch's JIT has them, and older OpenCLIP a mask
    more = {
        n: np.array(7) for n in ("input_resolution", "context_length", "vocab_size")
    }
    more["attn_mask"] = np.triu(np.full((12, 12), -np.inf, np.float32), 1)
    save_file(tensors | more, folder / "open_clip_model.safetensors")
    again = image_text.load(folder, tokenizer=None)
    jax.tree.map(np.testing.assert_array_equal, again.text.frozen, pair.text.frozen)


def siglip_of_open_clip(folder, act, said):
    """A random SigLIP of transformers, and the same as OpenCLIP writes it."""
    torch.manual_seed(2)
    text = TEXT | dict(hidden_act=act, projection_size=24)
    image = IMAGE | dict(hidden_size=24, num_attention_heads=12, intermediate_size=96)
    config = transformers.SiglipConfig(
        text_config=text, vision_config=image | {"hidden_act": act}
    )
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        for leaf in model.parameters():
            leaf += 0.3 * torch.randn_like(leaf)
    model.save_pretrained(folder / "theirs")
    tensors = load_file(folder / "theirs/model.safetensors")
    trunk = timm_trunk(of_tower(tensors, "vision_model."))
    own = {n: tensors[n] for n in ("logit_scale", "logit_bias")}
    own |= {f"visual.trunk.{name}": value for name, value in trunk.items()}
    own |= openai_tower(of_tower(tensors, "text_model."), "text.")
    for end in ENDS:
        own[f"text.text_projection.{end}"] = tensors[f"text_model.head.{end}"]
    own = {name: np.ascontiguousarray(value) for name, value in own.items()}
    save_file(own, folder / "open_clip_model.safetensors")
    config = {
        "embed_dim": 24,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 16,
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 40,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 16,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    }
    for part, more in said.items():
        config[part] |= more
    looks = {"mean": [0.4, 0.5, 0.6], "std": [0.2] * 3, "resize_mode": "squash"}
    whole = {
        "model_cfg": config,
        "preprocess_cfg": looks | {"interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    return model, trunk


TANH = {
    "vision_cfg": {"timm_model_name": "vit_base_patch32_siglip_256"},
    "text_cfg": {"act_kwargs": {"approximate": "tanh"}},
}


@pytest.mark.parametrize(
    ("act", "said"), [("gelu", {}), ("gelu_pytorch_tanh", TANH)], ids=["exact", "tanh"]
)
def test_siglip_in_names_of_open_clip_and_timm(act, said, tmp_path):
    model, trunk = siglip_of_open_clip(tmp_path, act, said)
    theirs = (
        timm()
        .create_model(
            f"vit_base_patch{32 if said else 16}_siglip_{256 if said else 224}",
            img_size=16,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_classes=0,
        )
        .eval()
    )
    theirs.load_state_dict({n: torch.tensor(v) for n, v in trunk.items()})
    pair = image_text.load(tmp_path, tokenizer=None)
    assert pair.image.input.mean == (0.4, 0.5, 0.6) and pair.padding == "right"
    compare(*of_both(model, pair, np.array(SIGLIP_IDS), (12, 12)))
    x = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    normal = torch.tensor((x - np.array(pair.image.input.mean)) / 0.2).float()
    with torch.no_grad():
        features = theirs(normal.permute(0, 3, 1, 2)).numpy()
    ours = pair.image.forward(pair.image.frozen, x)
    np.testing.assert_allclose(ours, features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_gap_224"}}, "gap"),
        ({"vision_cfg": {"timm_pool": "avg"}}, "timm_pool = 'avg', expected 'map'"),
        ({"text_cfg": {"no_causal_mask": False}}, "no_causal_mask = False"),
        ({"text_cfg": {"pool_type": "argmax"}}, "pool_type = 'argmax'"),
        ({"text_cfg": {"act_kwargs": {"approximate": "sine"}}}, "act_kwargs"),
        ({"text_cfg": {"embed_cls": True}}, "'embed_cls': True"),
        ({"vision_cfg": {"image_size": 32}}, "positions of 4 patches of 8 pixels"),
    ],
)
def test_other_towers_of_open_clip_are_refused(said, message, tmp_path):
    siglip_of_open_clip(tmp_path, "gelu", said)
    with pytest.raises(ValueError, match=message):
        image_text.load(tmp_path, tokenizer=None)


def test_images_are_prepared_as_open_clip_says(tmp_path):
    model, *_ = of_torch("clip")
    model.save_pretrained(tmp_path)
    tensors = openai_names(load_file(tmp_path / "model.safetensors"))
    folder = tmp_path / "ours"
    folder.mkdir()
    path = folder / "open_clip_config.json"
    save_file(tensors, folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match="tower of width 16 for heads of 64"):
        image_text.load(folder, tokenizer=None)
    towers = {
        "text_cfg": {"heads": 2},
        "vision_cfg": {"head_width": 12, "image_size": 16},
    }
    looks = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 0.5], "size": 16}
    # what transformers wrote beside it is of another pair
    other = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(other))
    whole = {"model_cfg": towers, "preprocess_cfg": looks}
    path.write_text(json.dumps(whole))
    reads = image_text.load(folder, tokenizer=None).image.input
    assert reads.mean == (0.1, 0.2, 0.3) and reads.std == (1, 1, 0.5)
    for bad, message in (
        ({"size": [8, 8]}, "has 8 pixels, its image tower takes 16"),
        ({"mode": "L"}, "mode = 'L', expected 'RGB'"),
        ({"mean": "dark"}, "preprocess_cfg"),
        ({"gamma": 2}, "'gamma': 2"),
    ):
        path.write_text(json.dumps(whole | {"preprocess_cfg": looks | bad}))
        with pytest.raises(ValueError, match=message):
            image_text.load(folder, tokenizer=None)


def stored_pair(folder, kind):
    """The file of a random pair, and its tensors."""
    model, *_ = of_torch("siglip" if kind == "siglip" else "clip")
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if kind == "openai":
        tensors = openai_names(tensors)
        said = {"text_cfg": {"heads": 2}, "vision_cfg": {"head_width": 12}}
        (folder / "open_clip_config.json").write_text(json.dumps(said))
    return path, tensors


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("clip", "logit_scale"),
        ("openai", "logit_scale"),
        ("siglip", "logit_scale"),
        ("siglip", "logit_bias"),
    ],
)
def test_a_missing_scale_or_bias_is_refused(kind, number, tmp_path):
    path, tensors = stored_pair(tmp_path, kind)
    save_file({n: t for n, t in tensors.items() if n != number}, path)
    with pytest.raises(ValueError, match=f"has no {number}, expected one number"):
        image_text.load(tmp_path, tokenizer=None)
    save_file(tensors | {number: np.ones(2, np.float32)}, path)
    with pytest.raises(ValueError, match=rf"has \[2\] for {number}, expected one"):
        image_text.load(tmp_path, tokenizer=None)
    save_file(tensors | {number: np.full(1, 0.25, np.float32)}, path)
    pair = image_text.load(tmp_path, tokenizer=None)
    assert (pair.scale if number == "logit_scale" else pair.bias) == 0.25


@pytest.mark.parametrize(
    ("kind", "path", "cut"),
    [
        ("clip", "text_projection.weight", np.s_[:7]),
        ("openai", "text_projection", np.s_[:, :7]),
        ("siglip", "", np.s_[:]),
    ],
)
def test_towers_of_two_spaces_are_refused(kind, path, cut, tmp_path):
    file, tensors = stored_pair(tmp_path, kind)
    if path:
        tensors[path] = np.ascontiguousarray(tensors[path][cut])
        save_file(tensors, file)
        widths = "texts of width 7 and images of width 8"
    else:
        config = transformers.SiglipConfig(
            text_config=TEXT, vision_config=IMAGE | {"hidden_size": 24}
        )
        transformers.SiglipModel(config).save_pretrained(tmp_path)
        widths = "texts of width 16 and images of width 24"
    with pytest.raises(ValueError, match=f"{widths}, expected one joint space"):
        image_text.load(tmp_path, tokenizer=None)


def test_a_missing_tower_and_other_models_are_refused(tmp_path):
    model, *_ = of_torch("clip")
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    kept = {k: v for k, v in tensors.items() if not k.startswith(("text_", "logit"))}
    save_file(kept, path)
    with pytest.raises(ValueError, match="holds no text tower, expected both"):
        image_text.load(tmp_path, tokenizer=None)
    save_file(dict(list(tensors.items())[:-3]), path)
    with pytest.raises(ValueError, match="missing: "):
        image_text.load(tmp_path, tokenizer=None)
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    with pytest.raises(ValueError, match="siglip2-base-patch16-224"):
        image_text.load(tmp_path, tokenizer=None)
    (tmp_path / "config.json").write_text('{"model_type": "clip", "novel": 3}')
    with pytest.raises(ValueError, match="'novel': 3"):
        image_text.load(tmp_path, tokenizer=None)


def bytes_of_words(folder, tokenizer_class, **more):
    """A tokeniser of letters in a folder, with what its config says."""
    import tokenizers

    letters = {c: i for i, c in enumerate("_abcdefghijklmnopqrstuvwxyz .ABC!")}
    text = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="_"))
    text.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    text.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": tokenizer_class} | more
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("kind", "said"), [("SiglipTokenizer", "a cat"), ("GemmaTokenizerFast", "a cat!.")]
)
def test_siglip_reads_a_text_as_its_authors_wrote_it(kind, said, tmp_path):
    model, *_ = of_torch("siglip")
    model.save_pretrained(tmp_path)
    bytes_of_words(tmp_path, kind, padding_side="left")
    pair = image_text.load(tmp_path)
    rust = pair.text.input.tokenizer
    assert rust.encode("A  Cat!.") == [rust.id(c) for c in said]
    ids = encoded(pair, ["A Cat!."])
    assert ids.value.shape == (1, 12) and ids.weight.all()
    np.testing.assert_array_equal(ids.value[0, -len(said) :], rust.encode(said))
    np.testing.assert_array_equal(ids.position[0], np.arange(12))


def test_padding_is_what_the_files_beside_the_tokeniser_say(tmp_path):
    model, *_ = of_torch("siglip")
    model.save_pretrained(tmp_path)  # whose config pads with 1
    bytes_of_words(tmp_path, "SiglipTokenizer", padding_side="left", pad_token="B")
    other = tmp_path / "other"
    other.mkdir()
    bytes_of_words(other, "SiglipTokenizer", pad_token={"content": "C"})
    for pair, side, pad in (
        (image_text.load(tmp_path), 0, "B"),
        (image_text.load(tmp_path, tokenizer=other), -1, "C"),
    ):
        ids = encoded(pair, ["a cat"]).value[0]
        assert ids[side] == pair.text.input.tokenizer.id(pad)
        assert ids[-1 - side] == pair.text.input.tokenizer.id("ta"[side])
    bytes_of_words(other, "SiglipTokenizer", pad_token="<pad>")
    with pytest.raises(ValueError, match="pads with '<pad>', which is no token"):
        image_text.load(tmp_path, tokenizer=other)
