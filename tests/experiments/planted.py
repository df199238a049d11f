"""Finished jobs of a map whose numbers are known."""

from experiments.map.cells import CELLS
from experiments.sweep import Outcome

SEEDS = (2, 3, 4)


def job(name, value, error=None):
    return Outcome(name, {}, value, error, [], 1.0)


def run(seed, test, **more):
    return {"seed": seed, "test": test, "validation": test} | more


def table(score, benches=("figures", "digits"), seeds=SEEDS, **more):
    """{name: outcome} of all cells; score(bench, cell, seed) is the test accuracy."""
    found = {}
    for bench in benches:
        for cell in CELLS:
            name = f"{bench}/{'-'.join(cell)}"
            runs = [run(s, score(bench, cell, s)) for s in seeds]
            found[name] = job(name, {"runs": runs} | more)
    return found


def control(bench, name, tests, seeds=SEEDS):
    whole = f"{bench}/control-{name}"
    runs = [run(*pair) for pair in zip(seeds, tests, strict=True)]
    return {whole: job(whole, {"runs": runs})}
