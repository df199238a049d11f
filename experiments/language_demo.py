r"""The embedded language model, asked by examples, a learned prompt, or in steps.

    python -m experiments.language_demo --out runs/language

Each way stands beside its control. Prints three tables and leaves report.html and
results.json in the folder. All maps and problems are held out: training never drew
them. A minute and a half on two cores.

    ... --maps 100 --tuned 8 --problems 128 --operations 3 5 6

gave, with 95 % intervals over maps, in less than 3 minutes (128 problems: two standard
errors of a share are .09 at most):

    demonstrations          0          1          2          4          8         16
    few-shot            .23 ± .04  .44 ± .04  .61 ± .04  .78 ± .03  .91 ± .02  .98 ± .01
    calibrated          .27 ± .04  .43 ± .04  .59 ± .04  .77 ± .04  .91 ± .03  .99 ± .01
    ideal learner       .25        .44        .58 ± .02  .77 ± .02  .92 ± .02  .99 ± .01
    random labels       .23 ± .04  .26 ± .04  .27 ± .05  .29 ± .05  .28 ± .04  .27 ± .04

    16 examples of 8 keys: prompt tuning .94 ± .08, few-shot .91 ± .07, ideal .92 ± .05,
    prompt tuning on shuffled labels .50 ± .11 (the prompt is selected on right ones)

    operations              3     5     6
    steps                 .86   .68   .52
    majority of 15        .86   .68   .52
    one sample            .83   .59   .40
    direct                .12   .15   .09

Self-consistency repairs what sampling spoils, and gains nothing over greedy steps.
"""

import dataclasses
import itertools
import random
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared import abacus as drawn
from experiments.shared.abacus import Manner, Map, Problem
from reprojax import text
from reprojax.alignments import label_words
from reprojax.commands import figures
from reprojax.commands.intervals import mean_of
from reprojax.commands.outputs import command
from reprojax.commands.page import captioned, results, write_page
from reprojax.commands.tables import text_table
from reprojax.data import Split, Task
from reprojax.models import Model
from reprojax.models.language import Words, abacus
from reprojax.recipes import Preset
from reprojax.recipes.prompt_instruction import (
    chain_of_thought,
    few_shot,
    self_consistency,
)
from reprojax.recipes.prompt_tuning import soft_prompts
from reprojax.saving.files import write_json
from reprojax.text import Language, record_texts
from reprojax.text.calibration import contextual_calibration
from reprojax.text.in_process import language
from reprojax.text.tasks import encoded
from reprojax.training.loop import Fitted, fit

TEMPLATE, LABELS = "{text}{label}", tuple("wxyz")
KEYS = drawn.LETTERS[:22]
FREE = tuple("-.?")  # inputs without content, a key's length
QUESTION, BETWEEN = "Q: {question}\nA: {answer}", "\n\n"
Rows = list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is asked, and how much of it."""

    weights: Path = abacus.WEIGHTS
    maps: int = 20
    """Held-out maps of 4 keys; the interval is over them."""
    shown: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    """Demonstrations."""
    tuned: int = 5
    """Maps of 8 keys for which a prompt is learned."""
    epochs: int = 100
    problems: int = 32
    """Of each length."""
    operations: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    """Of a chain; training had up to 8."""
    samples: int = 15
    temperature: float = 0.8
    seed: int = 0
    out: Path = Path("runs/language")


# -- maps


def held_out_maps(number: int, keys: int, seed: int = 0) -> list[Map]:
    """Maps from letters to w, x, y and z that training never showed."""
    rng = random.Random(f"maps {keys} {seed}")
    of = {"held": True, "alphabets": (KEYS, "".join(LABELS))}
    return [drawn.drawn_map(rng, keys, len(LABELS), **of) for _ in range(number)]


def demonstrations(one: Map, number: int, seed: int) -> Rows:
    """Keys drawn with repetition, each with its label. More are the same and more."""
    rng = random.Random(f"{seed} {one}")
    keys = rng.choices(list(one.pairs), k=number)
    return [{"text": key, "label": one.pairs[key]} for key in keys]


def ideal(one: Map, rows: Rows) -> float:
    """The accuracy of who knows what was shown, and guesses the rest."""
    shown = {row["text"] for row in rows}
    return float(np.mean([1.0 if k in shown else 1 / len(LABELS) for k in one.pairs]))


def in_context(
    asked: Language,
    maps: Sequence[Map],
    rows: Sequence[Rows],
    calibrated: bool = False,
) -> list[float]:
    """Each map's accuracy on all of its keys, behind its rows."""
    program = few_shot(TEMPLATE, LABELS, None)
    start = program.init(None, asked)

    def own(shown: Rows) -> Any:
        if not calibrated:
            return start
        free: dict[str, Any] = {"inputs": FREE, "contexts": [shown] * len(FREE)}
        return contextual_calibration(program, start, asked, **free)

    keys = [(i, key) for i, one in enumerate(maps) for key in one.pairs]
    params = [own(shown) for shown in rows]
    answers = program.apply(
        [params[i] for i, _ in keys],
        asked,
        [{"text": key} for _, key in keys],
        [rows[i] for i, _ in keys],
    )
    right: list[list[bool]] = [[] for _ in maps]
    for (i, key), answer in zip(keys, answers, strict=True):
        right[i].append(LABELS[answer.value] == maps[i].pairs[key])
    return [float(np.mean(own)) for own in right]


def curves(config: Config, asked: Language) -> dict[str, list[list[float]]]:
    """{method: for each number of demonstrations, each map's accuracy}."""
    maps = held_out_maps(config.maps, 4, config.seed)
    found: dict[str, list[list[float]]] = {}
    for k in config.shown:
        rows = [demonstrations(one, k, config.seed) for one in maps]
        wrong = [
            text.random_labels(own, LABELS, seed=i) if own else own
            for i, own in enumerate(rows)
        ]
        for name, value in {
            "few-shot": in_context(asked, maps, rows),
            "few-shot, calibrated": in_context(asked, maps, rows, calibrated=True),
            "ideal learner": [ideal(*pair) for pair in zip(maps, rows, strict=True)],
            "few-shot, random labels": in_context(asked, maps, wrong),
        }.items():
            found.setdefault(name, []).append(value)
    return found


# -- a learned prompt


def examples(one: Map, number: int, seed: int) -> Rows:
    """Demonstrations among which is each label that there is."""
    tries = (demonstrations(one, number, seed + 1000 * i) for i in itertools.count())
    return next(rows for rows in tries if {r["label"] for r in rows} == set(LABELS))


def split(rows: Rows) -> Split:
    texts = np.array([row["text"] for row in rows])
    return Split(texts, np.array([LABELS.index(row["label"]) for row in rows]))


Tune = Callable[[Map, Rows, int], Fitted]


def tuner(card: Model[Words], epochs: int) -> Tune:
    """tune(map, rows, seed): a prompt learned on rows, selected on as many others,
    tested on all keys. What was compiled serves all maps."""
    assert card.input.tokenizer is not None
    preset = soft_prompts.METHOD.preset
    assert isinstance(preset, Preset)
    words = text.one_token_each(card.input.tokenizer.encode, "", LABELS)
    program = soft_prompts.prompt_tuning(card, label_words(words))
    optimizer = preset.optimizer(preset.learning_rate, 1, epochs)

    def tune(one: Map, rows: Rows, seed: int) -> Fitted:
        other = examples(one, len(rows), seed + 1)
        test = [{"text": key, "label": label} for key, label in one.pairs.items()]
        train, validation, tested = map(split, (rows, other, test))
        texts = Task("map", train, validation, tested, LABELS, "text")
        task = encoded(card, texts, TEMPLATE).task
        return fit(
            program,
            card.frozen,
            task,
            optimizer=optimizer,
            epochs=epochs,
            batch=len(rows),
            seed=seed,
            progress=False,
        )

    return tune


def prompts(config: Config, card: Model[Words], asked: Language) -> dict[str, Any]:
    """{method: each map's accuracy} at 16 demonstrations of 8 keys."""
    every = (held_out_maps(1, 8, seed)[0] for seed in itertools.count(config.seed))
    onto = (one for one in every if set(one.pairs.values()) == set(LABELS))
    maps = list(itertools.islice(onto, config.tuned))
    rows = [examples(one, 16, config.seed) for one in maps]
    wrong = [shuffled_labels(own, seed=i) for i, own in enumerate(rows)]
    tune = tuner(card, config.epochs)

    def accuracy(shown: Sequence[Rows]) -> list[float]:
        pairs = zip(maps, shown, strict=True)
        fits = [tune(one, own, seed) for seed, (one, own) in enumerate(pairs)]
        return [fitted.score["test"] for fitted in fits]

    return {
        "prompt tuning": accuracy(rows),
        "few-shot": in_context(asked, maps, rows),
        "ideal learner": [ideal(*pair) for pair in zip(maps, rows, strict=True)],
        "prompt tuning, shuffled labels": accuracy(wrong),
    }


def shuffled_labels(rows: Rows, seed: int) -> Rows:
    """The rows' own labels in random order: each is there as often as before."""
    labels = [row["label"] for row in text.shuffled(rows, seed)]
    return [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]


# -- steps


def problems(
    make: Callable[[random.Random, int], Problem], size: int, number: int, seed: int = 0
) -> list[Problem]:
    """Different ones that training never drew."""
    rng = random.Random(f"{make.__name__} {size} {seed}")
    stream = drawn.known(lambda: make(rng, size), held=True)
    found: dict[str, Problem] = {}
    while len(found) < number:
        one = next(stream)
        found[one.question] = one
    return list(found.values())


def worked(make: Callable, manner: Manner) -> Rows:
    """Two short problems with their answers, as demonstrations."""
    shown = problems(make, 3, 2, seed=-1)
    return [{"question": p.question, "answer": write_out(p, manner)} for p in shown]


def write_out(problem: Problem, manner: Manner) -> str:
    return problem.answer if manner == "direct" else problem.steps


def written(
    asked: Language,
    make: Callable,
    found: Sequence[Problem],
    manner: Manner,
    **sampled: Any,
) -> tuple[text.Score, float]:
    """The score of what is written behind demonstrations of a manner, and the mean
    accuracy of single samples, where there are several."""
    length = 8 + max(len(write_out(p, manner)) for p in found)
    rows = worked(make, manner)
    how: dict[str, Any] = {"between": BETWEEN, "length": length}
    recipe = self_consistency if sampled else chain_of_thought
    program = recipe(QUESTION, rows, text.number(), **how, **sampled)
    params = program.init(None, asked)
    xs, gold = [{"question": p.question} for p in found], [int(p.answer) for p in found]
    if not sampled:
        whole = text.score(program.apply(params, asked, xs), gold)
        return whole, whole.accuracy
    apply = record_texts(program.apply, ["output/votes"])
    answers, seen = apply(params, asked, xs)
    each = zip((own["output/votes"] for own in seen), gold, strict=True)
    votes = [vote.value == value for own, value in each for vote in own]
    return text.score(answers, gold), float(np.mean(votes))


def applied(asked: Language, name: str, number: int) -> float:
    """How often the model does to a word what four demonstrations show."""
    rng = random.Random(f"{name}")
    draw = lambda: drawn.applied(rng, name, rng.randint(*drawn.TRAINED["letters"]))
    every = list(itertools.islice(drawn.known(draw, True, name), 4 + number))
    rows = [{"question": p.question, "answer": p.answer} for p in every]
    how: dict[str, Any] = {"between": BETWEEN, "length": 16}
    program = chain_of_thought(QUESTION, rows[:4], str.strip, **how)
    xs, gold = rows[4:], [row["answer"] for row in rows[4:]]
    return text.score(
        program.apply(program.init(None, asked), asked, xs), gold
    ).accuracy


def steps(config: Config, asked: Language) -> dict[str, list[float]]:
    """{manner: accuracy on chains of each length}."""
    found: dict[str, list[float]] = {}
    for size in config.operations:
        asks = problems(drawn.chain, size, config.problems, config.seed)
        how = {"samples": config.samples, "temperature": config.temperature}
        greedy, _ = written(asked, drawn.chain, asks, "steps")
        agreed, single = written(asked, drawn.chain, asks, "steps", **how)
        direct, _ = written(asked, drawn.chain, asks, "direct")
        for name, value in {
            "steps": greedy.accuracy,
            f"steps, majority of {config.samples}": agreed.accuracy,
            "steps, one sample": single,
            "direct": direct.accuracy,
        }.items():
            found.setdefault(name, []).append(value)
    return found


# -- the page


def short(values: Sequence[float]) -> str:
    found = mean_of(values)
    return f"{found.value:.2f} ± {found.half:.2f}"


def main(config: Config) -> dict[str, Any]:
    """Ask, print and write everything; returns what results.json holds."""
    begun = time.monotonic()
    card = abacus.load_abacus(config.weights)
    asked = language(card, rows=32)
    by_shown = curves(config, asked)
    tuned = prompts(config, card, asked)
    by_steps = steps(config, asked)
    tables = {
        "shown": (
            ("maps of 4 keys, demonstrations:", *map(str, config.shown)),
            [(name, *map(short, own)) for name, own in by_shown.items()],
        ),
        "tuned": (
            ("maps of 8 keys, 16 examples:", "accuracy"),
            [(name, short(own)) for name, own in tuned.items()],
        ),
        "steps": (
            ("chains, operations:", *map(str, config.operations)),
            [(n, *(f"{v:.2f}" for v in own)) for n, own in by_steps.items()],
        ),
    }
    for header, rows in tables.values():
        print(text_table(header, rows) + "\n", flush=True)
    results = {"shown": by_shown, "tuned": tuned, "steps": by_steps}
    results |= {"config": plain(config), "seconds": time.monotonic() - begun}
    write_json(config.out / "results.json", results)
    page(config, tables, by_shown, by_steps)
    print(config.out / "report.html")
    return results


def plain(config: Config) -> dict[str, Any]:
    paths = {"out": str(config.out), "weights": config.weights.name}
    return dataclasses.asdict(config) | paths


def page(
    config: Config,
    tables: dict[str, Any],
    by_shown: dict[str, list[list[float]]],
    by_steps: dict[str, list[float]],
) -> None:
    """report.html: the tables, and what they show as pictures."""
    dashed = ("ideal learner", "few-shot, random labels", "direct")
    line = lambda name, own: figures.Line(
        name,
        np.array([mean_of(values).value for values in own]),
        np.nan_to_num([mean_of(values).half for values in own]),
        name in dashed,
    )
    shown = figures.lines(
        config.shown,
        [line(name, own) for name, own in by_shown.items()],
        ("demonstrations", "accuracy"),
        "Accuracy on held-out maps against the number of demonstrations",
    )
    worked_out = figures.lines(
        config.operations,
        [
            figures.Line(name, np.array(own), None, name in dashed)
            for name, own in by_steps.items()
        ],
        ("operations", "accuracy"),
        "Accuracy on chains against their length",
        shaded=(max(drawn.TRAINED["operations"]), max(config.operations)),
    )
    captions = (
        f"{config.maps} maps from 4 letters to 4 labels that training never showed, "
        "asked for each key; bands are 95 % intervals over maps. The ideal learner "
        "knows what was shown and guesses the rest.",
        "Chains such as 7+5*3 from left to right, last digits alone, that training "
        "never drew; in the grey part they are longer than any that it drew.",
    )
    images = captioned(list(zip((shown, worked_out), captions, strict=True)))
    titles = ("Demonstrations", "A learned prompt", "Steps")
    sections = [
        "<h1>The embedded language model: demonstrations, a prompt, steps</h1>",
        '<pre class="command">python -m experiments.language_demo '
        f"{escape(shlex.join(sys.argv[1:]))}</pre>",
        f'<div class="pair">{images}</div>',
        *(
            results(header, rows, title=title)
            for title, (header, rows) in zip(titles, tables.values(), strict=True)
        ),
    ]
    write_page(config.out / "report.html", "The embedded model", sections)


if __name__ == "__main__":
    command(main, Config)
