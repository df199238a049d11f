"""Prefix tuning of a language model (Li and Liang, arXiv 2101.00190)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    Tokens,
    record,
    reprogram,
    stateless,
    tokens,
)
from reprojax.formats import learnable
from reprojax.models import Model, role
from reprojax.models.language import Words
from reprojax.models.language.card import check_length, check_words
from reprojax.operators import prefix
from reprojax.recipes.method import Method, Preset, needs


def keys_and_values(model: Model[Words], ids: Sequence[int]) -> Float[Array, "n P H d"]:
    """What a real text leaves at every layer, n = 2 a layer: as a prefix it is the text
    itself, standing in front. A start for few rows (arXiv 2101.00190, section 7.4)."""
    sites = role(model, "kv")
    ids = check_words(model, ids, "a text")

    @jax.jit
    def look(frozen: PyTree, x: Tokens) -> list[Array]:
        seen = record(model.forward, sites)(frozen, x)[1]
        return [a[0] for site in sites for a in seen[site].value]

    found = look(model.frozen, tokens(jnp.asarray([ids], jnp.int32)))
    return jnp.stack(found).astype(jnp.float32)


def reparametrised(hidden: int, start: Array | None = None) -> Format:
    """A prefix [n P H d] made by an MLP of P learned vectors, as wide as keys are.

    Training a prefix itself is unstable (arXiv 2101.00190, section 4.3).

    Args:
        hidden: units of its one layer, whose activation is tanh.
        start: the prefix that it makes at first. The paper has the MLP trained to that;
            here its last layer is solved for it, exactly where P <= hidden.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        n, length, heads, size = shape
        width = heads * size
        k = jax.random.split(key, 4)
        first = dense(k[1], width, (hidden,))
        net: dict[str, Any] = {
            "vectors": jax.random.normal(k[0], (length, width)),
            "first": first,
            "second": dense(k[2], hidden, (n, heads, size)),
        }
        if start is not None:
            _check_start(start, shape)
            units = _units(net)
            solved = jnp.linalg.pinv(units) @ start.swapaxes(0, 1).reshape(length, -1)
            kernel = solved.reshape(hidden, n, heads, size)
            net["second"] = {"kernel": kernel, "bias": jnp.zeros((n, heads, size))}
        return Params(net)

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "n P H d"]:
        return _made(params.learnable)

    return Format(init, read)


def dense(key: Key, into: int, out: tuple[int, ...]) -> dict[str, Array]:
    """Uniform within 1 / sqrt(into), as torch's Linear starts."""
    k, bound = jax.random.split(key), into**-0.5
    kernel = jax.random.uniform(k[0], (into, *out), minval=-bound, maxval=bound)
    bias = jax.random.uniform(k[1], out, minval=-bound, maxval=bound)
    return {"kernel": kernel, "bias": bias}


def _units(net: PyTree) -> Float[Array, "P h"]:
    first = net["first"]
    return jnp.tanh(net["vectors"] @ first["kernel"] + first["bias"])


def _made(net: PyTree) -> Float[Array, "n P H d"]:
    second = net["second"]
    rows = jnp.tensordot(_units(net), second["kernel"], 1) + second["bias"]
    return rows.swapaxes(0, 1)


def _check_start(start: Array, shape: tuple[int, ...]) -> None:
    if tuple(start.shape) != tuple(shape):
        raise ValueError(
            f"a prefix of {tuple(start.shape)} came as the start, expected "
            f"{tuple(shape)} (keys and values of each layer, length, heads, size); "
            "take a text of as many tokens as the prefix has, and this model's card"
        )


@needs(Words, "kv")
def prefix_tuning(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    length: int = 10,
    hidden: int | None = 512,
    start: Array | None = None,
) -> Program:
    """Learned keys and values before the text's own, at each layer (arXiv 2101.00190).

    The text's positions begin behind them. All layers are one prompt [2 layers, length,
    heads, size], kept under the first layer's site.

    Args:
        align: `label_words(ids)` for a task of classes; None: Tokens of logits.
        hidden: units of the MLP that makes the prefix while it is trained; None: the
            prefix itself is learned.
        start: the first prefix, such as `keys_and_values(model, ids)` of a text of
            `length` tokens; random if not given.
    """
    check_length(model, length)
    normal = jax.nn.initializers.normal(1.0)
    plain = learnable(normal if start is None else start)
    fmt = plain if hidden is None else reparametrised(hidden, start)
    at = {
        "input": room(length, model.input.positions),
        role(model, "kv"): prefix(fmt, length),
    }
    return reprogram(model.forward, at, align)


def room(length: int, positions: int) -> Manipulation:
    """A text's positions move on by `length`, none of them beyond the model's."""

    def moved(x: Tokens) -> Tokens:
        asked = x.weight.shape[1]
        if asked + length > positions:
            raise ValueError(
                f"{asked} tokens came behind a prefix of {length}, expected at most "
                f"the model's {positions} positions together; shorten one of them, or "
                "pad less"
            )
        return x._replace(position=x.position + length)

    return stateless(moved)


def without_mlp(model: Model[Words], params: Params) -> Params:
    """Trained params as those of `prefix_tuning(..., hidden=None)`: the same answers.

    The MLP is run a last time, and what it made is all that is kept.
    """
    site = role(model, "kv")[0]
    net = params.learnable.get(site)
    if not isinstance(net, dict) or "vectors" not in net:
        raise ValueError(
            f"the params at {site!r} hold no MLP, expected those of prefix_tuning with "
            "hidden units; a prefix that was learned itself needs none of this"
        )
    return params._replace(learnable={**params.learnable, site: _made(net)})


def adamw_linear(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """AdamW, its rate falling to zero along a line, as prefixes are trained (arXiv
    2101.00190)."""
    falling = optax.linear_schedule(learning_rate, 0.0, steps * epochs)
    return optax.adamw(falling, weight_decay=0.0)


# Of a prefix without the MLP, which moves by the rate alone.
PLAIN = Preset(adamw_linear, 1e-2, epochs=5, batch=10)
METHOD = Method(
    "prefix-tuning",
    prefix_tuning,
    preset=Preset(adamw_linear, 1e-3, epochs=5, batch=10),
    enters="keys and values of each layer",
    source="arXiv 2101.00190, for tables to text on GPT-2. What differs: no clipping, "
    "and the rate: 100 steps of its 5e-5 took the loss of a tiny model from .82 to "
    ".65, of 1e-3 to .07. Without the MLP (`PLAIN`, ours) 1e-2 took .80 to .27.",
)
