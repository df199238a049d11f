"""The prompts of the cells on a language model.

Sites are found by the card's roles: the ids, their vectors, and what enters or what is
attended to in a middle block. Ids leave four kinds of prompts without a program:
`IMPOSSIBLE`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from experiments.map.parts import (
    Values,
    bottleneck,
    substituted,
    transforms,
    values,
)
from experiments.map.tasks import Bench
from reprojax.core import Manipulation, Tokens, last_value
from reprojax.formats import fixed, learnable, low_rank
from reprojax.models import role
from reprojax.models.language.card import seen
from reprojax.models.language.starts import from_vocabulary
from reprojax.models.language.states import keys_and_values
from reprojax.operators import add, insert, prefix, shift, to_answers

At = Mapping[str | tuple[str, ...], Manipulation]
Prompts = dict[tuple[str, str, str], dict[str, At]]

GRADIENTS = (
    "The input is token ids, integers, and no gradient sets an integer; the vectors of "
    "the ids are the embedding's cells, and a search over ids is not learnable here."
)
IMPOSSIBLE = {
    **{
        ("learnable", "input", operator): GRADIENTS
        for operator in ("additive", "concatenative", "parametric")
    },
    ("fixed", "input", "additive"): "Token ids are names: the sum of an id and a number"
    " is the id of another word, in which neither is left, so that whatever changes an "
    "id in its place is a substitution, which is parametric.",
}
INSTRUCTION = "The label of each text follows it.\n"
SHOWN = (1, 2, 4)  # demonstrations in front of a text


def prompts(bench: Bench) -> Prompts:
    """{(configuration, location, operator): {candidate: manipulations by site}}"""
    sites = dict(zip(("embedding", "hidden"), places(bench), strict=True))
    kv = role(bench.model, "kv")
    middle = len(kv) // 2
    found: Prompts = {}
    for location, site in sites.items():
        for name, at in learnable_at(bench, site).items():
            found["learnable", location, name] = {"learned": at}
        for name, given in fixed_at(bench, site).items():
            found["fixed", location, name] = given
    found["learnable", "hidden", "concatenative"] = {
        "learned": {kv[middle]: keys(bench, kv[middle])}
    }
    texts = shown(bench)
    found["fixed", "hidden", "concatenative"] = {
        name: precomputed(bench, ids) for name, ids in texts.items()
    }
    found["fixed", "input", "concatenative"] = {
        name: {"input": insert(fixed(jnp.asarray(ids, jnp.int32)), len(ids))}
        for name, ids in texts.items()
    }
    found["fixed", "input", "parametric"] = {
        name: {"input": one} for name, one in substitutions(bench).items()
    }
    return found


def places(bench: Bench) -> tuple[str, str]:
    """The sites of the embedding and of a middle block."""
    blocks = role(bench.model, "blocks", "the hidden cells")
    (embedding,) = role(bench.model, "embedding")
    return embedding, blocks[len(blocks) // 2]


# -- learnable


def learnable_at(bench: Bench, site: str) -> dict[str, At]:
    """An addition of low rank to all places of a text, words in front, an adapter."""
    model, numbers = bench.model, bench.numbers
    length = bench.task.train.x.weight.shape[1]
    rank = round(numbers / (length + model.width))
    return {
        "additive": {site: add(low_rank(rank), length)},
        "concatenative": {
            site: insert(from_vocabulary(model), round(numbers / model.width))
        },
        "parametric": {site: bottleneck(round(numbers / (2 * model.width + 1)))},
    }


def keys(bench: Bench, site: str) -> Manipulation:
    """Keys and values in front of a block's own: as many as the numbers allow."""
    found = seen(bench.model, [site])(_rows(bench.task.train.x, 1))[site]
    size = sum(a.shape[-1] * a.shape[-2] for a in found.value)
    return prefix(learnable(normal(1.0)), round(bench.numbers / size))


# -- fixed: written, drawn, or computed from the training examples in one pass


def fixed_at(bench: Bench, site: str) -> dict[str, dict[str, At]]:
    """At vectors [B L D] of words, or at what enters a block."""
    x, y = bench.task.train.x, np.asarray(bench.task.train.y)
    here = seen(bench.model, [site])
    found = here(x)[site]
    own, source = values(found), None
    steering: dict[str, At] = {}
    means = {c: own.of(y == c).mean for c in np.unique(y)}
    moves = {
        "mean taken off": -own.mean,
        "half the mean taken off": -own.mean / 2,
        "mean of the first class": means[0] - own.mean,
    }
    if bench.source is not None:
        there = here(bench.source)[site]
        source = values(there)
        moves["mean moved to the source's"] = source.mean - own.mean
        ends = last_value(there).mean(0) - last_value(found).mean(0)
        steering["steered at the end"] = {site: to_answers(fixed(ends))}
    beside = {
        "mean": own.mean[None],
        "class means": jnp.stack(list(means.values())),
        "one training text": _first(own),
    }

    def put(m: Manipulation) -> At:
        return {site: m}

    return {
        "additive": {n: put(add(fixed(m))) for n, m in moves.items()} | steering,
        "concatenative": {
            n: put(insert(fixed(rows), len(rows))) for n, rows in beside.items()
        },
        "parametric": {n: put(m) for n, m in transforms(own, source).items()},
    }


def _first(own: Values) -> Float[Array, "P D"]:
    """What stood at the real tokens of the first example."""
    return own.value[0][np.asarray(own.weight[0]) > 0]


def _rows(x: Tokens, count: int) -> Tokens:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[:count]), x)


def shown(bench: Bench) -> dict[str, list[int]]:
    """Texts to stand in front, as ids: demonstrations, an instruction, a line's end.

    A class is shown by the model's own class for it, or by the one that a rule reads.
    """
    model, train = bench.model, bench.task.train
    encode = model.input.tokenizer.encode
    answers = bench.own or range(len(bench.task.classes))
    end = encode("\n", special=False)
    room = model.input.positions - train.x.weight.shape[1]
    found = {"instruction": encode(INSTRUCTION)}
    for count in SHOWN:
        ids: list[int] = []
        for row in range(min(count, len(train.y))):
            real = np.asarray(train.x.weight[row]) > 0
            text = np.asarray(train.x.value[row])[real].tolist()
            ids += [*text, int(answers[int(train.y[row])]), *end]
        if len(ids) < room:
            found[f"{count} shown"] = ids
    return found


def precomputed(bench: Bench, ids: list[int]) -> At:
    """The keys and values of a text at all layers, as if it stood in front."""
    start = keys_and_values(bench.model, ids)
    room = shift(len(ids), bench.model.input.positions)
    kv = role(bench.model, "kv")
    return {("input",): room, kv: prefix(fixed(start), len(ids))}


def substitutions(bench: Bench) -> dict[str, Manipulation]:
    """Tables that rewrite texts: a filter for words."""
    rules = {
        "without signs": lambda text: "" if text in ">:=" else text,
        "blanks for signs": lambda text: " " if text in ">:=,;" else text,
        "lines for commas": lambda text: "\n" if text == "," else text,
        "upper case": str.upper,
        "lower case": str.lower,
    }
    return {name: _table(bench, rule) for name, rule in rules.items()}


def _table(bench: Bench, rule: object) -> Manipulation:
    """A rule of texts as a table of ids; a text that is no one token stays."""
    text, size = bench.model.input.tokenizer, bench.model.input.vocabulary
    known = {text.decode([i]): i for i in reversed(range(size))}
    table, kept = np.arange(size), np.ones(size, np.float32)
    for word, i in known.items():
        new = rule(word)  # type: ignore[operator]
        kept[i] = float(bool(new))
        table[i] = known.get(new, i)
    return substituted(jnp.asarray(table, jnp.int32), jnp.asarray(kept))
