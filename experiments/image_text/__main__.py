"""Prompts of a pair of towers, images and texts, beside what needs no training.

    python -m experiments.image_text
        the embedded pair on drawn figures that its captions left out, in the dark:
        trained on 12 classes with 16 images each, asked about these and 12 new ones
    python -m experiments.image_text --target upside-down-figures
    python -m experiments.image_text --pair openai/clip-vit-base-patch16 \
        --target my/photos --template "a photo of a {}, a type of flower."
    python -m experiments.image_text --protocol few-shot --shots 1 2 4 8 16
    python -m experiments.image_text --protocol cross-dataset --transfer other/photos

Each seed draws other shots. Reported are the params after the last epoch, as in the
papers; validation on draws that are not reported chooses the learning rate. New
classes, and other data sets, are asked with the prompts of the base classes. What needs
no prompt stands beside: one template, an ensemble of templates, and a linear probe and
Tip-Adapter, which know no new classes. Prints a table with 95 % intervals and what it
means, and leaves `results.json` and `report.html` in the run's folder. A run that was
stopped goes on with --resume, with more seeds too.

Expected with --rates 0.1 1 10 100 --choosing 1 on base and on new classes: zero-shot
.540 and .537, CoOp .741 ± .018 and .303 ± .067, KgCoOp .612 ± .009 and .529 ± .014,
CoCoOp .634 ± .026 and .479 ± .066, MaPLe .582 ± .128 and .436 ± .160; a linear probe
.763 ± .043 on base classes. docs/results.md has the whole table.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.image_text import page, tasks
from experiments.image_text.methods import (
    CONTROLS,
    OF_NAMES,
    OF_SHOTS,
    Bench,
    check_bench,
    check_methods,
    control,
    rates_of,
    trained,
)
from experiments.image_text.sentences import said
from experiments.shared import assets
from reprojax.commands.intervals import mean_of, paired
from reprojax.commands.outputs import command, writable
from reprojax.core.trees import fingerprint
from reprojax.data import Task, digest
from reprojax.models.image_text import Pair
from reprojax.saving.files import plain, read_json, write_json
from reprojax.saving.folders import claim, only_writer

Protocol = Literal["base-to-new", "few-shot", "cross-dataset"]
Found = dict[str, dict[str, float]]
"""{run: {what is asked: accuracy}}"""
TAKEN = ("base", "new", "harmonic")  # names of what is asked


@dataclass(frozen=True)
class Config:
    """What is compared, on what."""

    pair: str = "sketches"
    """sketches, "org/name" on the Hugging Face hub, or a folder."""
    target: str = "dark-figures"
    """dark-figures, upside-down-figures, unseen-figures, a folder of images by class,
    or another name that `data.load` takes."""
    transfer: tuple[str, ...] = ()
    """Other data sets that the prompts are tried on, for --protocol cross-dataset."""
    protocol: Protocol = "base-to-new"
    """Asked about new classes, about the same ones, or about other data sets."""
    methods: tuple[str, ...] = ("coop", "kgcoop", "cocoop", "maple", "promptsrc")
    """Some of coop, cocoop, kgcoop, prograd, plot, maple, ivlp, promptsrc, attrvr."""
    shots: tuple[int, ...] = (16,)
    """Training images a class."""
    seeds: int = 5
    """Draws of the shots, and initial values."""
    epochs: int | None = None
    """By default each paper's own."""
    descriptions: tuple[str, ...] = ()
    """For attrvr: two JSON files of {class: texts}, what each of all classes looks like
    and what sets it apart; the drawn figures have their own."""
    rates: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Multiples of each paper's learning rate, from which validation chooses on draws
    of the shots that are not reported; one of them leaves no choice."""
    choosing: int = 2
    """How many such draws."""
    template: str = "a photo of a {}."
    """Of the names, for zero-shot and for prompts that begin with it."""
    ensemble: tuple[str, ...] = ("a {}", "a drawing of a {}", "{}", "the {}.")
    """Templates of the ensemble."""
    out: Path = Path("runs/image-text")
    resume: bool = False


def main(config: Config) -> Found:
    """Run what is missing, print the table and keep everything."""
    checked(config)
    pair, task = read_pair(config.pair), tasks.read(config.target)
    asked = places(config, task)
    bench = Bench(pair, config, kinds(config, asked))
    check_bench(bench, asked)
    tasks.few(asked["base"], max(config.shots), 0)  # raises if there are too few
    own = identity(bench, asked)
    writable(config.out)
    with only_writer(config.out):
        claim(config.out, own, config.resume, grows="seeds")
        found = filled(bench, asked)
        report(bench, task, found)
    return found


def checked(config: Config) -> None:
    """Raise at settings that no run could use, before anything is read."""
    check_methods(config.methods)
    if config.seeds < 1 or min(config.shots, default=0) < 1:
        raise ValueError(
            f"got --seeds {config.seeds} and --shots {config.shots}, expected at least "
            "one of each"
        )
    if config.epochs is not None and config.epochs < 1:
        raise ValueError(
            f"got --epochs {config.epochs}, expected at least 1; leave it out for each "
            "paper's own"
        )
    if not config.rates or not all(0 < rate < np.inf for rate in config.rates):
        raise ValueError(
            f"got --rates {config.rates}, expected multiples of each paper's rate, all "
            "above 0"
        )
    if len(config.rates) > 1 and config.choosing < 1:
        raise ValueError(
            f"got --choosing {config.choosing} for {len(config.rates)} rates, expected "
            "at least one draw on which validation chooses; or give one of --rates"
        )
    for name in ("methods", "shots", "rates", "transfer"):
        given = getattr(config, name)
        if len(set(given)) < len(given):
            raise ValueError(f"got --{name} {given}, expected each of them once")
    if len(config.descriptions) not in (0, 2):
        raise ValueError(
            f"got --descriptions {config.descriptions}, expected two files, what each "
            "class looks like and what sets it apart"
        )
    if config.descriptions and "attrvr" not in config.methods:
        raise ValueError(
            f"got --descriptions for --methods {' '.join(config.methods)}, expected "
            "attrvr among them, which alone reads them; leave the files out"
        )
    if (config.protocol == "cross-dataset") != bool(config.transfer):
        raise ValueError(
            f"got --protocol {config.protocol} with --transfer {config.transfer}, "
            "expected other data sets for cross-dataset, and none otherwise"
        )
    ends = [Path(name).name for name in config.transfer]
    if len({*TAKEN, *ends}) < len(TAKEN) + len(ends):
        raise ValueError(
            f"got --transfer {config.transfer}, which the table would call {ends}, "
            f"expected names of their own, none of them {', '.join(TAKEN)}; rename a "
            "folder"
        )


@cache
def read_pair(name: str) -> Pair:
    """The pair by name; names of our assets are known too."""
    return assets.load_pair(name)


def places(config: Config, task: Task) -> dict[str, Task]:
    """{what is asked: task}, the one that is trained on first."""
    if config.protocol == "base-to-new":
        base, new = tasks.halves(task)
        return {"base": base, "new": new}
    others = {Path(name).name: tasks.read(name) for name in config.transfer}
    return {"base": task, **others}


def kinds(config: Config, asked: Mapping[str, Task]) -> Sequence[Any]:
    """The descriptions of all classes that are asked about, if a method reads them."""
    if "attrvr" not in config.methods:
        return ()
    every = dict.fromkeys(name for task in asked.values() for name in task.classes)
    return tasks.descriptions([*every], config.descriptions)


def identity(bench: Bench, asked: Mapping[str, Task]) -> dict[str, Any]:
    """What a run's results depend on, as JSON."""
    own = {k: v for k, v in asdict(bench.config).items() if k not in ("out", "resume")}
    pair = bench.pair
    own["weights"] = fingerprint((pair.image.frozen, pair.text.frozen))
    own["data"] = {place: digest(task) for place, task in asked.items()}
    texts = json.dumps(bench.kinds).encode()
    own["descriptions"] = hashlib.sha256(texts).hexdigest() if bench.kinds else ""
    return plain(own)


def filled(bench: Bench, asked: Mapping[str, Task]) -> Found:
    """All runs, those that are not kept yet after one another."""
    config = bench.config
    kept = config.out / "results.json"
    found: Found = read_json(kept, Found) if kept.exists() else {}

    def once(key: str, run: Callable[..., dict[str, float]], *given: Any) -> None:
        if key not in found:
            found[key] = run(*given)
            write_json(kept, found)
            line = "  ".join(f"{k} {v:.3f}" for k, v in found[key].items())
            print(f"{key:32} {line}", flush=True)

    for name in OF_NAMES:
        once(name, control, name, bench, asked)
    for shots in config.shots:
        few = partial(tasks.few, asked["base"], shots)
        drawn = lambda seed, few=few: {**asked, "base": few(seed)}
        for name in (*OF_SHOTS, *config.methods):
            if name in config.methods and len(config.rates) > 1:
                once(f"{shots}/{name}/rates", rates_of, name, bench, few)
            for seed in range(config.seeds):
                key = f"{shots}/{name}/{seed}"
                if key in found:
                    continue
                if name in OF_SHOTS:
                    once(key, control, name, bench, drawn(seed))
                else:
                    rate = chosen(config, found.get(f"{shots}/{name}/rates", {}))
                    once(key, trained, name, bench, drawn(seed), rate, seed)
    return found


def chosen(config: Config, tried: Mapping[str, float]) -> float:
    """The rate that is best on validation, the first of equals."""
    return max(config.rates, key=lambda rate: tried.get(str(rate), 0.0))


def by_name(
    config: Config, found: Found, shots: int
) -> dict[str, dict[str, list[float]]]:
    """{method: {what is asked: accuracies by seed}}; absent where it cannot answer."""
    out: dict[str, dict[str, list[float]]] = {}
    for name in (*CONTROLS, *config.methods):
        keys = [f"{shots}/{name}/{seed}" for seed in range(config.seeds)]
        runs = [found[name if name in OF_NAMES else key] for key in keys]
        both = out[name] = {k: [run[k] for run in runs] for k in runs[0]}
        if "base" in both and "new" in both:
            pairs = zip(both["base"], both["new"], strict=True)
            both["harmonic"] = [2 * a * b / max(a + b, 1e-9) for a, b in pairs]
    return out


def rows(config: Config, found: Found) -> list[dict[str, str]]:
    """The table's lines: means with intervals, and differences to the ensemble.

    What the draws of the shots do not change has no interval.
    """
    lines = []
    for shots in config.shots:
        own = by_name(config, found, shots)
        best = own["ensemble"]
        for name, scores in own.items():
            count = 1 if name in OF_NAMES else config.seeds
            line = {"shots": str(shots), "method": name}
            for asked in best:
                values = scores.get(asked, [])[:count]
                line[asked] = str(mean_of(values)) if values else "—"
            for asked in [a for a in best if a != "harmonic" and name != "ensemble"]:
                if asked in scores:
                    over = paired(scores[asked][:count], best[asked][:count])
                    line[f"{asked} over the ensemble"] = over.interval
            lines.append(line)
    return lines


def report(bench: Bench, task: Task, found: Found) -> None:
    """Print and write what there is."""
    config = bench.config
    table = rows(config, found)
    sentences = said(config.methods, by_name(config, found, max(config.shots)))
    print("\n" + page.text(table) + "\n\n" + "\n".join(sentences))
    path = config.out / "report.html"
    page.write(path, bench, task, table, sentences)
    print(f"\n{path}")


if __name__ == "__main__":
    command(main, Config)
