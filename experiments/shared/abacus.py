"""Strings to learn from: what a model must find in its context, and what it can work
out by steps. Python alone; no text of any language is involved.

A document is one family in one form, such as "Q: 7+5-2\\nA: 0\\n\\nQ: ", again and
again until it is long enough, so that its beginning shows by example what follows:

    repeats     a random string, again and again; or random chunks in random order
    maps        2 to 8 random keys and the label of each: ax, by, ax
    functions   of words of 2 to 6 letters: copy, reverse, first, last, double, upper
    chains      2 to 8 of + - * from left to right, modulo 10
    sums        of two numbers of 1 to 5 digits

Chains and sums are answered directly, or with their steps written out; a document keeps
to one manner. Tests take what training never drew: one question in eight, by a checksum
of its text (of a map, of all its pairs); more keys, operations, digits and letters than
above; and the function `swap`.

>>> ids, weight = draw(random.Random(0), 32, 128, {"maps": 1.0})
>>> ids.shape, weight.shape
((32, 128), (32, 128))
"""

import random
import string
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from reprojax.models.language.abacus import CHARACTERS, IDS

VERSION = 2
Manner = Literal["direct", "steps"]
LETTERS, DIGITS = string.ascii_lowercase, string.digits
SYMBOLS = LETTERS + DIGITS + string.ascii_uppercase
TRAINED = {"keys": (2, 8), "operations": (2, 8), "digits": (1, 5), "letters": (2, 6)}


class Problem(NamedTuple):
    """A question with its answer; the steps end with the answer too."""

    question: str
    answer: str
    steps: str


class Form(NamedTuple):
    """What stands around questions and answers."""

    before: str
    middle: str
    between: str

    def asked(self, question: str) -> str:
        return self.before + question + self.middle


def held_out(text: str) -> bool:
    """Whether tests alone draw it: one text in eight."""
    return zlib.crc32(text.encode()) % 8 == 0


# -- problems


def chain(rng: random.Random, operations: int) -> Problem:
    """Such as 7+5*3, which is 6: from left to right, the last digit of each result."""
    value = rng.randrange(10)
    question, steps = str(value), []
    for _ in range(operations):
        sign, other = rng.choice("+-*"), rng.randrange(1, 10)
        step = {"+": value + other, "-": value - other, "*": value * other}[sign] % 10
        question += f"{sign}{other}"
        steps.append(f"{value}{sign}{other}={step}")
        value = step
    return Problem(question, str(value), " ".join(steps))


def total(rng: random.Random, digits: int) -> Problem:
    """Such as 57+68: steps 7+8+0=15 5+6+1=12 125, each with what was carried."""
    low = 10 ** (digits - 1) if digits > 1 else 0
    a, b = rng.randrange(low, 10**digits), rng.randrange(low, 10**digits)
    carry, steps = 0, []
    for x, y in zip(reversed(str(a)), reversed(str(b)), strict=True):
        whole = int(x) + int(y) + carry
        steps.append(f"{x}+{y}+{carry}={whole}")
        carry = whole // 10
    return Problem(f"{a}+{b}", str(a + b), " ".join([*steps, str(a + b)]))


FUNCTIONS: dict[str, Callable[[str], str]] = {
    "copy": lambda word: word,
    "reverse": lambda word: word[::-1],
    "first": lambda word: word[0],
    "last": lambda word: word[-1],
    "double": lambda word: word + word,
    "upper": str.upper,
}
UNSEEN: dict[str, Callable[[str], str]] = {
    "swap": lambda word: word[-1] + word[1:-1] + word[0]
}


def word_of(rng: random.Random, letters: int, alphabet: str = LETTERS) -> str:
    return "".join(rng.choices(alphabet, k=letters))


def applied(rng: random.Random, name: str, letters: int) -> Problem:
    """A word, and what a function makes of it."""
    word = word_of(rng, letters)
    made = (FUNCTIONS | UNSEEN)[name](word)
    return Problem(word, made, made)


def known(
    draw: Callable[[], Problem], held: bool = False, by: str = ""
) -> Iterator[Problem]:
    """Problems that are held out, or those that are not."""
    while True:
        problem = draw()
        if held_out(by + problem.question) == held:
            yield problem


class Map(NamedTuple):
    """Keys, the labels that there are, and the label of each key."""

    pairs: dict[str, str]
    labels: tuple[str, ...]


def drawn_map(
    rng: random.Random,
    keys: int,
    labels: int,
    *,
    held: bool = False,
    letters: tuple[int, int] = (1, 1),
    alphabets: tuple[str, str] = (LETTERS, LETTERS),
) -> Map:
    """Different keys, different labels, and for each key any label with equal chance.

    Args:
        letters: of a key and of a label.
        alphabets: of both.
    """
    while True:
        names = distinct(rng, keys, letters[0], alphabets[0])
        words = distinct(rng, labels, letters[1], alphabets[1])
        pairs = {name: rng.choice(words) for name in names}
        text = ",".join(f"{k}>{v}" for k, v in sorted(pairs.items()))
        if held_out(text) == held:
            return Map(pairs, tuple(words))


def distinct(rng: random.Random, number: int, letters: int, alphabet: str) -> list[str]:
    if letters == 1:
        return rng.sample(alphabet, number)
    found: dict[str, None] = {}
    while len(found) < number:
        found[word_of(rng, letters, alphabet)] = None
    return list(found)


# -- documents

MIDDLES = (">", ":", "=", "->", "=>", ": ", " ", " > ", " -> ")
BETWEENS = ("\n", "\n", "\n\n", ";", "; ", ", ", ",", " ")
NAMED = (
    Form("Q: ", "\nA: ", "\n\n"),
    Form("Q: ", "\nA: ", "\n"),
    Form("Input: ", "\nOutput: ", "\n"),
    Form("text: ", " label: ", "\n"),
)


def drawn_form(rng: random.Random, spaced: bool = False) -> Form:
    """Bare, of known words, or of random ones; spaced: answers that hold blanks."""
    kind, betweens = rng.random(), BETWEENS[: 4 if spaced else None]
    middles = tuple(m for m in MIDDLES if not (spaced and m in ("=", " ")))
    if kind < 0.5:
        return Form("", rng.choice(middles), rng.choice(betweens))
    if kind < 0.7:
        return rng.choice(NAMED)
    before, behind = (word_of(rng, rng.randint(1, 5), SYMBOLS) for _ in range(2))
    sign, gap = rng.choice((": ", ":", " ", "=")), rng.choice((" ", "\n"))
    return Form(before + sign, gap + behind + sign, rng.choice(betweens[:3]))


Piece = tuple[str, float]
"""A text, and what its prediction counts."""


def written(form: Form, problems: Iterator[Problem], manner: Manner) -> Iterator[Piece]:
    """Questions do not count; answers do, with the first character that ends them."""
    for problem in problems:
        yield form.asked(problem.question), 0.0
        yield getattr(problem, "answer" if manner == "direct" else "steps"), 1.0
        yield form.between[:1], 1.0
        yield form.between[1:], 0.0


def repeats(rng: random.Random) -> Iterator[Piece]:
    """A string of different characters again and again, or chunks of which the first
    letter tells all; what was there before counts."""
    alphabet = list(rng.choices((LETTERS, LETTERS + DIGITS, CHARACTERS), (6, 2, 2))[0])
    if rng.random() < 0.5:
        text = "".join(rng.sample(alphabet, rng.randint(2, 16)))
        yield text, 0.0
        while True:
            yield text, 1.0
    heads = rng.sample(alphabet, rng.randint(2, 8))
    rest = [c for c in alphabet if c not in heads]
    size = rng.randint(1, 5)
    chunks = {c: "".join(rng.choices(rest, k=size)) for c in heads}
    seen = set()
    while True:
        head = rng.choice(heads)
        yield head, 0.0
        yield chunks[head], float(head in seen)
        seen.add(head)


def maps(rng: random.Random) -> Iterator[Piece]:
    """Demonstrations of a map, in random order with repetition; most of two letters and
    what parts them."""
    form, of = Form("", rng.choice(("", "", ">", ":")), rng.choice("\n;, ")), {}
    if rng.random() < 0.4:
        letters = rng.choice((1, 1, 1, 2, 3)), rng.choice((1, 1, 1, 1, 2))
        alphabet = lambda: rng.choice((LETTERS, LETTERS, SYMBOLS))
        of = {"letters": letters, "alphabets": (alphabet(), alphabet())}
        form = drawn_form(rng)
    one = drawn_map(rng, rng.randint(*TRAINED["keys"]), rng.randint(2, 8), **of)
    names = list(one.pairs)

    def shown() -> Iterator[Problem]:
        while True:
            key = rng.choice(names)
            yield Problem(key, one.pairs[key], one.pairs[key])

    return written(form, shown(), "direct")


def functions(rng: random.Random) -> Iterator[Piece]:
    name = rng.choice(list(FUNCTIONS))
    draw = lambda: applied(rng, name, rng.randint(*TRAINED["letters"]))
    return written(drawn_form(rng), known(draw, by=name), "direct")


def chains(rng: random.Random, manner: Manner) -> Iterator[Piece]:
    most = max(rng.randint(*TRAINED["operations"]) for _ in range(2))
    draw = lambda: chain(rng, rng.randint(TRAINED["operations"][0], most))
    return written(drawn_form(rng, spaced=True), known(draw), manner)


def sums(rng: random.Random, manner: Manner) -> Iterator[Piece]:
    most = max(rng.randint(*TRAINED["digits"]) for _ in range(2))
    draw = lambda: total(rng, rng.randint(TRAINED["digits"][0], most))
    return written(drawn_form(rng, spaced=True), known(draw), manner)


def document(
    rng: random.Random, family: str, manners: Sequence[Manner] = ("direct", "steps")
) -> Iterator[Piece]:
    """The endless pieces of one."""
    if family in ("chains", "sums"):
        make = {"chains": chains, "sums": sums}[family]
        return make(rng, rng.choice(manners))
    return {"repeats": repeats, "maps": maps, "functions": functions}[family](rng)


def draw(
    rng: random.Random,
    number: int,
    length: int,
    shares: Mapping[str, float],
    manners: Sequence[Manner] = ("direct", "steps"),
) -> tuple[np.ndarray, np.ndarray]:
    """Ids [number length] int32, and how much the prediction of each counts, float32.

    Args:
        shares: of each family, in any unit.
    """
    ids = np.zeros((number, length), np.int32)
    weight = np.zeros((number, length), np.float32)
    families = rng.choices(list(shares), list(shares.values()), k=number)
    for row, family in enumerate(families):
        at = 0
        for text, counts in document(rng, family, manners):
            part = [IDS[c] for c in text[: length - at]]
            ids[row, at : at + len(part)] = part
            weight[row, at : at + len(part)] = counts
            at += len(part)
            if at == length:
                break
    return ids, weight
