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
no prompt stands beside: one template, an ensemble of templates, and a linear probe,
which knows no new classes. Prints a table with 95 % intervals and what it means, and
leaves `results.json` and `report.html` in the run's folder. A run that was stopped goes
on with --resume.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from experiments.image_text import page, tasks
from experiments.image_text.methods import CONTROLS, control, names, rates_of, trained
from experiments.image_text.sentences import said
from experiments.shared import assets
from reprojax.commands.intervals import mean_of, paired
from reprojax.commands.outputs import command
from reprojax.data import Task
from reprojax.models.image_text import Pair
from reprojax.saving.files import write_json
from reprojax.saving.folders import claim

Protocol = Literal["base-to-new", "few-shot", "cross-dataset"]


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
    """Names of `reprojax list`, of those that take a pair."""
    shots: tuple[int, ...] = (16,)
    """Training images a class."""
    seeds: int = 5
    """Draws of the shots, and initial values."""
    epochs: int | None = None
    """By default each paper's own."""
    descriptions: tuple[str, ...] = ()
    """For attrvr: two JSON files of {class: texts}, what it looks like and what sets it
    apart; the drawn figures have their own."""
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


def main(config: Config) -> dict[str, Any]:
    """Run what is missing, print the table and keep everything."""
    checked(config)
    claim(config.out, {"settings": plain(config)}, resume=config.resume)
    pair = read_pair(config.pair)
    task = tasks.read(config.target)
    asked = places(config, task)
    kept = config.out / "results.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}

    def once(key: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
        if key not in found:
            found[key] = run()
            write_json(kept, found)
            line = "  ".join(f"{k} {v:.3f}" for k, v in found[key].items())
            print(f"{key:32} {line}", flush=True)
        return found[key]

    for shots in config.shots:
        few = partial(tasks.few, asked["base"], shots)
        for name in CONTROLS:
            for seed in range(config.seeds):
                own = asked | {"base": few(seed)}
                run = partial(control, name, pair, own, config)
                once(f"{shots}/{name}/{seed}", run)
        for name in config.methods:
            choice = partial(rates_of, name, pair, few, config)
            tried = once(f"{shots}/{name}/rates", choice)
            rate = float(max(tried, key=lambda r: tried[r]))  # the first of equals
            for seed in range(config.seeds):
                own = asked | {"base": few(seed)}
                run = partial(trained, name, pair, own, config, rate, seed)
                once(f"{shots}/{name}/{seed}", run)
    table = rows(config, found)
    sentences = said(config.methods, by_name(config, found, max(config.shots)))
    print("\n" + page.text(table) + "\n\n" + "\n".join(sentences))
    page.write(config.out / "report.html", config, pair, task, table, sentences)
    return found


def checked(config: Config) -> None:
    """Raise at settings that no run could use, before anything is read."""
    if unknown := [name for name in config.methods if name not in names()]:
        raise ValueError(
            f"got --methods {unknown}, expected some of {', '.join(names())}"
        )
    if config.seeds < 1 or min(config.shots, default=0) < 1:
        raise ValueError(
            f"got --seeds {config.seeds} and --shots {config.shots}, expected at least "
            "one of each"
        )
    if len(config.descriptions) not in (0, 2):
        raise ValueError(
            f"got --descriptions {config.descriptions}, expected two files, what each "
            "class looks like and what sets it apart"
        )
    if (config.protocol == "cross-dataset") != bool(config.transfer):
        raise ValueError(
            f"got --protocol {config.protocol} with --transfer {config.transfer}, "
            "expected other data sets for cross-dataset, and none otherwise"
        )


def plain(config: Config) -> dict[str, Any]:
    """What a run's results depend on, as JSON."""
    own = {k: v for k, v in asdict(config).items() if k not in ("out", "resume")}
    return json.loads(json.dumps(own, default=str))


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


def by_name(
    config: Config, found: Mapping[str, Any], shots: int
) -> dict[str, dict[str, list[float]]]:
    """{method: {what is asked: accuracies by seed}}; absent where it cannot answer."""
    out: dict[str, dict[str, list[float]]] = {}
    for name in (*CONTROLS, *config.methods):
        runs = [found[f"{shots}/{name}/{seed}"] for seed in range(config.seeds)]
        asked = [k for k in runs[0] if not k.startswith("_")]
        out[name] = {k: [run[k] for run in runs] for k in asked}
        both = out[name]
        if "base" in both and "new" in both:
            pairs = zip(both["base"], both["new"], strict=True)
            both["harmonic"] = [2 * a * b / max(a + b, 1e-9) for a, b in pairs]
    return out


def rows(config: Config, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table's lines: means with intervals, and differences to the ensemble."""
    lines = []
    for shots in config.shots:
        own = by_name(config, found, shots)
        for name, scores in own.items():
            line = {"shots": str(shots), "method": name}
            for asked in own["zero-shot"]:
                values = scores.get(asked)
                line[asked] = str(mean_of(values)) if values else "—"
            best = own["ensemble"]
            for asked in [a for a in ("base", "new") if a in best]:
                if asked in scores and name != "ensemble":
                    over = paired(scores[asked], best[asked]).interval
                    line[f"{asked} over the ensemble"] = over
            lines.append(line)
    return lines


if __name__ == "__main__":
    command(main, Config)
