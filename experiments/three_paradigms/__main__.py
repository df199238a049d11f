r"""Three paradigms on one frozen model, one task and one number of labelled examples.

    python -m experiments.three_paradigms
        the embedded language model says the last letter of a word; minutes
    python -m experiments.three_paradigms --model smollm2 --out runs/smollm2
        SmolLM2-135M on sentences of reviews
    python -m experiments.three_paradigms --model vit --out runs/vit
        ViT-Ti on photographs of clothing

Prompt instruction (zero-shot, few-shot, calibrated), prompt tuning (soft prompts,
prefixes, black-box tuning), model reprogramming (an additive prompt or none, and a
label map over the model's own words or classes), and what they have to beat: a linear
probe and the most frequent class.

k is the number of labelled examples in all, as equally many of each class as can be,
and one of each at least. All methods get the same ones; a larger draw begins with the
smaller. Whatever chooses (an epoch, a map, a regularisation) chooses by one and the
same validation split, whose size the table says: more than a few-shot practitioner has,
and the same for all. The test split is read once. Each seed draws all three anew.

Expected, where two cores were shared by ten jobs (docs/results.md has the whole table):

    --model smollm2, k = 64, three seeds
        zero-shot .925 ± .025; few-shot .948 ± .007, calibrated .955 ± .012; prompt
        tuning .933 ± .064, prefix tuning .937 ± .019, black-box tuning .935 (one seed);
        additive prompt and Bayesian map .905 ± .022, map without prompt .887 ± .113;
        linear probe .898 ± .081. A minute and a half for a learned cell then.
    --model vit, k = 160 of clothing, two seeds
        linear probe .758 and .752, visual prompt tuning .765 and .416 (40 steps at one
        rate for all draws are too few for it), padding .631 and .544, the best map
        without prompt .570 and .523. Two minutes and a half for a learned cell then.

Rates were chosen by the validation split of seed 100 (--first-seed 100 --rate R); it is
in no table.

Leaves report.html, results.json and a file for each method, k and seed in the run's
folder; a run that was stopped goes on with --resume, with more seeds, ks or methods
too.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.three_paradigms import benches
from experiments.three_paradigms.methods import (
    Bench,
    Cell,
    examples,
    filled,
    kept,
    path_of,
)
from experiments.three_paradigms.page import differences, header, notes, rows, write
from reprojax.commands.outputs import command
from reprojax.commands.tables import text_table
from reprojax.saving.files import plain, write_json
from reprojax.saving.folders import claim, only_writer


@dataclass(frozen=True)
class Config:
    """Three paradigms on one frozen model, one task, one number of examples."""

    model: Annotated[
        str,
        tyro.conf.arg(
            help=f"{', '.join(benches.NAMES)}; or a causal language model's folder, "
            ".gguf file or hub name, for the sentences"
        ),
    ] = "abacus"
    ks: tuple[int, ...] = ()
    """Labelled examples in all; by default the bench's own, such as 1 4 16 64."""
    seeds: int = 3
    first_seed: int = 0
    methods: tuple[str, ...] = ()
    """By default all of the bench; their names are those of the table."""
    steps: int | None = None
    """Of each search."""
    batch: int | None = None
    rate: float | None = None
    """Of every search, for a choice by validation on a seed that is not reported."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the frozen model; by default bfloat16 for the sentences. What is learned stays
    float32."""
    validation: int | None = None
    test: int | None = None
    out: Path = Path("runs/three_paradigms")
    """A folder for the cells, results.json and report.html."""
    resume: bool = False
    """Go on with the run in that folder."""


def main(config: Config) -> list[Cell]:
    """Fill what is missing, print a table, write a page; all cells of the folder."""
    names = ("steps", "batch", "rate", "validation", "test")
    given = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    bench = benches.find(config.model, given, config.dtype)
    methods = config.methods or tuple(bench.methods)
    if unknown := [name for name in methods if name not in bench.methods]:
        raise ValueError(
            f"got --methods {unknown}, expected some of {list(bench.methods)}"
        )
    if config.seeds < 1 or min(config.ks, default=1) < 1:
        raise ValueError(
            f"got --seeds {config.seeds} and --ks {config.ks}, expected at least 1"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    with only_writer(config.out):
        claim(config.out, plain(bench.identity), config.resume)
        for seed in range(config.first_seed, config.first_seed + config.seeds):
            fill(config, bench, methods, seed)
            cells = report(config, bench)
    return cells


def fill(config: Config, bench: Bench, methods: tuple[str, ...], seed: int) -> None:
    """All cells of a seed, the largest k first: a killed run leaves whole columns."""
    task = bench.task(seed)
    for k in sorted(config.ks or bench.ks, reverse=True):
        few = examples(task, k, seed)
        for name in methods:
            own = k if bench.methods[name].examples else 0
            path = path_of(config.out, name, own, seed)
            if path.exists():
                continue
            cell = filled(bench, name, own, seed, few if own else task)
            write_json(path, cell._asdict())
            print(
                f"seed {seed}, k = {own}: {name}: test {cell.test:.3f}, validation "
                f"{cell.validation:.3f}, {cell.seconds:.0f} s",
                flush=True,
            )


def report(config: Config, bench: Bench) -> list[Cell]:
    """Print and write what there is."""
    cells = kept(config.out)
    print(f"\n{bench.title}\n\n{text_table(header(cells), rows(bench, cells))}\n")
    compared = differences(bench, cells)
    if compared[1]:
        print(f"{text_table(*compared)}\n")
    print("\n".join(notes(bench, cells)), flush=True)
    write_json(config.out / "results.json", [cell._asdict() for cell in cells])
    command = "python -m experiments.three_paradigms " + shlex.join(sys.argv[1:])
    write(config.out / "report.html", bench, cells, command)
    print(f"\n{config.out / 'report.html'}\n", flush=True)
    return cells


if __name__ == "__main__":
    command(main, Config)
