"""Soft prompts and prefixes against transformers in torch, random weights: by its own
`inputs_embeds` and caches, padded on either side, and by PEFT.

PEFT leaves positions as they come, so its texts are padded on the right alone: with
padding on the left a row's answers are others there than without any. Nor is its
`generate` compared with a prefix: PEFT 0.21.2 gives it by a name that transformers 5.24
ignores where its own cache comes too, and what is written is the bare model's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.core import padded
from reprojax.formats import learnable
from reprojax.models import language
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning

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


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT calls a cache as it was
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_peft_gives_the_same_logits_and_gradients(pair, kind):
    """Its gradient of a weighed sum of logits at the prompt's numbers is ours too."""
    peft = pytest.importorskip("peft")
    model, card = pair
    x, mask, _ = inputs("right")
    if kind == "prompt":
        soft = draw(P, 32)
        program = prompt_tuning(card, length=P, initial=learnable(soft))
        config, site = peft.PromptTuningConfig, card.roles["embedding"][0]
        order = lambda ours: ours
    else:
        heads = 2 if "Llama" in type(model).__name__ else 4
        soft = draw(2 * DEPTH, P, heads, 8)
        program = prefix_tuning(card, length=P, hidden=None, start=jnp.asarray(soft))
        config, site = peft.PrefixTuningConfig, card.roles["kv"][0]
        order = lambda ours: ours.swapaxes(0, 1).reshape(P, -1)
    its = peft.get_peft_model(
        model, config(task_type="CAUSAL_LM", num_virtual_tokens=P)
    )
    table = its.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        table.copy_(torch.tensor(order(soft)))
    ids = torch.tensor(np.asarray(x.value)).long()
    real = mask[:, P:].bool()
    found = its.eval()(input_ids=ids, attention_mask=mask[:, P:]).logits[:, -6:][real]
    weigh = draw(*found.shape)
    (found * torch.tensor(weigh)).sum().backward()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(learnable, params):
        params = params._replace(learnable=learnable)
        y = program.apply(params, card.frozen, x).value[:, -6:][np.asarray(real)]
        return (y * weigh).sum(), y

    params = program.init(jax.random.key(0), card.frozen, x)
    (_, ours), slope = run(params.learnable, params)
    np.testing.assert_allclose(ours, found.detach(), atol=1e-4)
    slope, theirs = order(np.asarray(slope[site])), table.grad.numpy()
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(slope / scale, theirs / scale, atol=1e-4)
