"""GGUF files: the model of the safetensors, and what is refused."""

import sys

import gguf
import jax
import jax.numpy as jnp
import language_files as files
import numpy as np
import pytest

from reprojax.models import language
from reprojax.sequence import tokens

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
    for field in ("kind", "vocabulary", "positions", "width", "roles", "special"):
        assert getattr(model, field) == getattr(other, field)
    assert (other.name, other.tokenizer) == ("m", None)


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
    text = language.load(files.write_gguf(tmp_path / "m.gguf", **its)).tokenizer
    assert text.encode("ab ab<|end|>c") == [4, 5, 6, 2]
    assert text.decode([4, 5, 6, 2]) == "ab abc"
    assert (text.size, text.id("<|end|>"), text.token(5)) == (7, 6, "\u0120ab")
    its |= dict(add_tokenizer_pre="tekken")
    path = files.write_gguf(tmp_path / "other.gguf", **its)
    with pytest.raises(
        ValueError, match="cut as 'tekken'; expected 'llama', or 'gpt2'"
    ):
        language.load(path)
    assert language.load(path, tokenizer=None).tokenizer is None


def test_its_sentencepiece_tokeniser(tmp_path):
    its = dict(
        add_tokenizer_model="llama",
        add_token_list=PIECES,
        add_token_scores=[0.0] * 4 + [-9.0, -9.0, -9.0, -1.0, -2.0, -9.0],
        add_token_types=[2, 3, 3, 6] + [1] * 6,
        add_unk_token_id=0,
    )
    text = language.load(files.write_gguf(tmp_path / "m.gguf", **its)).tokenizer
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
