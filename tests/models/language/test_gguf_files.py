"""GGUF files: the model of the safetensors, and what is refused."""

import struct
import sys

import gguf
import jax
import jax.numpy as jnp
import language_files as files
import numpy as np
import pytest

from reprojax.core import tokens
from reprojax.models import language
from reprojax.models.language.gguf_tokenizer import from_gguf

BYTES = ["a", "b", "c", "\u0120", "ab", "\u0120ab", "<|end|>"]
PIECES = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581ab", "c"]


def folder(tmp_path):
    return language.load(files.write(tmp_path / "llama", "llama"))


def test_it_is_the_model_of_the_safetensors(tmp_path):
    """Llama's queries and keys come with their rotated pairs as neighbours."""
    model, other = (
        folder(tmp_path),
        language.load(files.write_gguf(tmp_path / "m.gguf")),
    )
    jax.tree.map(np.testing.assert_array_equal, model.frozen, other.frozen)
    x = tokens(jnp.array([[3, 1, 4, 1, 5]]))
    y, z = (jax.jit(m.forward)(m.frozen, x).value for m in (model, other))
    np.testing.assert_array_equal(y, z)  # the rotation's base among the rest
    for field in ("width", "roles", "classes"):
        assert getattr(model, field) == getattr(other, field)
    assert other.input == model.input._replace(tokenizer=None)
    assert other.name == "m"


@pytest.mark.parametrize("kind, error", [("F16", 1e-3), ("Q8_0", 2e-2), ("Q4_1", 0.2)])
def test_quantised_weights_are_close(tmp_path, monkeypatch, kind, error):
    for name, size in (("WIDTH", 64), ("HIDDEN", 96)):  # blocks of 32
        monkeypatch.setattr(files, name, size)
    changes = dict(hidden_size=64, intermediate_size=96)
    model = language.load(files.write(tmp_path / "llama", "llama", **changes))
    other = language.load(files.write_gguf(tmp_path / "m.gguf", kind))
    worst = 0.0
    for a, b in zip(*map(jax.tree.leaves, (model.frozen, other.frozen)), strict=True):
        assert b.dtype == jnp.float32
        worst = max(worst, float(jnp.abs(a - b).max() / jnp.abs(a).max()))
    assert error / 100 < worst < error


def test_what_cannot_be_read_is_refused(tmp_path, monkeypatch):
    path = files.write_gguf(tmp_path / "ints.gguf", "I32")
    with pytest.raises(
        ValueError,
        match=r"as I32, expected one of F32, F16, BF16, Q4_0.*language.texts\(module\)",
    ):
        language.load(path)
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="could not be read as GGUF"):
        language.load(torn)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match="pip install gguf"):
        language.load(path)


def test_a_part_of_a_model_is_refused(tmp_path):
    path = files.write_gguf(tmp_path / "m-1.gguf", add_uint16=("split.count", 3))
    with pytest.raises(ValueError, match="one of 3 parts of a model, expected a whole"):
        language.load(path)


def test_another_architecture_is_refused(tmp_path):
    its = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    its.add_block_count(1)
    its.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    for write in ("header", "kv_data", "tensors"):
        getattr(its, f"write_{write}_to_file")()
    its.close()
    with pytest.raises(
        ValueError, match="'gemma3', expected one of llama, qwen2, qwen3"
    ):
        language.load(tmp_path / "m.gguf")


def test_part_of_a_head_rotated_is_refused(tmp_path):
    path = files.write_gguf(tmp_path / "m.gguf", add_rope_dimension_count=2)
    with pytest.raises(ValueError, match="partial_rotary_factor = 0.5"):
        language.load(path)


def test_its_byte_tokeniser(tmp_path):
    its = dict(
        add_tokenizer_model="gpt2",
        add_tokenizer_pre="smollm",
        add_token_list=BYTES,
        add_token_types=[1] * 6 + [3],
        add_token_merges=["a b", "\u0120 ab"],
        add_add_bos_token=False,
    )
    text = language.load(files.write_gguf(tmp_path / "m.gguf", **its)).input.tokenizer
    assert text.encode("ab ab<|end|>c") == [4, 5, 6, 2]
    assert text.decode([4, 5, 6, 2]) == "ab abc"
    assert (text.size, text.id("<|end|>"), text.token(5)) == (7, 6, "\u0120ab")
    its |= dict(add_tokenizer_pre="tekken")
    path = files.write_gguf(tmp_path / "other.gguf", **its)
    with pytest.raises(
        ValueError, match="cut as 'tekken'; expected 'llama', or 'gpt2'"
    ):
        language.load(path)
    assert language.load(path, tokenizer=None).input.tokenizer is None


def test_its_sentencepiece_tokeniser(tmp_path):
    its = dict(
        add_tokenizer_model="llama",
        add_token_list=PIECES,
        add_token_scores=[0.0] * 4 + [-9.0, -9.0, -9.0, -1.0, -2.0, -9.0],
        add_token_types=[2, 3, 3, 6] + [1] * 6,
        add_unk_token_id=0,
    )
    text = language.load(files.write_gguf(tmp_path / "m.gguf", **its)).input.tokenizer
    assert text.encode("ab c\n") == [1, 8, 4, 9, 3]
    assert text.encode("ab", special=False) == [8]
    assert text.decode([1, 8, 4, 9, 3]) == "ab c\n"


def test_a_tokeniser_that_does_not_fit(tmp_path):
    many = [f"t{i}" for i in range(41)]
    its = dict(add_tokenizer_model="gpt2", add_token_merges=["a b"])
    its |= dict(add_tokenizer_pre="default")
    its["add_token_list"] = [*many[:39], "a", "b", "ab"]
    path = files.write_gguf(tmp_path / "m.gguf", **its)
    with pytest.raises(ValueError, match="ids up to 41 and m a vocabulary of 40"):
        language.load(path)


BPE = dict(model="gpt2", pre="qwen2", tokens=["a", "b", "ab", "c", "abc", "<s>"])
BPE |= dict(token_type=[1, 1, 1, 1, 1, 3], merges=["a b"], bos_token_id=5)
SPM = dict(model="llama", tokens=PIECES, scores=[0.0] * 10)
SPM |= dict(token_type=[2, 3, 3, 6] + [1] * 6)


def described(**fields):
    found = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    return from_gguf({key: v for key, v in found.items() if v is not None})


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_bos_as_llama_cpp_puts_it(pre, said):
    """With Llama 3's cut texts begin with BOS, and a word that is a token is that
    token, though no pairs make it."""
    text = described(**BPE | dict(pre=pre, add_bos_token=said))
    puts = pre == "llama-bpe" if said is None else said
    assert text.encode("ab") == [5, 2] if puts else [2]
    assert text.encode("abc", special=False) == ([4] if pre == "llama-bpe" else [2, 3])


def test_user_defined_tokens_are_text_and_control_tokens_are_not():
    pieces = ["a", "b", "ab", "<think>", "</think>", "\n\n", "<|end|>"]
    kinds = [1, 1, 1, 4, 4, 4, 3]
    text = described(**BPE | dict(tokens=pieces, token_type=kinds, bos_token_id=None))
    said = "<think>ab</think>\n\nab"
    ids = text.encode(said + "<|end|>")
    assert ids == [3, 2, 4, 5, 2, 6] and text.decode(ids) == said
    text = described(**SPM | dict(token_type=[2, 3, 3, 6, 1, 1, 1, 4, 1, 1]))
    assert text.decode(text.encode("ab</s>")) == "ab"


def test_the_default_cut_is_llama_cpps():
    """Digits in threes, and punctuation apart."""
    pieces = ["1", "2", "12", "121", "!", "1!", "<s>"]
    its = dict(tokens=pieces, token_type=[1] * 6 + [3], merges=["1 2", "12 1", "1 !"])
    text = described(**BPE | its | dict(pre="default", bos_token_id=6))
    assert text.encode("12121!") == [3, 1, 0, 4]


@pytest.mark.parametrize(
    "fields, message",
    [
        (BPE | dict(merges=None), "'gpt2' without merges"),
        (SPM | dict(scores=None), "'llama' without scores"),
        (BPE | dict(pre=None), "cut as 'None'"),
        (BPE | dict(merges=["a b c"]), "pairs with one space between"),
        (BPE | dict(token_type=[1]), "6 tokens, 1 types"),
        (SPM | dict(scores=[0.0]), "10 tokens, 10 types, 1 scores"),
        (BPE | dict(pre="llama-bpe", bos_token_id=None), "no bos_token_id"),
        (BPE | dict(pre="llama-bpe", bos_token_id=6), "begins with 6"),
        (BPE | dict(tokens="abc"), r"got `str` - at `\$.tokens`"),
        (BPE | dict(merges=[1]), r"got `int` - at `\$.merges"),
        (BPE | dict(add_bos_token="no"), r"at `\$.add_bos_token`"),
    ],
)
def test_tokenisers_that_are_not_whole(fields, message):
    with pytest.raises(ValueError, match=message):
        described(**fields)


def test_it_ends_where_llama_cpp_ends(tmp_path):
    """At the end of a turn too, named or known by its text."""
    pieces = ["a", "b", "ab", "<|end_of_text|>", "<|eot_id|>", "<|mine|>"]
    its = dict(add_tokenizer_model="gpt2", add_tokenizer_pre="qwen2")
    its |= dict(add_token_list=pieces, add_token_types=[1, 1, 1, 3, 3, 3])
    its |= dict(add_token_merges=["a b"], add_uint32=("tokenizer.ggml.eot_token_id", 5))
    model = language.load(files.write_gguf(tmp_path / "m.gguf", **its))
    assert model.input.special.eos == (2, 5, 4, 3)


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(add_float32=("llama.logit_scale", 0.5)), "'logit_scale': 0.5"),
        (dict(add_sliding_window=8), "'attention.sliding_window': 8"),
        (dict(add_causal_attention=False), "'attention.causal': False"),
        (dict(add_value_length=8), "'attention.value_length': 8"),
        (dict(add_rope_scaling_type=gguf.RopeScalingType.YARN), "scaling 'yarn'"),
    ],
)
def test_settings_that_are_not_known_are_refused(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        language.load(files.write_gguf(tmp_path / "m.gguf", **more))


def test_weights_that_are_not_finite_are_named(tmp_path, monkeypatch):
    tensors = files.llama()
    tensors["model.norm.weight"][1] = np.nan
    monkeypatch.setattr(files, "llama", lambda: tensors)
    with pytest.raises(ValueError, match="holds output_norm.weight with 1 of 16"):
        language.load(files.write_gguf(tmp_path / "m.gguf"))


def test_headers_that_announce_too_much_end_at_once(tmp_path):
    """2^40 tensors, keys, letters, things in a list, lists of lists."""
    key = struct.pack("<Q", 7) + b"general"
    head = lambda tensors, keys: struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys)
    many, path = 2**40, tmp_path / "m.gguf"
    rest = bytes(1 << 20)
    cases = [head(many, 0), head(0, many), head(0, 1) + struct.pack("<Q", many)]
    for kind in (struct.pack("<IQ", 8, many), struct.pack("<IIQ", 9, 8, many)):
        cases.append(head(0, 1) + key + kind)
    cases += [head(0, 1) + key + struct.pack("<IIQ", 9, 5, many)]
    cases += [head(0, 1) + key + struct.pack("<IIQ", 9, 9, 2)]
    cases += [head(0, 1) + key + struct.pack("<I", 77), b"GGUF", b""]
    tensor = key + struct.pack("<IQQIQ", 2, many, many, 0, 0)
    cases += [head(1, 0) + tensor, head(1, 0) + key + struct.pack("<I", 2**31)]
    for case in cases:
        path.write_bytes(case + rest if case else b"")
        with pytest.raises(ValueError, match="m.gguf could not be read as GGUF"):
            language.load(path)
