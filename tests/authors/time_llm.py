"""Time-LLM: patches of a series, in a language model's words (arXiv 2310.01728)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax import Manipulation, Params, Tokens, chain, reprogram, stateless, until
from reprojax.alignments import linear
from reprojax.core import last_position, padded
from reprojax.models.language import Words
from reprojax.recipes import Method, Preset, needs
from reprojax.training.losses import squared_error


def moments(series):
    """Mean and deviation [B 1] of series [B L], of which each is relieved."""
    variance = series.var(1, keepdims=True)
    return series.mean(1, keepdims=True), (variance + 1e-5) ** 0.5


def beside(series, encode, ahead, about):
    """{"series" [N L], "prompt": Tokens of what a text says of each}: the task's x."""
    series = np.asarray(series, np.float32)
    mean, deviation = moments(series)
    power = np.abs(np.fft.rfft((series - mean) / deviation)) ** 2
    lags = np.argsort(-np.fft.irfft(power), 1)[:, :5]
    rows = []
    for own, lag in zip((series - mean) / deviation, lags, strict=True):
        trend = "upward" if own[-1] > own[0] else "downward"
        rows.append(
            f"Dataset description: {about} Task description: forecast the next {ahead} "
            f"steps given the previous {len(own)} steps information; Input statistics: "
            f"min value {own.min()}, max value {own.max()}, median value "
            f"{np.median(own)}, the trend of input is {trend}, top 5 lags are : {lag}"
        )
    return {"series": series, "prompt": padded([encode(row) for row in rows], "left")}


class Reprogramming(nn.Module):
    """Patches [B N p] by attention to prototypes, which are sums of words [V D]."""

    width: int
    heads: int
    keys: int
    prototypes: int

    @nn.compact
    def __call__(self, patches, words):
        query = nn.Conv(self.width, (3,), padding="CIRCULAR", use_bias=False)(patches)
        prototypes = nn.Dense(self.prototypes)(words.T).T
        prototypes = jnp.broadcast_to(prototypes, (len(patches), *prototypes.shape))
        sizes = {"qkv_features": self.heads * self.keys, "out_features": words.shape[1]}
        return nn.MultiHeadDotProductAttention(self.heads, **sizes)(query, prototypes)


@needs(Words, "embedding", "features")
def time_llm(model, align=None, *, targets=None, patch=16, stride=8, reads=32, **sizes):
    """The text and the patches enter; so many numbers of each patch's output are read.

    Args:
        sizes: of `Reprogramming`, where they are not the paper's.
    """
    (site,) = model.roles["embedding"]
    sizes = {"width": 16, "heads": 8, "keys": 128, "prototypes": 1000} | sizes
    net, words = Reprogramming(**sizes), site.removesuffix(":out")

    def patches(x):
        mean, deviation = moments(jnp.asarray(x["series"]))
        last = jnp.pad((x["series"] - mean) / deviation, ((0, 0), (0, stride)), "edge")
        first = range(0, last.shape[1] - patch + 1, stride)
        return jnp.stack([last[:, i : i + patch] for i in first], 1)

    def enter(x):
        text, count = x["prompt"], patches(x).shape[1]
        room, i = jnp.zeros((len(x["series"]), count), int), jnp.arange(1, count + 1)
        join = lambda a, b: jnp.concatenate([a, b.astype(a.dtype)], 1)
        position = join(text.position, last_position(text) + i)
        return Tokens(join(text.value, room), position, join(text.weight, room + 1))

    def init(key, value, scope):
        new = jax.eval_shape(patches, scope.x)
        table = scope.frozen["params"][words]["embedding"]
        return Params(net.init(key, jnp.zeros(new.shape), table)["params"])

    def apply(params, value, scope):
        table = scope.frozen["params"][words]["embedding"]
        new = net.apply({"params": params.learnable}, patches(scope.x), table)
        return value._replace(value=value.value.at[:, -new.shape[1] :].set(new))

    def flat(params, y, scope):
        count = jax.eval_shape(patches, scope.x).shape[1]
        return y.value[:, -count:, :reads].reshape(len(y.value), -1)

    def back(params, y, scope):
        mean, deviation = moments(scope.x["series"])
        return y * deviation + mean

    none = lambda key, spec, scope: Params()
    head = {"flat": Manipulation(none, flat), "head": align or linear(targets)}
    at = {"input": stateless(enter), site: Manipulation(init, apply)}
    at["output"] = chain(**head, back=Manipulation(none, back))
    return reprogram(until(model.forward, model.roles["features"][0]), at)


METHOD = Method(
    "time-llm",
    time_llm,
    source="arXiv 2310.01728, KimMeen/Time-LLM, without its dropout",
    enters="behind a text about the series",
    preset=Preset(
        lambda rate, steps, epochs: optax.adam(rate), 0.01, 10, 24, squared_error
    ),
)
