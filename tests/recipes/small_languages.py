"""Tiny frozen language models with random weights: two decoders, of rotary and learned
positions, and an encoder."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import padded, tokens
from reprojax.models import Model
from reprojax.models.language import Words, texts
from reprojax.models.language.bert import Bert
from reprojax.models.language.card import roles
from reprojax.models.language.gpt2 import GPT2
from reprojax.models.language.layers import Heads
from reprojax.models.language.llama import Llama
from reprojax.training.losses import Seen, cross_entropy, mean_loss

V, POSITIONS, WIDTH, DEPTH, KV = 23, 32, 16, 2, ("block_0/kv", "block_1/kv")
ROTARY = Heads(4, 2, 4, bias=False, out_bias=False, frequencies=(1.0, 0.3))
MODULES = {
    "rotary": Llama(V, POSITIONS, WIDTH, DEPTH, 24, ROTARY),
    "learned": GPT2(V, POSITIONS, WIDTH, DEPTH, 24, Heads(4, 4, 4)),
    "encoder": Bert(V, POSITIONS, WIDTH, DEPTH, 24, Heads(4, 4, 4, causal=False)),
}
QUERIES = [[3, 1, 4, 1, 5, 9], [2, 6, 5], [8, 7]]
KEY = jax.random.key(0)


@cache
def card(kind: str) -> Model[Words]:
    module = MODULES[kind]
    spec = jax.eval_shape(module.init, KEY, tokens(jnp.zeros((1, 1), int)))
    leaves, tree = jax.tree.flatten(spec)
    draw = np.random.default_rng(0)
    value = lambda s: 0.4 * draw.standard_normal(s.shape) + (len(s.shape) == 1)
    frozen = tree.unflatten([jnp.asarray(value(s), jnp.float32) for s in leaves])
    reads = Words("masked" if kind == "encoder" else "causal", V, POSITIONS)
    return Model(kind, texts(module), frozen, reads, roles(DEPTH))


def parity(rows: int = 32):
    """Tokens [rows 5], labels: of the first word, odd or even."""
    ids = np.random.default_rng(0).integers(2, V, (rows, 5))
    return padded(ids.tolist()), jnp.asarray(ids[:, 0] % 2)


def losses(program, language, preset, steps, rate=None):
    """Of training on one batch by a recipe's own optimiser: (losses, params)."""
    x, labels = parity()
    params = program.init(jax.random.key(1), language.frozen, x)
    optimizer = preset.optimizer(rate or preset.learning_rate, 1, steps)
    opt = optimizer.init(params.learnable)

    @jax.jit
    def step(learnable, opt):
        def cost(learnable):
            own = params._replace(learnable=learnable)
            y = program.apply(own, language.frozen, x)
            return mean_loss(cross_entropy(Seen({"output": y}, labels)), labels)

        value, grads = jax.value_and_grad(cost)(learnable)
        updates, opt = optimizer.update(grads, opt, learnable)
        return optax.apply_updates(learnable, updates), opt, value

    learnable, found = params.learnable, []
    for _ in range(steps):
        learnable, opt, value = step(learnable, opt)
        found.append(float(value))
    return found, params._replace(learnable=learnable)
