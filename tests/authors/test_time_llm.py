"""Time-LLM beside a second implementation, from numbers to numbers."""

import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import small_texts
import time_llm
from walk import descend, walk

from reprojax import data
from reprojax.core import padded, record, tokens, until

LENGTH, AHEAD, PATCH, STRIDE, READS = 12, 2, 4, 4, 6
SIZES = {"width": 5, "heads": 2, "keys": 3, "prototypes": 7}
ARGUMENTS = {"patch": PATCH, "stride": STRIDE, "reads": READS, **SIZES}
CARD = small_texts.CARD
TABLE = CARD.frozen["params"]["embed"]["embedding"]


def encode(text):
    return [1 + zlib.crc32(word.encode()) % (len(TABLE) - 1) for word in text.split()]


def waves(count=24, seed=0):
    draw = np.random.default_rng(seed)
    at = np.arange(LENGTH + AHEAD) * draw.uniform(0.5, 1, (count, 1))
    high = draw.uniform(0.5, 1.5, (count, 1))
    series = 3 + np.sin(at + draw.uniform(0, 6, (count, 1))) * high
    return series.astype(np.float32)


SERIES = waves()
X = time_llm.beside(SERIES[:, :LENGTH], encode, AHEAD, "waves.")
TASK = data.from_arrays(
    X, SERIES[:, LENGTH:], ["1", "2"], holds="series", answers="numbers"
)


def normal(series):
    mean = series.sum() / LENGTH
    return mean, jnp.sqrt(((series - mean) ** 2).sum() / LENGTH + 1e-5)


def by_hand(learnable, series, ids, circular=True):
    """Forecast [2] of one series, whose text has the given ids."""
    own, head = learnable["embed:out"], learnable["output"]["head"]
    mean, deviation = normal(series)
    long = [*((series - mean) / deviation)]
    long += [long[-1]] * STRIDE
    cut = [jnp.stack(long[i : i + PATCH]) for i in range(0, LENGTH + 1, STRIDE)]
    around = [cut[-1], *cut, cut[0]] if circular else [0 * cut[0], *cut, 0 * cut[0]]
    kernel = own["Conv_0"]["kernel"]  # [3 p width]
    queries = [sum(around[i + k] @ kernel[k] for k in range(3)) for i in range(4)]
    mix = own["Dense_0"]
    sources = mix["kernel"].T @ TABLE + mix["bias"][:, None]
    parts = own["MultiHeadDotProductAttention_0"]
    of = lambda name, x: (
        jnp.einsum("nd,dhk->hnk", x, parts[name]["kernel"])
        + parts[name]["bias"][:, None]
    )
    score = of("query", jnp.stack(queries)) @ of("key", sources).swapaxes(1, 2)
    seen = jax.nn.softmax(score / 3**0.5) @ of("value", sources)
    new = jnp.einsum("hnk,hkd->nd", seen, parts["out"]["kernel"]) + parts["out"]["bias"]
    return run(jnp.concatenate([TABLE[ids], new]), head) * deviation + mean


def run(vectors, head):
    """The frozen model on vectors [L D] in the place of words, and the linear head."""
    put = lambda site, v: v._replace(value=vectors[None]) if site == "embed:out" else v
    ids = tokens(jnp.zeros((1, len(vectors)), int))
    hidden = until(CARD.forward, "head:in")(CARD.frozen, ids, edit=put).value
    return hidden[0, -4:, :READS].reshape(-1) @ head["kernel"] + head["bias"]


def test_a_text_says_what_a_series_is_like():
    series = np.float32([[0, 1, 2, 1] * 3])
    seen = []
    time_llm.beside(series, lambda text: seen.append(text) or [1], 2, "tides.")
    own = (series[0] - 1) / np.sqrt(0.5 + 1e-5)
    lags = [sum(own * np.roll(own, k)) for k in range(12)]
    least = float(seen[0].split("min value ")[1].split(",")[0])
    np.testing.assert_allclose(least, own.min(), rtol=1e-5)
    assert "the trend of input is upward" in seen[0] and "tides." in seen[0]
    told = [int(n) for n in seen[0].split("[")[1].rstrip("]").split()]
    np.testing.assert_allclose(
        np.sort(np.array(lags)[told]), np.sort(lags)[-5:], atol=1e-4
    )


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    x, y, _ = TASK.train
    series = jnp.asarray(x["series"])
    known = np.asarray(x["prompt"].weight).sum(1).astype(int)
    length = x["prompt"].value.shape[1]
    assert len(set(known)) == 1 == len({length, *known})  # no padding in the texts
    settings = {"optimizer": optax.sgd(0.02), "epochs": 50, "batch": len(y)}
    says = "learnable embedding parametric -> linear"
    program, _, fitted = walk(
        time_llm.METHOD, CARD, TASK, tmp_path, says, arguments=ARGUMENTS, **settings
    )
    first = program.init(jax.random.key(0), CARD.frozen, x)
    answer = jax.jit(record(program.apply, ["embed:out"]))
    found, recorded = answer(first, CARD.frozen, x)
    ids = jnp.asarray(x["prompt"].value)

    @partial(jax.jit, static_argnames="circular")
    def every(learnable, circular=True):
        one = lambda s, i: by_hand(learnable, s, i, circular)
        return jax.vmap(one)(series, ids)

    np.testing.assert_allclose(found, every(first.learnable), rtol=1e-4, atol=1e-3)
    # the likeliest mistake: patches that are padded with zeros, and go in no circle
    wrong = every(first.learnable, circular=False)
    assert not np.allclose(found, wrong, atol=0.01)
    cost = lambda p: ((every(p) - y) ** 2).mean()
    losses, last = descend(cost, first.learnable, 0.02)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-2)
    assert losses[-1] < 0.8 * losses[0]
    # a text as the model reads it, and then the patches; what fills it is not seen
    seen = recorded["embed:out"].value[:, :length]
    np.testing.assert_array_equal(seen, TABLE[ids])
    wide = x | {"prompt": padded(ids.tolist(), "left", length + 3)}
    again, _ = answer(first, CARD.frozen, wide)
    np.testing.assert_allclose(again, found, rtol=1e-4)
