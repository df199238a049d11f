"""The methods of `three_paradigms` on a frozen language model."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.three_paradigms.methods import (
    Bench,
    Made,
    Method,
    Remembered,
    best_map,
    examples,
    linear_probe,
    majority,
    map_of,
    searched,
    told,
)
from reprojax import data, reprogram
from reprojax.alignments import label_words, last, linear
from reprojax.commands.controls import Outputs
from reprojax.core import (
    Forward,
    Params,
    Program,
    PyTree,
    Tokens,
    chain,
    last_value,
    record,
    until,
)
from reprojax.core.estimation import estimated
from reprojax.data import Split, Task, in_order
from reprojax.models import Model
from reprojax.models.language import Words
from reprojax.models.language.card import vectors
from reprojax.models.language.maps import one_word, vocabulary_map
from reprojax.models.language.starts import from_text
from reprojax.models.language.states import keys_and_values
from reprojax.models.language.words import nearest_words
from reprojax.recipes.model_reprogramming.additive_prompts import additive_prompt
from reprojax.recipes.prompt_instruction import few_shot, zero_shot
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning
from reprojax.recipes.prompt_tuning.black_box_tuning import black_box_tuning
from reprojax.searches import Oracle, cma_es
from reprojax.taxonomy import Description, describe, describe_texts
from reprojax.text import Procedure, asked, fill, labelled, realigned
from reprojax.text import record_texts as record_texts
from reprojax.text import score as scored
from reprojax.text.calibration import contextual_calibration
from reprojax.text.in_process import language
from reprojax.text.tasks import Encoded, encoded
from reprojax.training.black_box import fit_black_box
from reprojax.training.black_box_texts import only_scores, scores
from reprojax.training.steps import evaluate

CHECKS = 4  # of black-box tuning, by validation


class Problem(NamedTuple):
    """Texts with classes, and how a language model is asked about them."""

    name: str
    texts: Sequence[str]
    y: Sequence[int]
    classes: tuple[str, ...]
    """Each is its own label word."""
    template: str
    start: str
    """The text at which learned prompts begin."""


class Settings(NamedTuple):
    """Sizes, and rates that were chosen on the validation texts of another draw."""

    ks: tuple[int, ...]
    validation: int
    test: int
    length: int
    """Tokens of a text in its template, at most; longer ones are left out."""
    steps: int
    batch: int
    rates: Mapping[str, float]
    subspace: int
    """Numbers that black-box tuning searches."""
    population: int
    queries: int
    """Texts that it sends, those of validation not counted."""
    rate: float | None = None
    """Instead of all of these."""


@partial(jax.jit, static_argnums=(0, 1))
def _look(
    forward: Forward, site: str, frozen: PyTree, x: Tokens
) -> tuple[jax.Array, jax.Array]:
    y, seen = record(forward, [site])(frozen, x)
    wide = lambda value: last_value(value).astype(jnp.float32)
    return wide(y), wide(seen[site])


class Asking(NamedTuple):
    """A prompt of words, and what it was answered."""

    key: tuple[bool, int, int]
    """Whether there are examples, the seed, their number."""
    program: Procedure
    params: Params
    look: Remembered
    call: Callable[[Split], Any]


class Texts:
    """A language model, a problem, and what its methods share."""

    def __init__(self, card: Model[Words], problem: Problem, settings: Settings):
        self.problem, self.settings = problem, settings
        (self.site,) = card.roles["features"]
        self.language = language(card, rows=settings.batch)
        self.card = one_word(card)
        self.look = Remembered(self.outputs)
        self.asking: Asking | None = None

    # -- texts

    def task(self, seed: int) -> Task:
        """Three splits, drawn anew by each seed."""
        own = self.problem
        return data.from_texts(
            {"train": (list(own.texts), list(own.y))},
            own.classes,
            name=own.name,
            sizes={"validation": self.settings.validation, "test": self.settings.test},
            seed=seed,
            test_seed=seed,
        )

    def encoded(self, task: Task) -> Encoded:
        length = self.settings.length
        return encoded(self.card, task, self.problem.template, length=length)

    def tokens(self, task: Task, split: Split) -> Split:
        """A split of texts as the model reads it."""
        return self.encoded(task._replace(test=split)).task.test

    def some(self) -> Task:
        """Any examples: to look at shapes and label words."""
        return examples(self.task(0), len(self.problem.classes), 0)

    @cached_property
    def words(self) -> tuple[int, ...]:
        return self.encoded(self.some()).words

    def outputs(self, split: Split) -> Outputs:
        """Logits and features behind the last word of each text."""
        own, size = self.tokens(self.some(), split), self.settings.batch
        found = [
            _look(self.card.forward, self.site, self.card.frozen, x)
            for x, *_ in in_order(own, min(size, len(own.y)))
        ]
        columns = zip(*jax.device_get(found), strict=True)
        logits, features = (np.concatenate(c)[: len(own.y)] for c in columns)
        return Outputs(logits, features, split.y)

    def described(self, program: Program) -> Description:
        x = self.encoded(self.some()).task.train.x
        x = jax.tree.map(lambda leaf: leaf[:2], x)
        return describe(program, self.card.frozen, x, roles=self.card.roles)

    # -- prompts of words

    def asked(self, task: Task, seed: int, shown: bool, calibrated: bool) -> Made:
        """The label words' scores behind the query; before it, the k examples.

        Calibrated or not, the same is asked, and only once.
        """
        text, key = self.language, (shown, seed, len(task.train.y))
        if self.asking is None or self.asking.key != key:
            self.asking = self.ask(key, task)
        key, program, plain, look, call = self.asking
        params = plain
        if calibrated:
            params = contextual_calibration(program, plain, text)

        def score(split: Split) -> float:
            answers = realigned(program, params, look(split)[1])
            return scored(answers, split.y).accuracy

        _, seen = look(task.validation)
        out = max(one.get("ask:in/rows/dropped", 0) for one in seen)
        line = f"{key[2] if shown else 0} examples shown, "
        line += f"at most {out} of them left out to fit\n\n{seen[0]['ask:in']}"
        known = describe_texts(program, params, text, [{"text": "N/A"}])
        return Made(score, call, score(task.validation), known, line)

    def ask(self, key: tuple[bool, int, int], task: Task) -> "Asking":
        own, text, sites = self.problem, self.language, ["ask:in", "output/raw"]
        program = zero_shot(own.template, own.classes)
        if key[0]:
            rows = labelled(task.train.x.tolist(), task.train.y, own.classes)
            program = few_shot(own.template, own.classes, rows)
            sites.append("ask:in/rows/dropped")
        params = program.init(None, text)
        run = record_texts(program.apply, sites)
        call = lambda split: run(params, text, [{"text": str(x)} for x in split.x])
        return Asking(key, program, params, Remembered(call), call)

    # -- learned prompts

    def start(self) -> list[int]:
        assert self.card.input.tokenizer is not None
        return self.card.input.tokenizer.encode(self.problem.start)

    @cached_property
    def programs(self) -> dict[str, Program]:
        """One of each for all draws, so that it is compiled once."""
        card, ids, align = self.card, self.start(), label_words(self.words)
        length = len(ids)
        return {
            "prompt tuning": prompt_tuning(
                card, align, length=length, initial=from_text(card, ids)
            ),
            "prefix tuning": prefix_tuning(
                card,
                align,
                length=length,
                hidden=None,
                start=keys_and_values(card, ids),
            ),
            "additive prompt, Bayesian map": additive_prompt(
                card, vocabulary_map(card, len(self.words))
            ),
        }

    @cached_property
    def optimizers(self) -> dict[str, optax.GradientTransformation]:
        own = self.settings
        return {n: optax.adam(own.rate or rate) for n, rate in own.rates.items()}

    def learned(self, task: Task, seed: int, name: str) -> Made:
        own, program, size = (
            self.encoded(task).task,
            self.programs[name],
            self.settings.batch,
        )
        found = searched(
            program,
            self.card.frozen,
            own,
            self.optimizers[name],
            steps=self.settings.steps,
            batch=size,
            seed=seed,
        )

        def score(split: Split) -> float:
            read = self.tokens(task, split)
            return evaluate(program, found.params, self.card.frozen, read, size)

        lines = [told(found, self.settings.steps), *self.read(name, found.params)]
        seen, shown = self.described(program), "\n".join(lines)
        return Made(score, score, found.validation, seen, shown)

    # -- a prompt without gradients

    @cached_property
    def box(self) -> tuple[Oracle, Program, Program]:
        """The model as one that only answers, the program on it, and on the model."""
        card, ids, own = self.card, self.start(), self.settings
        align = label_words(self.words)
        oracle = scores(card, align, chunk=4 * own.batch)
        std = float(vectors(card, range(card.input.vocabulary)).std())
        sizes = {"length": len(ids), "size": own.subspace, "words": ids}
        on = partial(black_box_tuning, deviation=std, **sizes)
        return oracle, on(only_scores(oracle, card)), on(card, align)

    def black_box(self, task: Task, seed: int) -> Made:
        """A prompt of the start's words, in some order, and what evolution adds."""
        oracle, asking, program = self.box
        own, size = self.settings, self.settings.batch
        read = self.encoded(task).task
        fitted = fit_black_box(
            asking,
            oracle,
            read,
            cma_es(1.0, population=own.population, result="point"),
            budget=own.queries + own.validation * CHECKS,
            batch=min(size, len(task.train.y)),
            seed=seed,
            checks=CHECKS,
            progress=False,
        )
        # the service has the alignment; on the model itself it is part of the program
        whole = program.init(jax.random.key(0), self.card.frozen, read.train.x)
        pairs = zip(whole, fitted.params, strict=True)
        params = Params(*(tree | own for tree, own in pairs))

        def score(split: Split) -> float:
            found = self.tokens(task, split)
            return evaluate(program, params, self.card.frozen, found, size)

        loss = fitted.curve[:, 1]
        line = f"{fitted.queries['search']} queries for the search, of {own.population}"
        line += f" points a step; loss {loss[0]:.3f} before the first check and "
        line += f"{loss[-1]:.3f} before the last of {len(loss)}"
        chosen = fitted.accuracy["validation"]
        return Made(score, score, chosen, self.described(program), line)

    def read(self, name: str, params: Params) -> list[str]:
        """Words near a soft prompt; words that a map counts for each class."""
        (site,) = self.card.roles["embedding"]
        prompt, lines = params.learnable.get(site), []
        if prompt is not None and prompt.ndim == 2:
            near = nearest_words(self.card, prompt, 3)
            lines = [" ".join(repr(one.word) for one in row) for row in near]
        if estimated(self.programs[name]):
            lines += self.sources(map_of(params.fixed["output"]))
        return lines

    def sources(self, label_map: np.ndarray) -> list[str]:
        """The words of the vocabulary that weigh most for each class."""
        text = self.card.input.tokenizer
        assert text is not None
        lines = []
        for name, column in zip(self.problem.classes, label_map.T, strict=True):
            best = np.argsort(-column, kind="stable")[:6]
            words = (f"{text.decode([int(i)])!r} {column[i]:.2f}" for i in best)
            lines.append(f"{name}: {', '.join(words)}")
        return lines

    # -- no prompt

    def mapped(self, task: Task, seed: int) -> Made:
        return best_map(self.look, task, seed, self.card.input.vocabulary, self.sources)

    def probed(self, task: Task, seed: int) -> Made:
        head = chain(last=last(), head=linear(len(task.classes), standardised=True))
        program = reprogram(until(self.card.forward, self.site), {"output": head})
        return linear_probe(self.look, task, self.described(program))


def bench(card: Model[Words], problem: Problem, settings: Settings) -> Bench:
    """The methods for a problem; texts that are too long are left out first."""
    problem, out = fitting(card, problem, settings.length)
    own = Texts(card, problem, settings)
    ask = lambda **how: partial(own.asked, **how)
    learned = lambda name: Method(
        "tuning", partial(own.learned, name=name), learned=True
    )
    methods = {
        "majority class": Method("control", majority, examples=False),
        "zero-shot": Method(
            "instruction", ask(shown=False, calibrated=False), examples=False
        ),
        "few-shot": Method("instruction", ask(shown=True, calibrated=False)),
        "few-shot, calibrated": Method("instruction", ask(shown=True, calibrated=True)),
        "prompt tuning": learned("prompt tuning"),
        "prefix tuning": learned("prefix tuning"),
        "black-box tuning": Method("tuning", own.black_box, learned=True),
        "additive prompt, Bayesian map": learned(
            "additive prompt, Bayesian map"
        )._replace(paradigm="reprogramming"),
        "map without prompt": Method("reprogramming", own.mapped),
        "linear probe": Method("control", own.probed),
    }
    remarks = [
        f"{settings.test} test and {settings.validation} validation texts, both drawn "
        f"anew by each seed; {out} of {out + len(problem.texts)} texts, of more than "
        f"{settings.length} tokens in their template, were left out.",
    ]
    identity = {
        "model": card.name,
        "weights": card.fingerprint,
        "dtype": jax.tree.leaves(card.frozen)[0].dtype.name,
        "problem": [problem.name, list(problem.classes), problem.template],
        "start": problem.start,
        "settings": {n: v for n, v in settings._asdict().items() if n != "ks"},
    }
    return Bench(
        f"{card.name} on {problem.name}",
        own.task,
        methods,
        settings.ks,
        settings.batch,
        identity,
        remarks,
    )


def fitting(card: Model[Words], problem: Problem, length: int) -> tuple[Problem, int]:
    """The problem without the texts that are too long, and how many these are."""
    assert card.input.tokenizer is not None
    encode, (question, *_) = card.input.tokenizer.encode, asked(problem.template)
    pairs = [
        (text, y)
        for text, y in zip(problem.texts, problem.y, strict=True)
        if len(encode(fill(question, {"text": text}))) <= length
    ]
    texts, y = zip(*pairs, strict=True)
    return problem._replace(texts=texts, y=y), len(problem.texts) - len(texts)
