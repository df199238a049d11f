"""The embedded pair: two small transformers of our own, trained on drawn figures with
written captions.

Images are 32 x 32 pixels, texts are of about 90 words: 32 figures, 4 manners, 8
colours, 3 grounds. It never saw some of the pairs of a manner and a figure, neither
drawn nor written: `sketches_card()["left_out"]`. `python -m experiments.train_sketches`
draws, trains and writes sketches.safetensors, which also holds the words and the
measured accuracies.

>>> from reprojax.models import image_text
>>> sketches = image_text.load("sketches")
>>> model = image_text.classifier(sketches, ["red arrow", "blue anchor"], ["a {}"])
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from reprojax.models.card import Model
from reprojax.models.image_text.card import Pair
from reprojax.models.image_text.towers import ImageTower, TextTower, roles
from reprojax.models.language.card import Special, Words, texts
from reprojax.models.language.layers import Heads
from reprojax.models.language.tokenizer import Tokenizer
from reprojax.models.vision.pixels import Pixels, images
from reprojax.models.weights import HALF

WEIGHTS = Path(__file__).with_suffix(".safetensors")
SIZE, PATCH, POSITIONS, JOINT = 32, 4, 32, 64
WIDTH, HIDDEN, HEADS, DEPTH = 64, 128, 4, {"image": 3, "text": 2}
AROUND = ("<begin>", "<end>")  # of a text
ENSEMBLE = ("a {}", "a drawing of a {}", "{}", "the {}.")


def towers(words: Sequence[str]) -> tuple[ImageTower, TextTower]:
    """The modules, for a vocabulary of these words and the two tokens around a text."""
    sizes = WIDTH, DEPTH["image"], HEADS, HIDDEN, JOINT, "relu"
    image = ImageTower(PATCH, SIZE, *sizes, stem=True)
    heads = Heads(HEADS, HEADS, WIDTH // HEADS)
    own = WIDTH, DEPTH["text"], HIDDEN, heads, JOINT
    text = TextTower(len(words) + len(AROUND), POSITIONS, *own, activation="relu")
    return image, text


def word_tokens(words: Sequence[str]) -> Tokenizer:
    """A token for each word; other words raise ValueError, none is dropped."""
    every = (*words, *AROUND)
    ids = {word: i for i, word in enumerate(every)}
    begin, end = (ids[name] for name in AROUND)

    def encode(text: str, special: bool = True) -> list[int]:
        found = re.findall(r"[a-z]+|[^a-z\s]", text.lower())
        if unknown := sorted(set(found) - ids.keys()):
            raise ValueError(
                f"sketches got the words {unknown}, expected some of those that it was "
                f"trained on: {', '.join(words)}; write the names and templates in "
                "these, or load another pair"
            )
        own = [ids[word] for word in found]
        return [begin, *own, end] if special else own

    def decode(ids: Sequence[int]) -> str:
        return " ".join(words[int(i)] for i in ids if int(i) < len(words))

    def token(number: int) -> str | None:
        return every[number] if 0 <= number < len(every) else None

    return Tokenizer(encode, decode, ids.get, token, len(every))


def sketches_pair(frozen: Any, words: Sequence[str]) -> Pair:
    """The pair with the weights `frozen`: {"image": ..., "text": ..., "scale": ...}."""
    image, text = towers(words)
    tokenizer = word_tokens(words)
    special = Special(len(words), (len(words) + 1,), len(words) + 1)
    reads = Words("bare", text.vocabulary, POSITIONS, tokenizer, special)
    return Pair(
        "sketches",
        Model(
            "sketches",
            images(image, SIZE, HALF, HALF),
            frozen["image"],
            Pixels(SIZE, HALF, HALF),
            # prompts stand behind the norm, where results with this pair were measured
            roles(image) | {"embedding": ("block_0:in", "norm_before:in")},
        ),
        Model("sketches", texts(text), frozen["text"], reads, roles(text)),
        jnp.asarray(frozen["scale"], jnp.float32),
        jnp.zeros((), jnp.float32),
        ensemble=ENSEMBLE,
    )


def load_sketches(path: Path = WEIGHTS, dtype: Any = jnp.float32) -> Pair:
    """The embedded pair; its weights are stored in float16."""
    from safetensors.numpy import load_file

    flat = {name: jnp.asarray(leaf, dtype) for name, leaf in load_file(path).items()}
    frozen: Any = unflatten_dict(flat, sep="/")
    return sketches_pair(frozen, sketches_card(path)["words"])


def sketches_card(path: Path = WEIGHTS) -> dict[str, Any]:
    """Metadata of the stored weights: words, training, and measured abilities."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["card"])
