"""Logits and embedding gradients against transformers in torch, random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.core import Tokens, padded, passthrough, reprogram
from reprojax.decoding import generate
from reprojax.models import language

pytestmark = pytest.mark.verify
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY, LONGEST = 61, 9
ENCODER = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=24,
)
DECODER = ENCODER | dict(num_key_value_heads=2)
GPT2 = dict(vocab_size=VOCABULARY, n_positions=24, n_embd=32, n_layer=2, n_head=4)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
MODELS = {
    "bert": lambda t: t.BertForMaskedLM(t.BertConfig(**ENCODER)),
    "bert, relu": lambda t: t.BertForMaskedLM(
        t.BertConfig(**ENCODER, hidden_act="relu", layer_norm_eps=1e-3)
    ),
    "bert without a head": lambda t: t.BertModel(t.BertConfig(**ENCODER)),
    "roberta": lambda t: t.RobertaForMaskedLM(
        t.RobertaConfig(**ENCODER, type_vocab_size=1, pad_token_id=1)
    ),
    "gpt2": lambda t: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    "gpt2 without a head": lambda t: t.GPT2Model(t.GPT2Config(**GPT2)),
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**DECODER)),
    "llama, tied, biases": lambda t: t.LlamaForCausalLM(
        t.LlamaConfig(
            **DECODER, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
        )
    ),
    "llama 3's rotation": lambda t: t.LlamaForCausalLM(
        t.LlamaConfig(**DECODER, rope_parameters=LLAMA3)
    ),
    "llama without a head": lambda t: t.LlamaModel(t.LlamaConfig(**DECODER)),
    "mistral": lambda t: t.MistralForCausalLM(
        t.MistralConfig(**DECODER, head_dim=16, sliding_window=None)
    ),
    "mistral, window": lambda t: t.MistralForCausalLM(
        t.MistralConfig(**DECODER, sliding_window=4)
    ),
    "qwen2": lambda t: t.Qwen2ForCausalLM(t.Qwen2Config(**DECODER)),
    "qwen3": lambda t: t.Qwen3ForCausalLM(t.Qwen3Config(**DECODER, head_dim=16)),
    "qwen3, tied": lambda t: t.Qwen3ForCausalLM(
        t.Qwen3Config(**DECODER, head_dim=8, tie_word_embeddings=True)
    ),
}
SIDES = ("left", "right", "none")


def drawn(name):
    """A torch model with every parameter random."""
    torch.manual_seed(0)
    model = MODELS[name](transformers).eval()
    with torch.no_grad():
        for path, leaf in model.named_parameters():
            if leaf.ndim == 2 and "emb" not in path and "wte" not in path:
                leaf.normal_(0, leaf.shape[1] ** -0.5)
            elif "norm" in path.lower() or "ln_" in path:
                leaf.uniform_(0.5, 1.5)
            else:
                leaf.normal_(0, 0.5)
    return model


def saved(name, folder):
    reference = drawn(name)
    reference.save_pretrained(folder)
    return reference, language.load(folder)


def queries(side):
    lengths = (LONGEST,) * 3 if side == "none" else (LONGEST, 5, 2)
    draw = np.random.default_rng(0)
    rows = [draw.integers(2, VOCABULARY, n).tolist() for n in lengths]
    return padded(rows, "left" if side == "left" else "right")


def directions(shape):
    return np.random.default_rng(1).standard_normal(tuple(shape)).astype(np.float32)


def theirs(model, x):
    """Answers at the real tokens, and the gradient of their sum in random directions
    with respect to the vectors of the words."""
    ids, position, weight = (torch.tensor(np.asarray(leaf)) for leaf in x[:3])
    table = model.get_input_embeddings()
    vectors = table(ids.long()).detach().requires_grad_()
    if model.config.model_type == "roberta":
        position = position + 2
    out = model(
        inputs_embeds=vectors,
        attention_mask=weight.long(),
        position_ids=position.long(),
    )
    y = out.logits if hasattr(out, "logits") else out.last_hidden_state
    real = weight[..., None]
    (y * real * torch.tensor(directions(y.shape))).sum().backward()
    return (y * real).detach().numpy(), (vectors.grad * real).numpy()


def both(model):
    """The same of ours, compiled once: (frozen, x) -> (answers, gradient)."""

    def answer(vectors, frozen, x):
        def put(site, value):
            if site == "embed:out":
                return value._replace(value=vectors)
            return passthrough(site, value)

        y = model.forward(frozen, x, edit=put).value * x.weight[..., None]
        return (y * directions(y.shape)).sum(), y

    @jax.jit
    def run(frozen, x):
        vectors = frozen["params"]["embed"]["embedding"][x.value]
        slope, y = jax.grad(answer, has_aux=True)(vectors, frozen, x)
        return y, slope * x.weight[..., None]

    return run


def ours(model, x):
    return both(model)(model.frozen, x)


def agree(mine, others):
    """At 1e-4 of the largest, so that small gradients are no free pass."""
    for a, b in zip(mine, others, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients(name, tmp_path):
    reference, model = saved(name, tmp_path)
    kind = "bare" if "without" in name else "masked" if "bert" in name else "causal"
    assert model.input.kind == kind
    assert (model.input.vocabulary, model.input.positions, model.width) == (
        VOCABULARY,
        22 if name == "roberta" else 24,
        32,
    )
    run = both(model)
    for side in SIDES:
        agree(run(model.frozen, queries(side)), theirs(reference, queries(side)))


def test_shards_and_old_settings(tmp_path):
    """Many files; settings of the rotation as transformers 4 wrote them."""
    reference = drawn("llama 3's rotation")
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = queries("left")
    agree(ours(language.load(tmp_path), x), theirs(reference, x))


def test_bfloat16_stays_close(tmp_path):
    reference, _ = saved("qwen3", tmp_path)
    model = language.load(tmp_path, dtype=jnp.bfloat16)
    x = queries("right")
    y = jax.jit(model.forward)(model.frozen, x)
    assert isinstance(y, Tokens) and y.value.dtype == jnp.bfloat16
    exact, _ = theirs(reference, x)
    difference = np.abs(y.value * x.weight[..., None] - exact).max()
    assert difference < 0.1 * np.abs(exact).max()


WRITE = ("gpt2", "llama", "mistral, window", "qwen2", "qwen3")


@pytest.mark.parametrize("name", WRITE)
def test_greedy_words_are_theirs(name, tmp_path):
    """By the engine's caches and by theirs, from a padded batch."""
    reference, model = saved(name, tmp_path)
    program, x = reprogram(model.forward, {}), queries("left")
    params = program.init(jax.random.key(0), model.frozen, x)
    run = jax.jit(generate(program, 8))
    found = run(params, model.frozen, x, jax.random.split(jax.random.key(0), 3))
    ids, weight = (torch.tensor(np.asarray(a)).long() for a in (x.value, x.weight))
    theirs = reference.generate(
        ids,
        attention_mask=weight,
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    np.testing.assert_array_equal(found.ids, theirs[:, LONGEST:].numpy())


WRONG = {
    "a query sees itself alone within its window": (
        "llama", "reprojax.models.language.layers.HIDDEN", 0.0
    ),
    "rotated neighbours": (
        "llama",
        "reprojax.models.language.layers.jnp.split",
        lambda x, n, axis: (x[..., ::2], x[..., 1::2]),
    ),
    "the tanh GELU": (
        "bert",
        "reprojax.models.language.layers.ACTIVATIONS",
        {"gelu": lambda x: jax.nn.relu(x)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_variants_are_caught(what, tmp_path, monkeypatch):
    name, place, wrong = WRONG[what]
    reference, model = saved(name, tmp_path)
    if isinstance(wrong, dict):
        for key, value in wrong.items():
            monkeypatch.setitem(language_activations(), key, value)
    else:
        monkeypatch.setattr(place, wrong)
    x = queries("right")
    mine = ours(model, x)
    with pytest.raises(AssertionError):
        agree(mine, theirs(reference, x))


def language_activations():
    from reprojax.models.language import layers

    return layers.ACTIVATIONS
