"""Real weights against independent implementations."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assets import assets, smollm2, stories260k

from experiments.shared.assets import load_language
from reprojax.core import padded, tokens
from reprojax.models import language

pytestmark = pytest.mark.verify


def golden(name):
    return np.load(assets() / "weights" / name / "golden.npz")


def test_stories260k(tmp_path):
    model, its = stories260k(tmp_path), golden("stories260K")
    ids = jnp.array([[1, *range(259, 290)]])  # as the file's recipe says
    y = jax.jit(model.forward)(model.frozen, tokens(ids))
    np.testing.assert_allclose(y.value[0], its["output"], rtol=1e-3, atol=1e-3)
    assert (model.input.kind, model.input.vocabulary, model.input.positions) == (
        "causal",
        512,
        512,
    )
    assert model.input.special == language.Special(1, (2,), 0, None)


def test_minilm():
    """The recipe's sentence, whose accents the tokeniser takes off, and one padding."""
    model, its = load_language("all_MiniLM_L6_v2"), golden("all_MiniLM_L6_v2")
    ids = model.input.tokenizer.encode("Hello, world! unaffable na\u00efve caf\u00e9")
    assert ids == [101, 7592, 1010, 2088, 999, 14477, 20961, 3468, 15743, 7668, 102]
    x = padded([ids], length=12)
    hidden = jax.jit(model.forward)(model.frozen, x).value[:, :11]
    np.testing.assert_allclose(hidden, its["hidden"], rtol=1e-3, atol=1e-3)
    mean = hidden.mean(1)
    mean /= jnp.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(mean, its["output"], rtol=1e-3, atol=1e-3)
    assert model.input.kind == "bare" and model.input.special.mask == 103


def sentences(count):
    folder = assets() / "data" / "text" / "sentiment_sentences"
    lines = (folder / "amazon_cells_labelled.txt").read_text("utf8").splitlines()
    return [f"Review: {line.split(chr(9))[0]} Sentiment:" for line in lines[:count]]


@pytest.mark.slow
def test_smollm2_is_as_transformers_reads_it():
    """50 sentences: the same ids, the same next word at each place, the same logits."""
    pytest.importorskip("gguf")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = smollm2()
    model = language.load(path)
    config = load_gguf_checkpoint(str(path))["config"]
    with torch.device("meta"):
        other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    its = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=other)
    other = transformers.LlamaForCausalLM(other.config).eval()
    other.load_state_dict(its["tensors"], strict=False)
    other.tie_weights()
    text = transformers.AutoTokenizer.from_pretrained(
        os.path.dirname(path), gguf_file=path.name
    )
    texts = sentences(50)
    rows = [model.input.tokenizer.encode(line) for line in texts]
    assert rows == [text(line).input_ids for line in texts]
    assert model.input.tokenizer.decode(rows[0]) == texts[0]

    run = jax.jit(model.forward)
    parts = [padded(rows[i : i + 10], "left", 64) for i in range(0, 50, 10)]
    y = np.concatenate([run(model.frozen, part).value for part in parts])
    largest = 0.0
    for mine, row in zip(y, rows, strict=True):
        mine = mine[-len(row) :]
        with torch.no_grad():
            theirs = other(torch.tensor([row])).logits[0].numpy()
        np.testing.assert_array_equal(mine.argmax(-1), theirs.argmax(-1))
        largest = max(largest, np.abs(mine - theirs).max() / np.abs(theirs).max())
    print(f"SmolLM2: largest difference {largest:.1e} of the largest logit")
    assert largest < 1e-4
