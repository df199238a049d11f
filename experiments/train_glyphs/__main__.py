"""Draw glyphs, train the embedded backbone on them, measure it and store it.

    python -m experiments.train_glyphs                  # writes runs/glyphs.safetensors
    python -m experiments.train_glyphs --steps 0        # measures the embedded one
    python -m experiments.train_glyphs --sheet FILE     # a picture of all classes

The embedded model is such a file, copied to reprojax/models by hand. About 4 minutes of
one core. One run gave, of 5120 fresh glyphs and of 500 digits, with
two standard errors of that many images:

    held_out             .997 ± .002    random weights .008 ± .002
    probe_digits         .958 ± .018    random weights .889 ± .028

Random weights have their batch statistics set on the same images, three seeds. One seed
gives one file on one machine (compared at 40 steps); elsewhere last bits may differ.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.shared.probe import probe
from experiments.train_glyphs import drawing
from reprojax.commands.outputs import command, replaceable
from reprojax.models import Model, Pixels, random
from reprojax.models.vision.glyphs import (
    SIZE,
    WEIGHTS,
    Glyphs,
    glyphs_card,
    glyphs_model,
    load_glyphs,
)
from reprojax.saving.files import write_file

MARK = b'{"__metadata__":{"card":'  # of a file that `store` wrote
HELD_OUT = 1_000_003  # the seed of images that no training seed draws
MOMENTUM = 0.95
NOT_SETTINGS = ("out", "sheet", "weights")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of the stored weights."""

    steps: int = 1600
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    smoothing: float = 0.05
    seed: int = 0
    out: Path = Path("runs/glyphs.safetensors")
    """Where the weights go."""
    weights: Path = WEIGHTS
    """What is measured with --steps 0."""
    sheet: Path | None = None
    """Write a picture of all classes there, and train nothing."""


def in_training(forward: Callable, flat: dict, x: jax.Array):
    """The logits with each batch norm's input normalised by its batch, and what was
    seen: {path of a norm: (mean, variance)}. The norms' own statistics are 0 and 1."""
    seen = {}

    def normalise(site: str, value: jax.Array) -> jax.Array:
        if not site.endswith("/norm:in"):
            return value
        mean, var = value.mean((0, 1, 2)), value.var((0, 1, 2))
        seen[site.removesuffix(":in")] = mean, var
        return (value - mean) * jax.lax.rsqrt(var + 1e-5)

    frozen = {"params": unflatten_dict(flat, sep="/")}
    return forward(frozen, x, edit=normalise), seen


def step_of(config: Config, forward: Callable, optimizer: Any) -> Callable:
    """(flat, state, images, labels) -> flat, state, seen, loss and accuracy."""

    def loss(learnable, stored, x, y):
        logits, seen = in_training(forward, {**learnable, **stored}, x)
        goal = jax.nn.one_hot(y, logits.shape[-1])
        goal = optax.smooth_labels(goal, config.smoothing)
        value = optax.softmax_cross_entropy(logits, goal).mean()
        return value, (seen, (logits.argmax(-1) == y).mean())

    @jax.jit
    def step(learnable, stored, state, x, y):
        both, slope = jax.value_and_grad(loss, has_aux=True)(learnable, stored, x, y)
        (value, (seen, right)) = both
        updates, state = optimizer.update(slope, state, learnable)
        learnable = optax.apply_updates(learnable, updates)
        return learnable, state, seen, jnp.stack([value, right])

    return step


def train(config: Config) -> Model[Pixels]:
    """From random weights, on images that are never drawn twice."""
    classes = drawing.CLASSES
    tree = Glyphs(len(classes)).init(
        jax.random.key(config.seed), jnp.zeros((1, SIZE, SIZE, 3))
    )
    flat: dict[str, Any] = flatten_dict(tree["params"], sep="/")
    stored = {k: v for k, v in flat.items() if k.endswith(("/mean", "/var"))}
    learnable = {k: v for k, v in flat.items() if k not in stored}
    rate = optax.cosine_onecycle_schedule(
        config.steps, config.learning_rate, pct_start=0.15, final_div_factor=1e3
    )
    optimizer = optax.adamw(rate, weight_decay=config.weight_decay)
    state = optimizer.init(learnable)
    step = step_of(config, glyphs_model(tree, classes).forward, optimizer)
    rng, average, log = np.random.default_rng(config.seed), None, []
    start = time.monotonic()
    for i, (x, y) in enumerate(batches(config, rng), 1):
        learnable, state, seen, numbers = step(learnable, stored, state, x, y)
        average = seen if average is None else follow(average, seen)
        log.append(numbers)
        if i % 100 == 0 or i == config.steps:
            value, right = np.mean(log[-100:], axis=0)
            print(
                f"step {i}  loss {value:.3f}  accuracy {right:.3f}  "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
    assert average is not None
    for path, (mean, var) in average.items():
        stored |= {f"{path}/mean": mean, f"{path}/var": var}
    tree = {"params": unflatten_dict({**learnable, **stored}, sep="/")}
    return glyphs_model(tree, classes)


@jax.jit
def follow(average, seen):
    """The running statistics after one more batch."""
    return jax.tree.map(lambda a, s: MOMENTUM * a + (1 - MOMENTUM) * s, average, seen)


def batches(config: Config, rng: np.random.Generator):
    """Fresh images, drawn 32 batches at once."""
    for done in range(0, config.steps, 32):
        number = min(32, config.steps - done)
        x, y = drawing.draw(rng, number * config.batch)
        for i in range(0, len(x), config.batch):
            yield x[i : i + config.batch], y[i : i + config.batch]


def store(path: Path, net: Model[Pixels], about: dict[str, Any]) -> None:
    """Kernels in float16, the rest in float32, the card in the file's metadata."""
    from safetensors.numpy import save

    flat: dict[str, Any] = flatten_dict(net.frozen["params"], sep="/")
    tensors = {
        name: np.asarray(leaf, np.float16 if leaf.ndim > 1 else np.float32)
        for name, leaf in flat.items()
    }
    write_file(path, save(tensors, {"card": json.dumps(about, sort_keys=True)}))


def outputs(net: Model[Pixels], x: np.ndarray, site: str = "output") -> np.ndarray:
    """The value at a site, 256 images at once."""

    @jax.jit
    def run(frozen, x):
        seen = {}
        net.forward(frozen, x, edit=lambda s, v: seen.setdefault(s, v))
        return seen[site]

    parts = [run(net.frozen, x[i : i + 256]) for i in range(0, len(x), 256)]
    return np.concatenate(parts)


def held_out(net: Model[Pixels], number: int, seed: int = HELD_OUT) -> float:
    """Accuracy on fresh images, `number` a multiple of that of the classes."""
    x, y = drawing.draw(np.random.default_rng(seed), number)
    return float((outputs(net, x).argmax(-1) == y).mean())


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1797 digits in an order of ours, bilinearly at the net's size."""
    from sklearn.datasets import load_digits

    x, y = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(x))
    x = jnp.asarray(x[order].reshape(-1, 8, 8, 1) * (255 / 16))
    x = jax.image.resize(x, (len(x), SIZE, SIZE, 1), "bilinear").round()
    return np.repeat(np.asarray(x, np.uint8), 3, axis=-1), y[order]


def probed(net: Model[Pixels], x: np.ndarray, y: np.ndarray) -> float:
    """The linear probe of a net's features."""
    return probe(outputs(net, x, net.roles["features"][0]), y)


def measure(net: Model[Pixels]) -> dict[str, float]:
    """Held-out accuracy and the linear probe on digits, beside random weights whose
    batch statistics were set on the same images (mean over three seeds)."""
    drawn, (x, y) = drawing.draw(np.random.default_rng(7), 512)[0], digits()
    control = lambda images: [random(net, jax.random.key(s), images) for s in range(3)]
    return {
        "held_out": held_out(net, 5120),
        "held_out_random": float(np.mean([held_out(r, 5120) for r in control(drawn)])),
        "probe_digits": probed(net, x, y),
        "probe_digits_random": float(
            np.mean([probed(r, x, y) for r in control(x[:512])])
        ),
    }


def sheet(path: Path) -> None:
    """One image a class, a manner in every two rows."""
    if path.exists():
        raise ValueError(f"{path} is there already; choose another name for the sheet")
    from PIL import Image

    x, y = drawing.draw(np.random.default_rng(0), 8 * len(drawing.CLASSES))
    x = x[[int(np.argmax(y == label)) for label in range(len(drawing.CLASSES))]]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    rows = x.reshape(8, 16, SIZE + 2, SIZE + 2, 3).swapaxes(1, 2)
    picture = Image.fromarray(rows.reshape(8 * (SIZE + 2), -1, 3))
    picture.quantize(256).save(path, optimize=True)


def main(config: Config) -> None:
    """Train, store, and measure what was stored."""
    if config.sheet:
        return sheet(config.sheet)
    if config.steps:
        replaceable(config.out, MARK)
        about = {
            "architecture": "8 convolutions 3x3 with batch norm and relu, mean, linear",
            "images": "experiments/train_glyphs/drawing.py, none drawn twice",
            "training": {
                k: v for k, v in vars(config).items() if k not in NOT_SETTINGS
            },
            "classes": drawing.CLASSES,
        }
        store(config.out, train(config), about)
    net = load_glyphs(config.out if config.steps else config.weights)
    numbers = measure(net)
    if config.steps:
        store(config.out, net, glyphs_card(config.out) | numbers)
    for name, value in numbers.items():
        print(f"{name:<20} {value:.4f}")


if __name__ == "__main__":
    command(main, Config)
