"""Soft prompts and prefixes against transformers in torch, random weights: what PEFT
does with `inputs_embeds` and with `past_key_values`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.formats import learnable
from reprojax.models import language
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning
from reprojax.sequence import padded

pytestmark = pytest.mark.verify
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

P, V, DEPTH = 3, 61, 2
LLAMA = dict(
    vocab_size=V,
    hidden_size=32,
    num_hidden_layers=DEPTH,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=24,
)
GPT2 = dict(vocab_size=V, n_positions=24, n_embd=32, n_layer=DEPTH, n_head=4)
MODELS = {
    "gpt2": lambda t: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA)),
}
ROWS = [[3, 1, 4, 1, 5, 9], [2, 6, 5], [8, 7]]


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    model = MODELS[request.param](transformers).eval()
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            one = "norm" in name or "ln_" in name
            leaf.copy_(0.3 * torch.randn_like(leaf) + one)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, language.load(folder)


def draw(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def inputs(side):
    """Ours; their mask and positions, the prompt's P in front."""
    x = padded(ROWS, side)
    weight = torch.tensor(np.asarray(x.weight)).long()
    mask = torch.cat([torch.ones(3, P, dtype=torch.long), weight], 1)
    return x, mask, (mask.cumsum(1) - 1).clamp(min=0)


def agree(y, theirs):
    """At the real tokens of the text."""
    ours = np.asarray(y.value)[np.asarray(y.weight) > 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_soft_prompt_is_input_embeddings(pair, side):
    model, card = pair
    soft, (x, mask, position) = draw(P, 32), inputs(side)
    program = prompt_tuning(card, length=P, initial=learnable(soft))
    y = jax.jit(program.apply)(
        program.init(jax.random.key(0), card.frozen, x), card.frozen, x
    )
    with torch.no_grad():
        words = model.get_input_embeddings()(torch.tensor(np.asarray(x.value)).long())
        front = torch.tensor(soft).expand(3, P, 32)
        found = model(
            inputs_embeds=torch.cat([front, words], 1),
            attention_mask=mask,
            position_ids=position,
        ).logits.numpy()
    agree(y, found[mask.numpy() > 0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prefix_is_past_keys_and_values(pair, side):
    model, card = pair
    heads = 2 if "Llama" in type(model).__name__ else 4
    start, (x, mask, position) = draw(2 * DEPTH, P, heads, 8), inputs(side)
    program = prefix_tuning(card, length=P, hidden=None, start=jnp.asarray(start))
    y = jax.jit(program.apply)(
        program.init(jax.random.key(0), card.frozen, x), card.frozen, x
    )
    past = transformers.DynamicCache()
    for i in range(DEPTH):
        key, value = (
            torch.tensor(a).permute(1, 0, 2).expand(3, heads, P, 8)
            for a in start[2 * i : 2 * i + 2]
        )
        past.update(key, value, i)
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor(np.asarray(x.value)).long(),
            attention_mask=mask,
            position_ids=position[:, P:],
            cache=past,
        ).logits.numpy()
    agree(y, found[mask.numpy()[:, P:] > 0])
