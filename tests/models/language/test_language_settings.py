"""Configs and tied tables of language models: used, harmless, or refused."""

import json

import jax
import language_files as files
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reprojax.models import language
from reprojax.models.language import llama
from reprojax.models.language.gpt2 import plan as gpt2_plan


def refused(folder, message):
    with pytest.raises(ValueError, match=message):
        language.load(folder)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("llama", {"logit_scale": 0.1}, r"not known here: \{'logit_scale': 0.1\}"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved = True"),
        ("llama", {"num_key_value_heads": 3}, "4 heads in 3 groups"),
        ("llama", {"num_attention_heads": 3, "head_dim": None}, "16 with 3 heads"),
        ("llama", {"num_hidden_layers": 2**30}, "expected some for each layer"),
        ("llama", {"head_dim": 2**30}, r"at `\$.head_dim`"),
        ("llama", {"hidden_size": "16"}, r"got `str` - at `\$.hidden_size`"),
        ("llama", {"rms_norm_eps": -1.0}, r"at `\$.rms_norm_eps`"),
        ("llama", {"rope_theta": [1.0]}, r"got `array` - at `\$.rope_theta`"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "has no factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "rotation"),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}},
            "mrope_section",
        ),
        (
            "llama",
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "default"},
            },
            "expected one of them",
        ),
        (
            "llama",
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor = 0.5",
        ),
        ("llama", {"model_type": "qwen2", "layer_types": ["chunked"]}, "full"),
        ("llama", {"model_type": "qwen2"}, r"missing: .*q_proj.bias"),
        ("llama", {"model_type": "qwen3"}, r"missing: .*q_norm.weight"),
        ("llama", {"attention_bias": True}, r"missing: .*o_proj.bias"),
        ("llama", {"architectures": ["LlamaForTokenClassification"]}, "saved as"),
        ("bert", {"architectures": ["BertForSequenceClassification"]}, "AutoModel"),
        ("bert", {"embedding_norm": "rms"}, "embedding_norm"),
        ("bert", {"num_attention_heads": 0}, r"at `\$.num_attention_heads`"),
        ("gpt2", {"n_head": 5}, "width 16 with 5 heads"),
        ("gpt2", {"attention_scale": 2.0}, "attention_scale"),
    ],
)  # fmt: skip
def test_what_would_be_another_model_is_refused(tmp_path, name, changes, message):
    refused(files.write(tmp_path / "m", name, **changes), message)


def test_harmless_settings_and_those_taken_on_the_callers_word(tmp_path):
    more = {"attention_dropout": 0.5, "torch_dtype": "float16", "_name_or_path": "x"}
    folder = files.write(tmp_path / "m", "llama", **more, mine=3)
    refused(folder, r"ignore=\['mine'\]")
    assert language.load(folder, ignore=["mine"]).input.kind == "causal"


def test_a_mistral_that_says_no_window_has_its_usual_one():
    config = files.LLAMA | {"model_type": "mistral"}
    names = {f"t{i}": np.zeros(1) for i in range(9)}
    assert llama.plan(config, names).heads.window == 4096
    assert llama.plan(config | {"sliding_window": None}, names).heads.window is None
    assert llama.plan(files.LLAMA, names).heads.window is None
    assert gpt2_plan(files.GPT2, names).tied


@pytest.mark.parametrize("beside", ["generation_config.json", "tokenizer_config.json"])
def test_files_beside_of_other_types(tmp_path, beside):
    folder = files.write(tmp_path / "m", "llama")
    for text in ('{"eos_token_id": "two", "eos_token": 3}', "[", "[]", ""):
        (folder / beside).write_text(text)
        refused(folder, f"{beside} is ")


# -- tied tables

TIED = {
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "gpt2": ("wte.weight", "lm_head.weight"),
    "bert": (
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
    ),
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_table_under_either_name_or_both_but_not_two(tmp_path, name):
    """A table of its own beside a config that says tied is another model."""
    folder = files.write(tmp_path / "m", name)
    path, (own, head) = folder / "model.safetensors", TIED[name]
    tensors = load_file(path)
    tensors.pop(head, None)
    for given in ((own,), (head,), (own, head)):
        rest = {n: t for n, t in tensors.items() if n != own}
        save_file(rest | {n: tensors[own].copy() for n in given}, path)
        table = language.load(folder).frozen["params"]["embed"]["embedding"]
        np.testing.assert_array_equal(table, tensors[own])
    save_file(tensors | {head: tensors[own] + 1}, path)
    refused(folder, "differs from .*expected the same in a tied model")


def test_prefixes_in_any_order(tmp_path):
    """Lightning's before transformers', torch.compile's between the layers."""
    folder = files.write(tmp_path / "m", "llama")
    plain, path = language.load(folder), folder / "model.safetensors"
    tensors = load_file(path)
    for change in (
        lambda name: f"_orig_mod.{name}",
        lambda name: f"model.module.{name}",
        lambda name: f"model._orig_mod.{name}",
        lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    ):
        save_file({change(name): t for name, t in tensors.items()}, path)
        jax.tree.map(
            np.testing.assert_array_equal, plain.frozen, language.load(folder).frozen
        )


def test_weights_that_are_not_finite_are_named(tmp_path):
    folder = files.write(tmp_path / "m", "llama")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][2, 2] = np.inf
    save_file(tensors, folder / "model.safetensors")
    refused(folder, f"model.safetensors holds {name} with 1 of 384 numbers NaN or")


def test_an_adapter_and_a_pickle_say_what_to_do(tmp_path):
    folder = files.write(tmp_path / "m", "llama")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    refused(folder, "merge it")
    (folder / "adapter_model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, r"'pytorch_model.bin'.*save_pretrained")


def test_a_config_that_is_none(tmp_path):
    folder = files.write(tmp_path / "m", "llama")
    for text in ("", "[]", '"llama"', '{"model_type": "llama"', "{" * 10**5):
        (folder / "config.json").write_text(text)
        refused(folder, "config.json")
    for wrong in (3, None, ["llama"], {}):
        (folder / "config.json").write_text(json.dumps({"model_type": wrong}))
        refused(folder, "expected one of bert")
