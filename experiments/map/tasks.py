"""Tasks of the map: one in a model's own label space under a shift, and one outside it.

The accuracy of the bare model on the test examples (`bare_accuracy`), among all
of its classes and among the task's own:

                      all its classes    the task's own    without the shift
    worn figures                 .463              .617          .995   1.00
    marked maps                  .466              .466          .992   .992

The shifts were chosen so that the first column lies between .3 and .6.
"""

import random
from collections.abc import Callable, Iterator
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.map import shifts
from experiments.map.shifts import Shifts
from experiments.shared import abacus, assets
from experiments.shared.texts import load_text
from experiments.train_glyphs import drawing
from reprojax import data, models
from reprojax.core import Forward, Manipulation, PyTree, Tokens, padded, passthrough
from reprojax.data import Task
from reprojax.models import Model, Pixels, language, role
from reprojax.models.language.maps import one_word
from reprojax.operators import resize
from reprojax.text.tasks import encoded

POOL = 2400  # examples from which the three splits are drawn
SIZES = {"train": 256, "validation": 100, "test": 1000}
FEWER = {"test": 500}  # digits and texts


class Bench(NamedTuple):
    """A frozen model, a task, and what the programs of the cells are made by."""

    model: Model[Any]
    """It answers [B S], of a language model the logits of the next word."""
    task: Task
    own: tuple[int, ...]
    """The model's own class for each of the task's; () outside its label space."""
    numbers: int
    """Learnable numbers of each learnable cell, a linear alignment not counted."""
    source: PyTree = None
    """Unlabelled examples of the kind that the model was trained on."""
    shifts: Shifts = MappingProxyType({})
    """Test examples as training never shows them."""

    @property
    def sized(self) -> dict[str, Manipulation]:
        """What every program of an image model has: the image in the model's size."""
        own = self.model.input
        return {"input": resize(own.size)} if isinstance(own, Pixels) else {}


def next_word(card: Model[Any]) -> Model[Any]:
    """A language model as a classifier: the logits [B V] behind the last word."""
    inner = one_word(card)

    def forward(frozen: PyTree, x: PyTree, edit: Any = passthrough) -> jax.Array:
        end = ("output", "output/raw")
        inside = lambda site, value: value if site in end else edit(site, value)
        return edit("output", inner.forward(frozen, x, edit=inside).value[:, 0])

    return card._replace(forward=forward)


def said(forward: Forward) -> Forward:
    """Its answer [B S] as that to one word a row, [B 1 S]: labels are then the model's
    own classes, however few of them a task has."""

    def one(frozen: PyTree, x: PyTree, edit: Any = passthrough) -> jax.Array:
        end = ("output", "output/raw")
        inside = lambda site, value: value if site in end else edit(site, value)
        return edit("output", forward(frozen, x, edit=inside)[:, None])

    return one


def in_own_classes(task: Task, own: tuple[int, ...]) -> Task:
    """A task of classes with the model's own classes [N 1] as labels."""
    ids = np.asarray(own, np.int32)
    splits = (task.train, task.validation, task.test)
    named = [split._replace(y=ids[split.y][:, None]) for split in splits]
    holds = "pixels" if task.holds == "images" else task.holds
    return Task(task.name, *named, classes=(), holds=holds, answers="words")


# -- images

FIGURES = tuple(range(0, 128, 13))  # ten of 128: each manner, and different figures
BLUR, NOISE = 1.5, 10.0  # pixels, and of 255: both are deviations


def figures(seed: int = 0, **sizes: int) -> Bench:
    """Ten of the embedded image model's own 128 classes, blurred and noisy."""
    model = models.load("glyphs")
    x, y = drawn_figures(POOL)
    names = [model.classes[i] for i in FIGURES]
    task = _of(worn(x), y, names, "worn figures", seed, sizes)
    shifted = shifts.of_images(task.test.x, task.test.y)
    return Bench(model, task, FIGURES, 1728, source_figures(), shifted)


def digits(seed: int = 0, **sizes: int) -> Bench:
    """Handwritten digits, which the embedded image model has no class for."""
    bench = _outside("digits", seed, sizes)
    printed = {"printed digits": shifts.printed_digits()}
    return bench._replace(shifts={**bench.shifts, **printed})


def letters(seed: int = 0, **sizes: int) -> Bench:
    """Letters behind glass, which it has no class for either."""
    return _outside("letters-behind-glass", seed, sizes)


def _outside(name: str, seed: int, sizes: dict[str, int]) -> Bench:
    given = SIZES | FEWER | sizes
    task = data.load(name, seed=seed, duplicates="keep", **given)  # type: ignore[arg-type]
    shifted = shifts.of_images(task.test.x, task.test.y)
    return Bench(models.load("glyphs"), task, (), 1728, source_figures(), shifted)


@cache
def drawn_figures(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of the ten classes as training drew them, and labels from 0 to 9."""
    y = np.arange(number, dtype=np.int32) % len(FIGURES)
    rng = np.random.default_rng(2_000_003)
    return drawing.drawn(rng, np.asarray(FIGURES, np.int32)[y]), y


@cache
def source_figures() -> np.ndarray:
    """One of each class, as training drew them: uint8 [128 32 32 3]."""
    return drawing.draw(np.random.default_rng(2_000_029), len(drawing.CLASSES))[0]


def worn(x: np.ndarray) -> np.ndarray:
    """Images uint8 [N H W C], blurred, and with noise of a fixed seed."""
    from scipy.ndimage import gaussian_filter

    soft = gaussian_filter(x.astype(np.float32), (0, BLUR, BLUR, 0))
    noise = np.random.default_rng(7).normal(0, NOISE, x.shape)
    return np.clip(np.round(soft + noise), 0, 255).astype(np.uint8)


def _of(
    x: Any, y: np.ndarray, names: list[str], name: str, seed: int, sizes: dict[str, int]
) -> Task:
    given: dict[str, Any] = SIZES | sizes
    return data.from_arrays(
        x, y, names, name=name, seed=seed, duplicates="keep", **given
    )


# -- words

LABELS = "abcd"
OWN_FORM, OTHER_FORM = abacus.Form("", "", ","), abacus.Form("", ">", ",")


def marked_maps(seed: int = 0, **sizes: int) -> Bench:
    """Maps to be read off eight demonstrations, in which a sign stands before labels.

    The embedded language model reads "ea,fb,e" as well as can be, and "e>a,f>b,e>" half
    of the time. The class is the letter that follows.
    """
    card = language.load("abacus")
    assert card.input.tokenizer is not None
    texts, y = drawn_maps(OTHER_FORM, POOL)
    own = tuple(card.input.tokenizer.encode(LABELS))
    task = _of_texts(card, texts, y, list(LABELS), "marked maps", seed, sizes)
    given: dict[str, Any] = {
        "another sign": drawn_maps(abacus.Form("", ":", ","), shifts.ROWS, 5),
        "other keys": drawn_maps(OTHER_FORM, shifts.ROWS, 6, keys=abacus.DIGITS),
        "half as many shown": drawn_maps(OTHER_FORM, shifts.ROWS, 7, times=1),
    }
    length = task.test.x.weight.shape[1]
    shifted = shifts.of_texts(given, card.input.tokenizer.encode, length)
    return Bench(next_word(card), task, own, 1024, source_maps(card), shifted)


def functions(seed: int = 0, **sizes: int) -> Bench:
    """Which function made the second word of the first: no character is its name."""
    card = language.load("abacus")
    names, rng = list(abacus.FUNCTIONS), random.Random(3)
    found: dict[str, int] = {}
    while len(found) < POOL:
        i = len(found) % len(names)
        made = abacus.applied(rng, names[i], rng.randint(3, 6))
        found.setdefault(f"{made.question}>{made.answer}", i)
    texts, y = list(found), np.array(list(found.values()))
    task = _of_texts(card, texts, y, names, "functions", seed, sizes)
    given: dict[str, Any] = {
        "another sign": shifts.applied(names, sign="="),
        "digits for letters": shifts.applied(names, alphabet=abacus.DIGITS),
    }
    assert card.input.tokenizer is not None
    length = task.test.x.weight.shape[1]
    shifted = shifts.of_texts(given, card.input.tokenizer.encode, length)
    return Bench(next_word(card), task, (), 1024, source_maps(card), shifted)


def drawn_maps(
    form: abacus.Form,
    number: int,
    seed: int = 0,
    keys: str = abacus.LETTERS.strip(LABELS),
    times: int = 2,
) -> tuple[list[str], np.ndarray]:
    """Texts in which each of four keys is shown `times` times, and one is asked, none
    of training's maps; and the class of the label that follows."""
    pairs = list(_maps(form, number, seed, keys, times))
    return [text for text, _ in pairs], np.array([y for _, y in pairs])


def _maps(
    form: abacus.Form, number: int, seed: int, keys: str, times: int
) -> Iterator[tuple[str, int]]:
    rng, alphabets = random.Random(seed), (keys, LABELS)
    for _ in range(number):
        one = abacus.drawn_map(rng, 4, len(LABELS), held=True, alphabets=alphabets)
        shown = times * list(one.pairs)
        rng.shuffle(shown)
        asked = rng.choice(shown)
        before = (form.asked(k) + one.pairs[k] + form.between for k in shown)
        yield "".join(before) + form.asked(asked), LABELS.index(one.pairs[asked])


def source_maps(card: Model[Any]) -> Tokens:
    """128 texts of such maps in the model's own format."""
    return padded(
        [card.input.tokenizer.encode(t) for t in drawn_maps(OWN_FORM, 128, 1)[0]]
    )


def _of_texts(
    card: Model[Any],
    texts: list[str],
    y: np.ndarray,
    names: list[str],
    name: str,
    seed: int,
    sizes: dict[str, int],
) -> Task:
    assert card.input.tokenizer is not None
    x = padded([card.input.tokenizer.encode(text) for text in texts])
    x = jax.tree.map(np.asarray, x)
    given: dict[str, Any] = SIZES | FEWER | sizes
    return data.from_arrays(x, y, names, name=name, seed=seed, holds="tokens", **given)


# -- larger models, with tasks that are not in the repository


def clothing(seed: int = 0, **sizes: int) -> Bench:
    """Photographs of clothing, which ViT-Ti has no classes for."""
    given: dict[str, Any] = SIZES | {"validation": 100, "test": 249} | sizes
    task = assets.load_task("clothing", seed=seed, duplicates="keep", **given)
    model = assets.load_backbone("vit_tiny_patch16_224", dtype="float32")
    return Bench(model, task, (), 1920)


def sentiment(seed: int = 0, **sizes: int) -> Bench:
    """Sentences of reviews, whose sentiment SmolLM2-135M says in a word."""
    card = assets.load_language("smollm2", dtype="bfloat16")
    given: dict[str, Any] = SIZES | {"test": 200} | sizes
    template = "Review: {text} Sentiment: {label}"
    assert (tokenizer := card.input.tokenizer) is not None
    texts = load_text("sentiment", seed=seed)
    fits = lambda text: len(tokenizer.encode(f"Review: {text}")) <= 20
    splits = (texts.train, texts.validation, texts.test)
    x, y = (np.concatenate([split[i] for split in splits]) for i in (0, 1))
    short = np.array([fits(str(text)) for text in x])
    parts = {"train": (x[short].tolist(), y[short].tolist())}
    task = data.from_texts(
        parts, texts.classes, name="sentiment", sizes=given, seed=seed
    )
    read = encoded(card, task, template, length=24)
    return Bench(next_word(card), read.task, read.words, 2304)


BENCHES: dict[str, Callable[..., Bench]] = {
    "figures": figures,
    "digits": digits,
    "letters": letters,
    "maps": marked_maps,
    "functions": functions,
    "clothing": clothing,
    "sentiment": sentiment,
}
EMBEDDED = ("figures", "digits", "letters", "maps", "functions")
SLOW = ("clothing", "sentiment")
"""Of models that take seconds a batch. Their cells above a cache are measured first."""


# -- the bare model


def bare_accuracy(bench: Bench, x: PyTree, y: np.ndarray) -> tuple[float, float]:
    """Of a model without a program, on a task of its own classes: among all of its
    classes, and among those of the task."""
    role(bench.model, "features")
    look = jax.jit(bench.model.forward)
    answers = np.asarray(look(bench.model.frozen, jax.tree.map(jnp.asarray, x)))
    own = np.asarray(bench.own)
    right = answers.argmax(1) == own[y], answers[:, own].argmax(1) == y
    return float(right[0].mean()), float(right[1].mean())
