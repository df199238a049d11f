"""How far label maps go without a prompt: the floor that a learned one has to beat.

    python -m experiments.maps_without_prompt --out runs/maps

The frozen model sees every image once; then each map is estimated on the training part
of each of 20 random resplits and read on the rest, in seconds. Needs the assets (ViT-Ti
and four sets of images). Also asks *why*: Bayesian weights on centred logits, on
probabilities, and without smoothing.

Expected on clothing: FLM .486 ± .013, BLM .403 ± .022, BLM+ .582 ± .020 at its best k;
the other sets are in docs/results.md. Under ten minutes on two cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.assets import load_backbone, load_task
from reprojax.alignments import (
    bayesian_map,
    one_to_one_map,
    pair_counts,
    soft_pair_counts,
)
from reprojax.commands.controls import Outputs, frozen_outputs
from reprojax.commands.intervals import mean_of, paired
from reprojax.commands.outputs import command
from reprojax.data import Split
from reprojax.saving.files import write_json

KS = (1, 2, 3, 5, 10, 15, 20, 30, 40, 50)
SIZES = {  # training images, test images, images in all
    "clothing": (400, 249, 649),
    "fashion-900": (600, 300, 900),
    "mnist": (600, 2000, 2600),
    "pneumonia": (400, 800, 1200),
}


@dataclass(frozen=True)
class Config:
    """Label maps without a prompt, over resplits, with paired 95 % intervals."""

    backbone: str = "vit_tiny_patch16_224"
    targets: tuple[str, ...] = tuple(SIZES)
    resplits: int = 20
    out: Path = Path("runs/maps_without_prompt")


Rule = Callable[[jax.Array, jax.Array, jax.Array, int], jax.Array]
"""(training logits, labels, test logits, T) -> test scores [N T]"""


def mapped(to_map: Callable, logits: jax.Array, y: jax.Array, test: jax.Array, t: int):
    """Test logits times a map from the counts of the training part."""
    return test @ to_map(pair_counts(logits, y, t))


def soft(k: int, logits: jax.Array, y: jax.Array, test: jax.Array, t: int) -> jax.Array:
    """BLM+ with the k largest probabilities."""
    return test @ bayesian_map(soft_pair_counts(logits, y, t, k))


def centred(
    rule: Rule, logits: jax.Array, y: jax.Array, test: jax.Array, t: int
) -> jax.Array:
    """The same, each source class's mean training logit taken away before the map."""
    middle = logits.mean(0)
    return rule(logits, y, test, t) - rule(logits, y, middle[None], t)


def probabilities(
    logits: jax.Array, y: jax.Array, test: jax.Array, t: int
) -> jax.Array:
    """BLM as its formula is written: sum over s of p(t | s) p(s | x), by rows."""
    n = pair_counts(logits, y, t)
    return jax.nn.softmax(test) @ (n / (n.sum(1, keepdims=True) + 1))


FLM = partial(mapped, one_to_one_map)
BLM = partial(mapped, bayesian_map)
RULES: dict[str, Rule] = {
    "flm": FLM,
    "blm": BLM,
    **{f"blm+ k={k}": partial(soft, k) for k in KS},
    "flm, centred logits": partial(centred, FLM),
    "blm, centred logits": partial(centred, BLM),
    "blm+ k=50, centred logits": partial(centred, partial(soft, 50)),
    "blm, no smoothing": partial(mapped, partial(bayesian_map, smoothing=0.0)),
    "blm, probabilities": probabilities,
}


@partial(jax.jit, static_argnums=(0, 4))
def answers(
    rule: Rule, logits: jax.Array, y: jax.Array, test: jax.Array, t: int
) -> jax.Array:
    """The class of each test row."""
    return rule(logits, y, test, t).argmax(-1)


def pool(name: str, images: int) -> tuple[Split, int]:
    """That many images of a set, from all its splits, and its number of classes."""
    task = load_task(name)
    splits = (task.train, task.validation, task.test)
    x, y = (np.concatenate([s[i] for s in splits]) for i in (0, 1))
    rows = np.random.default_rng(0).permutation(len(y))[:images]
    return Split(x[rows], y[rows]), len(task.classes)


def accuracies(seen: Outputs, classes: int, train: int, test: int, seed: int) -> dict:
    """{map: test accuracy} on one resplit."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(seen.labels))
    a, b = rows[:train], rows[train : train + test]
    logits, y, held = map(jnp.asarray, (seen.logits[a], seen.labels[a], seen.logits[b]))
    random = rng.permutation(seen.logits.shape[1])[:classes]
    found = {"rlm": seen.logits[b][:, random].argmax(1)}
    found |= {n: answers(rule, logits, y, held, classes) for n, rule in RULES.items()}
    return {
        n: float((np.asarray(p) == seen.labels[b]).mean()) for n, p in found.items()
    }


def main(config: Config) -> dict:
    """Print a table a set, and write all of it to results.json."""
    backbone = load_backbone(config.backbone)
    results = {}
    for name in config.targets:
        train, test, images = SIZES[name]
        split, classes = pool(name, images)
        seen = frozen_outputs(backbone, split)
        runs = [
            accuracies(seen, classes, train, test, seed)
            for seed in range(config.resplits)
        ]
        by_map = {n: [run[n] for run in runs] for n in runs[0]}
        results[name] = by_map
        print(f"\n{name}: {train} training and {test} test images, chance "
              f"{1 / classes:.3f}, {config.resplits} resplits")  # fmt: skip
        for n, values in by_map.items():
            over = (
                ""
                if n == "flm"
                else f"   over flm {paired(values, by_map['flm']).interval}"
            )
            print(f"  {n:26} {mean_of(values)}{over}", flush=True)
    write_json(config.out / "results.json", results)
    return results


if __name__ == "__main__":
    command(main, Config)
