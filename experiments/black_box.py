r"""A CIFAR-10 ResNet-20 that only answers learns to read digits: what a query buys.

    python -m experiments.black_box --out runs/black_box

The model is an oracle: images go in, logits come out, and each image is one query of
the budget, those for label map and validation too. Three searches:

    spsa  a watermark of 8 x 8 x 3 patches (192 numbers) with BLM, two-sided estimates
    cma   the same program, CMA-ES
    bar   the paper's frame (3,072 numbers of which 1,872 act) with its focal loss,
          one-sided estimates on the sphere

Beside them: two programs trained with gradients, and the best label map alone. A run
that was stopped goes on when the command is given again, and asks nothing twice.

Expected with --seeds 3 (1,000 test images; more in docs/results.md):

    spsa .520 ± .041, bar .446 ± .120; best map alone .381 ± .027
    with gradients: the patches .616 ± .058, a whole watermark .762 ± .113

So gradients are worth far more than 200,000 queries: 240 steps on 1,000 images against
about 2,000 noisy ones. cma is offered and was not run to the end; at 40,000 queries it
was at .435 where spsa was at .475. Two free cores answer 800 to 900 queries a second,
four minutes a run.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import zeros

from experiments.shared.assets import load_backbone, load_task
from reprojax import recipes
from reprojax.alignments import bayesian
from reprojax.commands.intervals import mean_of
from reprojax.commands.outputs import command
from reprojax.core import Format, Key, Params, Program, PyTree, Scope, reprogram
from reprojax.data import Task
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.operators import add, resize
from reprojax.saving.files import write_json
from reprojax.searches import Search, cma_es, rademacher, sphere, zeroth_order
from reprojax.training import steps
from reprojax.training.black_box import (
    Searched,
    evaluate,
    fit_black_box,
    in_process,
    only_answers,
)
from reprojax.training.loop import fit
from reprojax.training.losses import cross_entropy, focal

INNER = 20  # side of the image in BAR's frame, of 32


@dataclass(frozen=True)
class Config:
    """Accuracy against queries of a model that only answers."""

    methods: tuple[str, ...] = ("spsa", "bar")
    """Of spsa, bar, cma."""
    budget: int = 200_000
    """Queries a run."""
    seeds: int = 3
    """Runs of each: other training and validation images, one test split."""
    train: int = 1000
    validation: int = 200
    test: int = 1000
    batch: int = 25
    """Images a step."""
    checks: int = 10
    """How often a run asks for the validation images."""
    backbone: str = "resnet20_cifar10"
    target: str = "mnist"
    out: Path = Path("runs/black_box")
    """A folder for the logs of queries and results.json."""


def patches(side: int) -> Format:
    """A prompt [H W C] that is constant over squares of that side."""

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        small = (shape[0] // side, shape[1] // side, shape[2])
        return learnable(zeros).init(key, small, scope)

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        return jnp.repeat(jnp.repeat(params.learnable, side, 0), side, 1)

    return Format(init, read)


def build(method: str, backbone: Model[Pixels], targets: int) -> Program:
    """The program of a search, on the model or on the card of its oracle."""
    if method == "bar":
        return recipes.black_box_reprogramming(backbone, targets=targets, inner=INNER)
    prompt = add(patches(4))
    at = {"input": resize(backbone.input.size), "normalized": prompt}
    return reprogram(backbone.forward, at | {"output": bayesian(targets)})


SEARCHES: dict[str, Search] = {
    "spsa": zeroth_order(optax.adam(0.03), rademacher(), count=2, radius=0.1),
    "bar": zeroth_order(optax.adam(0.05), sphere(), count=9, radius=3.0, sides=1),
    "cma": cma_es(0.2, population=20),
}


def ask(
    config: Config, method: str, backbone: Model[Pixels], task: Task, seed: int
) -> dict:
    """One run within the budget, and the test accuracy of what it selected."""
    oracle = in_process(backbone)
    size, mean, std = backbone.input.size, backbone.input.mean, backbone.input.std
    program = build(method, only_answers(oracle, size, mean, std), len(task.classes))
    print(f"{method}, seed {seed}", file=sys.stderr, flush=True)
    fitted: Searched = fit_black_box(
        program,
        oracle,
        task,
        SEARCHES[method],
        budget=config.budget,
        batch=config.batch,
        checks=config.checks,
        seed=seed,
        loss=focal() if method == "bar" else cross_entropy,
        refresh="once" if method == "bar" else "epoch",
        log=config.out / f"{method}-{seed}.log",
    )
    test = evaluate(program, fitted.params, oracle, task.test)
    return {"test": test, "queries": fitted.queries, "curve": fitted.curve.tolist()}


def white(program: Program, backbone: Model[Pixels], task: Task, seed: int) -> float:
    """Test accuracy with gradients, 12 epochs of Adam."""
    fitted = fit(
        program,
        backbone.frozen,
        task,
        optimizer=optax.adam(0.03),
        epochs=12,
        batch=50,
        seed=seed,
    )
    return fitted.score["test"]


def map_alone(backbone: Model[Pixels], task: Task) -> float:
    """Test accuracy of the label map that is best on validation, without a prompt."""
    found = []
    for name in ("flm", "blm", "blm+", "blm+3", "blm+5"):
        align = recipes.find_alignment(name).build(len(task.classes))
        program = recipes.map_only(backbone, align)
        start = program.init(jax.random.key(0), backbone.frozen, task.train.x[:2])
        params = steps.estimate(program, start, backbone.frozen, task.train, 200)
        accuracy = lambda split, program=program, params=params: steps.evaluate(
            program, params, backbone.frozen, split, 200
        )
        found.append((accuracy(task.validation), accuracy(task.test)))
    return max(found)[1]


def beside(backbone: Model[Pixels], task: Task, seed: int) -> dict[str, float]:
    """What the searches are compared with."""
    targets = len(task.classes)
    watermark = recipes.watermark(backbone, targets=targets)
    return {
        "best map without prompt": map_alone(backbone, task),
        "patches, with gradients": white(
            build("spsa", backbone, targets), backbone, task, seed
        ),
        "watermark, with gradients": white(watermark, backbone, task, seed),
    }


def table(results: Mapping[str, list[dict]], controls: list[dict]) -> str:
    """Validation accuracy on the way, test accuracy at the end."""
    lines = []
    for method, runs in results.items():
        lines.append(f"{method}: test {mean_of([run['test'] for run in runs])}")
        for points in zip(*(run["curve"] for run in runs), strict=True):
            seen = mean_of([point[2] for point in points])
            lines.append(f"  {points[0][0]:>9,.0f} queries: validation {seen}")
    for name in controls[0]:
        lines.append(f"{name}: test {mean_of([run[name] for run in controls])}")
    return "\n".join(lines)


def main(config: Config) -> dict[str, Any]:
    """Print a table after every seed, and write all of it to results.json."""
    if wrong := set(config.methods) - set(SEARCHES):
        raise ValueError(f"--methods {sorted(wrong)}, expected {sorted(SEARCHES)}")
    backbone = load_backbone(config.backbone)
    results: dict[str, list[dict]] = {method: [] for method in config.methods}
    controls: list[dict] = []
    for seed in range(config.seeds):
        task = load_task(
            config.target,
            train=config.train,
            validation=config.validation,
            test=config.test,
            seed=seed,
        )
        for method in config.methods:
            results[method].append(ask(config, method, backbone, task, seed))
        controls.append(beside(backbone, task, seed))
        print(f"\nafter {seed + 1} seeds\n{table(results, controls)}", flush=True)
        found = {"config": asdict(config) | {"out": str(config.out)}}
        found |= {"results": results, "controls": controls}
        write_json(config.out / "results.json", found)
    return {"results": results, "controls": controls}


if __name__ == "__main__":
    command(main, Config)
