"""A model that only answers, with its budget, its retries, and a log of paid answers.

A query is one image sent to the model, or one text. The budget counts answered queries;
a request that would exceed it is not sent.

The log makes a run resumable without other state: the same run asks the same queries in
the same order, and reads logged answers instead of asking. The n-th query has the n-th
answer, so a noisy model that is asked twice answers twice. A request is one record,
written and synced before its answers are used. If the process is killed, at most the
current request is paid twice; with `Oracle.keyed`, not even that one, if the service
recognises the keys.
"""

import hashlib
import http.client
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.saving.files import plain
from reprojax.saving.log import SIZE, Log, Logged

Kind = Literal["logits", "probabilities", "top-k", "labels"]
Images = (
    Any  # float32 [n h w 3] in [0, 1], NumPy's or JAX's; or a tree of arrays [n ...]
)
Answers = Float[np.ndarray, "n w"]  # a model's answers, unchanged, in one matrix

LEAST = 1e-6  # a probability's floor, before the logarithm
SURE = 0.9  # the probability assumed for a class of which only the label is known
FAILED = (OSError, http.client.HTTPException)  # errors of the request: try again


class Oracle(NamedTuple):
    """A model behind a function."""

    answer: Callable[..., Any]
    """images [n h w 3], float32 in [0, 1], or a tree of n rows -> answers of `kind`"""
    classes: int
    """S, the model's number of classes."""
    kind: Kind = "logits"
    """"logits", "probabilities": [n S]. "top-k": two arrays [n k], classes and their
    probabilities. "labels": whole numbers [n]."""
    name: str = "oracle"
    """Identifies the model in the log: a name with its version."""
    source: str = ""
    """Identifies the answers' origin in the log: a service's address and model, or the
    fingerprint of weights. A log of another source raises ValueError."""
    chunk: int = 256
    """The most queries a request."""
    retries: int = 5
    """How often to repeat a request that failed with an OSError (a lost connection, a
    timeout) or an HTTPException. Other errors end the run."""
    wait: float = 0.5
    """Seconds before the first retry, doubled before each further one."""
    keyed: bool = False
    """Whether to call answer(images, key), with a text that is the same when a request
    is repeated, for services with idempotency keys."""
    deterministic: bool = False
    """Whether equal queries are asked, and paid, only once."""


class BudgetSpent(ValueError):
    """More queries are needed than are left; none of them was sent."""


def logits(kind: Kind, answers: Float[Array, "*n w"], classes: int) -> Array:
    """Answers as logits [n S] whose softmax gives the model's probabilities.

    The probability that the top k leave is divided equally among the other classes. A
    label alone gets .9, so the cross entropy of labels is a smoothed count of errors.
    """
    if kind == "logits":
        return answers
    if kind == "probabilities":
        return jnp.log(jnp.maximum(answers, LEAST))
    if kind == "labels":
        rest = (1 - SURE) / (classes - 1)
        hit = answers == jnp.arange(classes)
        return jnp.log(jnp.where(hit, SURE, rest))
    k = answers.shape[-1] // 2
    found, share = answers[..., :k], answers[..., k:]
    hit = found[..., None] == jnp.arange(classes)
    rest = (1 - share.sum(-1, keepdims=True)) / max(classes - k, 1)
    said = (hit * share[..., None]).sum(-2)
    return jnp.log(jnp.maximum(jnp.where(hit.any(-2), said, rest), LEAST))


class Account:
    """A budget and a log around an oracle, inside a `with`.

    Args:
        budget: queries that may be paid, logged ones included.
        log: a file. One with the same identity is continued; one with another identity,
            or in use, raises ValueError. Without a file, nothing is kept.
        identity: what defines the run, as JSON; "oracle" is added to it.
    """

    def __init__(
        self,
        oracle: Oracle,
        budget: int,
        log: str | Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        _check_oracle(oracle, budget)
        self.oracle, self.budget, self.paid = oracle, budget, 0
        self._identity = _identity(oracle, identity or {})
        self._log = None if log is None else Log(Path(log))
        self._next = 0  # the number of the next query
        self._spoilt: list[int] = []  # numbers of queries with unusable answers
        self._known: dict[Any, tuple[bytes, np.ndarray | None]] = {}

    def __enter__(self) -> "Account":
        if self._log is not None:
            for request in self._log.open(self._identity):
                self._remember(request)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._log is not None:
            self._log.close()

    @property
    def asked(self) -> int:
        """This run's queries so far, answered by the model or by the log."""
        return self._next

    @property
    def left(self) -> int:
        """How many more queries the budget allows. It depends only on the queries made
        so far in this run, not on answers already in the log, so a replayed run makes
        the same decisions."""
        return self.budget - self._next - sum(n < self._next for n in self._spoilt)

    @property
    def _advice(self) -> str:
        if self._log is None:
            return (
                f"{self.paid} answers were paid and are lost; give a log to keep them"
            )
        return f"{self.paid} answers are in the log; start again with the same log"

    def ask(self, images: Images) -> Answers:
        """The answers to n images, or rows: from the log, or else from the model.

        Raises BudgetSpent before anything is sent, and ValueError for answers that are
        missing, of the wrong shape or not numbers. Usable answers of the same request
        stay in the log and are not paid again.
        """
        numbers = range(self._next, self._next + count_rows(images))
        digests = self._digests(images)
        keys = digests if self.oracle.deterministic else list(numbers)
        todo = self._unanswered(keys, digests)
        if len(todo) > self.budget - self.paid:
            raise BudgetSpent(
                f"got {len(todo)} queries and {self.budget - self.paid} of "
                f"{self.budget} are left; "
                "none was sent; give a larger budget, or smaller batches"
            )
        for at in range(0, len(todo), self.oracle.chunk):
            rows = todo[at : at + self.oracle.chunk]
            asked = [numbers[i] for i in rows], [digests[i] for i in rows]
            self._pay(_take(images, rows), *asked)
        self._next += len(numbers)
        take = self._known.get if self.oracle.deterministic else self._known.pop
        found: Any = [take(key) for key in keys]
        return np.stack([answer for _, answer in found])

    def _digests(self, images: Images) -> list[bytes]:
        kinds = self.oracle.deterministic, self.oracle.keyed
        if self._log is None and not any(kinds):
            return [b""] * count_rows(images)  # digests are needed for these only
        found = [hashlib.blake2b(digest_size=SIZE) for _ in range(count_rows(images))]
        for leaf in jax.tree.leaves(images):
            rows = np.ascontiguousarray(leaf, np.float32)
            for total, row in zip(found, rows, strict=True):
                total.update(np.atleast_1d(row).data)
        return [total.digest() for total in found]

    def _unanswered(self, keys: list[Any], digests: list[bytes]) -> list[int]:
        """The rows to send; of equal keys only the first."""
        todo: dict[Any, int] = {}
        for i, key in enumerate(keys):
            digest, answer = self._known.get(key, (digests[i], None))
            if digest != digests[i]:
                raise ValueError(
                    f"query {key} differs from the log's query of that number, "
                    "expected the same run (program, data, seed, devices and jax of "
                    "one version); nothing was sent; repeat the run that made the "
                    "log, or give another log"
                )
            if answer is None or not digest:  # without a digest, equality is unknown
                todo.setdefault(key, i)
        return list(todo.values())

    def _pay(self, images: Images, numbers: list[int], digests: list[bytes]) -> None:
        """Make one request and log it; only then check the answers, which are paid."""
        first = f"{self._identity} {self.paid} {numbers}".encode() + b"".join(digests)
        answer = self._request(images, hashlib.blake2b(first, digest_size=SIZE))
        answers, fault = _matrix(self.oracle, answer, len(numbers))
        if answers is None:
            raise ValueError(f"{self.oracle.name} answered nothing; {fault}")
        fine = _fine(self.oracle, answers)
        digest = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
        request = Logged(np.asarray(numbers), digest, fine, answers)
        if self._log is not None:
            self._log.append(request)
        self._remember(request)
        if fault or not fine.all():
            row = int(np.argmin(fine))
            said = fault or f"{answers[row].tolist()} to row {row}"
            raise ValueError(
                f"{self.oracle.name} answered {said}, expected "
                f"{_expected(self.oracle, len(numbers))}; {fine.sum()} answers of that "
                f"request are fine; correct the function that asks; {self._advice}"
            )

    def _request(self, images: Images, key: Any) -> Any:
        given = (images, key.hexdigest()) if self.oracle.keyed else (images,)
        for attempt in range(self.oracle.retries + 1):
            try:
                return self.oracle.answer(*given)
            except FAILED as error:
                if attempt == self.oracle.retries:
                    error.add_note(
                        f"{self.oracle.name} failed {attempt + 1} times; "
                        + self._advice
                    )
                    raise
                time.sleep(self.oracle.wait * 2**attempt)

    def _remember(self, request: Logged) -> None:
        self.paid += len(request.fine)
        self._spoilt += request.numbers[~request.fine].tolist()
        rows = zip(*request, strict=True)
        for number, digest, fine, answer in rows:
            name = digest.tobytes()
            key = name if self.oracle.deterministic else int(number)
            self._known[key] = name, answer if fine else None


def _identity(oracle: Oracle, given: Mapping[str, Any]) -> dict[str, Any]:
    if "oracle" in given:
        raise ValueError(
            f"the identity names an oracle ({given['oracle']!r}), expected other "
            "keys: the log adds this one; give Oracle(..., name=..., source=...)"
        )
    names = ("name", "source", "kind", "classes", "deterministic")
    found = {name: getattr(oracle, name) for name in names}
    return plain({**given, "oracle": found})


def count_rows(images: Images) -> int:
    """The number of queries: of images, or of rows of a tree."""
    return len(jax.tree.leaves(images)[0])


def _take(images: Images, rows: list[int]) -> Images:
    if len(rows) == count_rows(images):
        return images
    low, high = rows[0], rows[-1] + 1
    chosen = slice(low, high) if high - low == len(rows) else np.asarray(rows)
    return jax.tree.map(lambda leaf: leaf[chosen], images)


def _check_oracle(oracle: Oracle, budget: int) -> None:
    if budget < 1:
        raise ValueError(
            f"got a budget of {budget} queries, expected at least 1; a query is one "
            "image or text that the model answers"
        )
    if oracle.kind not in get_args(Kind):
        raise ValueError(
            f"got an oracle of kind {oracle.kind!r}, expected one of {get_args(Kind)}"
        )
    if oracle.classes < 2 or oracle.chunk < 1 or oracle.retries < 0:
        raise ValueError(
            f"got an oracle with classes={oracle.classes}, chunk={oracle.chunk} and "
            f"retries={oracle.retries}, expected at least 2, 1 and 0"
        )


def _expected(oracle: Oracle, n: int) -> str:
    each = {
        "logits": f"finite numbers [{n} {oracle.classes}]",
        "probabilities": f"[{n} {oracle.classes}] that sum to one",
        "top-k": f"classes [{n} k] below {oracle.classes} and their probabilities",
        "labels": f"[{n}] whole numbers below {oracle.classes}",
    }
    return each[oracle.kind]


def _matrix(oracle: Oracle, answer: Any, n: int) -> tuple[Any, str]:
    """(the answers as a matrix, or None; what is wrong with their shape)."""
    parted = oracle.kind == "top-k" and answer is not None and len(answer) > 0
    if answer is None or np.size(answer[0] if parted else answer) == 0:
        return None, f"expected {_expected(oracle, n)}; does the function return it?"
    if oracle.kind == "top-k":
        parts = [np.asarray(a, np.float32) for a in answer]
        good = len(parts) == 2 and parts[0].shape == parts[1].shape
        good = good and parts[0].ndim == 2 and parts[0].shape[1] <= oracle.classes
        found = np.concatenate(parts, 1) if good else parts[0]
        good = good and len(found) == n
    else:
        found = np.asarray(answer, np.float32)
        labels = oracle.kind == "labels"
        good = found.shape == ((n,) if labels else (n, oracle.classes))
        found = found[:, None] if labels and good else found
    if good:
        return found, ""
    return np.full((n, 1), np.nan, np.float32), f"the shape {found.shape}"


def _fine(oracle: Oracle, answers: Answers) -> np.ndarray:
    """Mask of the rows that have the form of the oracle's kind."""
    fine: Any = np.isfinite(answers).all(1)
    if oracle.kind == "probabilities":
        fine &= (answers >= 0).all(1) & (abs(answers.sum(1) - 1) < 0.02)
    elif oracle.kind != "logits":
        k = answers.shape[1] // 2 if oracle.kind == "top-k" else 1
        ids, share = answers[:, :k], answers[:, k:]
        fine &= ((ids >= 0) & (ids < oracle.classes) & (ids == np.floor(ids))).all(1)
        fine &= (share >= 0).all(1) & (share.sum(1) < 1.02)
    return fine
