"""CLIP and SigLIP against transformers in torch, with random weights: logits of images
and texts, input gradients, and the names that OpenAI's files have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

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


def openai_names(tensors):
    """transformers' tensors of a CLIP by the names of OpenAI's files."""
    out = {
        "logit_scale": tensors["logit_scale"],
        "visual.proj": tensors["visual_projection.weight"].T,
        "text_projection": tensors["text_projection.weight"].T,
    }
    towers = {
        "text_model.": ("", "embeddings.token_embedding.weight"),
        "vision_model.": ("visual.", "embeddings.patch_embedding.weight"),
    }
    for theirs, (ours, _) in towers.items():
        own = {k[len(theirs) :]: v for k, v in tensors.items() if k.startswith(theirs)}
        for i in range(2):
            layer = f"encoder.layers.{i}."
            block = f"{ours}transformer.resblocks.{i}."
            for end in ("weight", "bias"):
                out[f"{block}attn.in_proj_{end}"] = np.concatenate(
                    [own[f"{layer}self_attn.{n}_proj.{end}"] for n in "qkv"]
                )
                for old, new in {
                    "self_attn.out_proj": "attn.out_proj",
                    "layer_norm1": "ln_1",
                    "layer_norm2": "ln_2",
                    "mlp.fc1": "mlp.c_fc",
                    "mlp.fc2": "mlp.c_proj",
                }.items():
                    out[f"{block}{new}.{end}"] = own[f"{layer}{old}.{end}"]
        names = {
            "embeddings.class_embedding": "class_embedding",
            "embeddings.patch_embedding.weight": "conv1.weight",
            "embeddings.token_embedding.weight": "token_embedding.weight",
            "embeddings.position_embedding.weight": "positional_embedding",
        }
        for old, new in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
            names |= {f"{old}.{end}": f"{new}.{end}" for end in ("weight", "bias")}
        names |= {f"final_layer_norm.{e}": f"ln_final.{e}" for e in ("weight", "bias")}
        out |= {ours + new: own[old] for old, new in names.items() if old in own}
    return {name: np.ascontiguousarray(value) for name, value in out.items()}


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
    import json

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
