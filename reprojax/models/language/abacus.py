"""The embedded language model: a small decoder of our own, trained on drawn strings.

It reads random key-value maps off demonstrations nearly as well as possible if labels
follow keys directly ("{text}{label}"), and computes short chains of operations and sums
in written steps. It knows no words. `python -m experiments.train_abacus` draws, trains
and writes abacus.safetensors, which also holds the measured abilities: `abacus_card()`.

>>> from reprojax.models import language
>>> from reprojax.text import in_process
>>> abacus = language.load("abacus")
>>> text = in_process.language(abacus)  # asked in words
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from reprojax.models.card import Model
from reprojax.models.language.card import Special, Words, roles, texts
from reprojax.models.language.layers import Heads
from reprojax.models.language.llama import Llama, frequencies
from reprojax.models.language.tokenizer import Tokenizer

WEIGHTS = Path(__file__).with_suffix(".safetensors")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))  # each character is a token
IDS = {character: i for i, character in enumerate(CHARACTERS)}
POSITIONS = 256
WIDTH, DEPTH, HIDDEN, SIZE = 128, 4, 256, 32


def abacus_network() -> Llama:
    """The module: 4 layers of 128, rotary positions, a tied embedding table.

    Queries and keys have biases, so that a head can attend by position, independent of
    content.
    """
    heads = WIDTH // SIZE
    turns = frequencies({}, SIZE)
    of = Heads(heads, heads, SIZE, out_bias=False, frequencies=turns)
    sizes = len(CHARACTERS), POSITIONS, WIDTH, DEPTH, HIDDEN
    return Llama(*sizes, of, activation="relu")  # takes half of silu's time on a CPU


def characters() -> Tokenizer:
    """One token for each printable ASCII character, and one for the newline.

    Other characters raise ValueError; none is dropped.
    """

    def encode(text: str, special: bool = True) -> list[int]:
        unknown = sorted(set(text) - IDS.keys())
        if unknown:
            raise ValueError(
                f"abacus got the characters {unknown}, expected printable ASCII "
                "and newlines; write the text in these, or load another model"
            )
        return [IDS[character] for character in text]

    def decode(ids: Sequence[int]) -> str:
        return "".join(CHARACTERS[int(i)] for i in ids)

    def token(number: int) -> str | None:
        return CHARACTERS[number] if 0 <= number < len(CHARACTERS) else None

    return Tokenizer(encode, decode, IDS.get, token, len(CHARACTERS))


def language_model(frozen: Any) -> Model[Words]:
    """The card of `abacus_network()` with the weights `frozen`."""
    module = abacus_network()
    return Model(
        name="abacus",
        forward=texts(module),
        frozen=frozen,
        input=Words(
            kind="causal",
            vocabulary=module.vocabulary,
            positions=module.positions,
            tokenizer=characters(),
            special=Special(eos=(IDS["\n"],)),  # a line is a text
        ),
        roles=roles(module.depth),
    )


def load_abacus(path: Path = WEIGHTS, dtype: Any = jnp.float32) -> Model[Words]:
    """The embedded model; its weights are stored in float16."""
    from safetensors.numpy import load_file

    flat = {name: jnp.asarray(leaf, dtype) for name, leaf in load_file(path).items()}
    return language_model({"params": unflatten_dict(flat, sep="/")})


def abacus_card(path: Path = WEIGHTS) -> dict[str, Any]:
    """Metadata of the stored weights: training, and measured abilities."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["card"])
