"""Draw figures, caption them, train the embedded pair on both, measure and store it.

    python -m experiments.train_sketches             # writes runs/sketches.safetensors
    python -m experiments.train_sketches --steps 0   # measures the embedded one

The embedded pair is such a file, copied to reprojax/models/image_text by hand. About 20
minutes of one core of an Intel Xeon. One run gave, beside the mean of three pairs of
random weights:

    figures          .773    random .032    fresh images, 32 names, zero-shot
    unseen           .948    random .034    24 pairs of manner and figure left out
    text_of_image    .698    random .002    first of 500 captions
    image_of_text    .622    random .001    first of 500 images
    probe_digits     .778    random .875    a linear probe of digits, on 64 numbers

The probe of digits is worse than that of random weights: what no caption says is lost
in the joint space.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from experiments.shared.probe import probe
from experiments.train_glyphs.drawing import FIGURES
from experiments.train_sketches import captions
from reprojax.commands.outputs import command, replaceable
from reprojax.core import Tokens, padded, tokens
from reprojax.core.vectors import unit
from reprojax.models import image_text
from reprojax.models.image_text import Pair
from reprojax.models.image_text.card import encoded, text_features
from reprojax.models.image_text.sketches import (
    SIZE,
    WEIGHTS,
    load_sketches,
    sketches_card,
    sketches_pair,
    towers,
    word_tokens,
)
from reprojax.saving.files import write_file

MARK = b'{"__metadata__":{"card":'  # of a file that `store` wrote
HELD_OUT = 1_000_003  # the seed of images that no training seed draws
LENGTH = 16  # tokens of a caption, padding included
NOT_SETTINGS = ("out", "weights")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of the stored weights."""

    steps: int = 3000
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0
    out: Path = Path("runs/sketches.safetensors")
    """Where the weights go."""
    weights: Path = WEIGHTS
    """What is measured with --steps 0."""


def batches(config: Config, rng: np.random.Generator) -> Iterator[tuple[Any, Any, Any]]:
    """(images, ids, weights of ids) of fresh figures, drawn eight batches at once."""
    encode = word_tokens(captions.words()).encode
    for done in range(0, config.steps, 8):
        number = min(8, config.steps - done) * config.batch
        drawn = captions.draw(rng, number)
        rows = [encode(captions.caption(rng, drawn, i)) for i in range(number)]
        text = padded(rows, length=LENGTH)
        for i in range(0, number, config.batch):
            own = slice(i, i + config.batch)
            yield drawn.images[own], text.value[own], text.weight[own]


def contrast(learnable: Any, pair: Pair, x: Any, text: Tokens) -> jax.Array:
    """CLIP's loss, both ways; equal captions of a batch are all right."""
    image = unit(pair.image.forward(learnable["image"], x))
    named = unit(pair.text.forward(learnable["text"], text))
    logits = jnp.exp(jnp.minimum(learnable["scale"], 4.6)) * image @ named.T
    same = (text.value[:, None] == text.value[None]).all(-1)
    goal = same / same.sum(-1, keepdims=True)
    both = (optax.softmax_cross_entropy(y, goal).mean() for y in (logits, logits.T))
    return jnp.stack([*both]).mean()


def train(config: Config) -> Pair:
    """From random weights, on images that are never drawn twice."""
    words = captions.words()
    image, text = towers(words)
    a, b = jax.random.split(jax.random.key(config.seed))
    ids = tokens(jnp.zeros((1, LENGTH), jnp.int32))
    learnable = {
        "image": image.init(a, jnp.zeros((1, SIZE, SIZE, 3))),
        "text": text.init(b, ids),
        "scale": jnp.log(1 / 0.07),
    }
    pair = sketches_pair(learnable, words)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(200, config.steps // 4), config.steps
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, b2=0.98, weight_decay=config.weight_decay),
    )
    state = optimizer.init(learnable)

    @jax.jit
    def step(learnable: Any, state: Any, x: Any, ids: Any, weight: Any) -> Any:
        cost = lambda own: contrast(own, pair, x, tokens(ids, weight))
        value, slope = jax.value_and_grad(cost)(learnable)
        updates, state = optimizer.update(slope, state, learnable)
        return optax.apply_updates(learnable, updates), state, value

    start, log = time.monotonic(), []
    rng = np.random.default_rng(config.seed)
    for i, batch in enumerate(batches(config, rng), 1):
        learnable, state, value = step(learnable, state, *batch)
        log.append(value)
        if i % 100 == 0 or i == config.steps:
            spent = time.monotonic() - start
            print(
                f"step {i}  loss {np.mean(log[-100:]):.3f}  {spent:.0f} s", flush=True
            )
    return sketches_pair(learnable, words)


def store(path: Path, pair: Pair, about: dict[str, Any]) -> None:
    """All in float16, the card in the file's metadata."""
    from safetensors.numpy import save

    frozen = {"image": pair.image.frozen, "text": pair.text.frozen, "scale": pair.scale}
    flat: dict[str, Any] = flatten_dict(frozen, sep="/")
    tensors = {name: np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    write_file(path, save(tensors, {"card": json.dumps(about, sort_keys=True)}))


# -- what it can do


def zero_shot(pair: Pair, x: np.ndarray, y: np.ndarray, names: list[str]) -> float:
    """Accuracy with an ensemble of three templates."""
    templates = ["a {}", "a drawing of a {}", "{}"]
    model = image_text.classifier(pair, names, templates)
    call = jax.jit(model.forward)
    parts = [call(model.frozen, x[i : i + 256]) for i in range(0, len(x), 256)]
    return float((np.concatenate(parts).argmax(-1) == y).mean())


def unseen(pair: Pair, number: int) -> float:
    """Zero-shot accuracy among the pairs of a manner and a figure left out."""
    drawn = captions.draw(np.random.default_rng(HELD_OUT), number, unseen=True)
    y = captions.unseen_numbers(drawn)
    return zero_shot(pair, drawn.images, y, captions.unseen_names())


def retrieval(pair: Pair, number: int) -> tuple[float, float]:
    """Recall at 1 among `number` fresh images and captions: of texts, of images.

    A caption that fits several images counts as found if any of its own is first.
    """
    rng = np.random.default_rng(HELD_OUT + 1)
    drawn = captions.draw(rng, number, unseen=None)
    texts = [captions.caption(rng, drawn, i) for i in range(number)]
    image = unit(image_text.image_features(pair, drawn.images))
    named = unit(text_features(pair, encoded(pair, texts)))
    score = np.asarray(image @ named.T)
    same = np.array(texts)[:, None] == np.array(texts)[None]
    best = lambda s: float(np.mean([same[i, j] for i, j in enumerate(s.argmax(1))]))
    return best(score), best(score.T)


def abilities(pair: Pair) -> dict[str, float]:
    """What is measured of a pair."""
    from experiments.train_glyphs.__main__ import digits

    drawn = captions.draw(np.random.default_rng(HELD_OUT + 2), 3200)
    of_images, of_texts = retrieval(pair, 500)
    x, y = digits()
    return {
        "figures": zero_shot(pair, drawn.images, drawn.figure, [*FIGURES]),
        "unseen": unseen(pair, 2400),
        "text_of_image": of_images,
        "image_of_text": of_texts,
        "probe_digits": probe(image_text.image_features(pair, x), y),
    }


def measure(pair: Pair) -> dict[str, float]:
    """The abilities, beside those of random weights (mean over three seeds)."""
    others = [
        abilities(image_text.random(pair, jax.random.key(seed))) for seed in range(3)
    ]
    own = abilities(pair)
    random = {f"{n}_random": float(np.mean([o[n] for o in others])) for n in own}
    return own | random


def main(config: Config) -> None:
    """Train, store, and measure what was stored."""
    if config.steps:
        replaceable(config.out, MARK)
        about = {
            "architecture": "a ViT of 64 patches and a causal text tower, CLIP's loss",
            "images": "experiments/train_sketches/captions.py, none drawn twice",
            "training": {
                k: v for k, v in vars(config).items() if k not in NOT_SETTINGS
            },
            "words": captions.words(),
            "left_out": captions.unseen_names(),
        }
        store(config.out, train(config), about)
    path = config.out if config.steps else config.weights
    pair = load_sketches(path)
    numbers = measure(pair)
    if config.steps:
        store(config.out, pair, sketches_card(path) | numbers)
    for name, value in numbers.items():
        print(f"{name:<24} {value:.4f}")


if __name__ == "__main__":
    command(main, Config)
