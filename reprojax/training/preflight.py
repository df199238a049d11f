"""What one pass of the frozen model says before anything is trained.

Three numbers of its features, its answers and the labels: how well a linear map could
fit the labels (LogME), whether a prompt is likely to pay against a linear probe, and
how much the classes share the model's answers. All are computed on the host.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from reprojax.core import Given

ROUNDS, CLOSE, TINY = 11, 1e-3, 1e-5
"""Of the fixed point, as published: most rounds, when to stop, a least divisor."""


class Preflight(NamedTuple):
    """Scores of a frozen model on a task, before training."""

    features: float
    """LogME of the features [N D]: higher is better for a linear probe."""
    answers: float
    """LogME of the model's answers [N S]: higher is better for a map of these."""
    overlap: float
    """Label overlap, 0 to 1: higher is worse for a label map."""

    @property
    def ratio(self) -> float:
        """The log-likelihood ratio of prompt and probe; see `likelihood_ratio`."""
        return self.answers - self.features


def preflight(
    answers: Float[Given, "N S"], features: Float[Given, "N D"], labels: Int[Given, "N"]
) -> Preflight:
    """All scores of one pass: the frozen model's answers and features, and labels."""
    return Preflight(
        log_evidence(features, labels),
        log_evidence(answers, labels),
        label_overlap(answers, labels),
    )


def log_evidence(features: Float[Given, "N D"], labels: Int[Given, "N"]) -> float:
    """LogME: the log evidence for each row of a Bayesian linear model of the labels,
    the mean over the classes that occur (You et al., arXiv 2102.11005).

    For each class its indicator y is y = F w + noise, w ~ N(0, 1 / alpha), noise ~ N(0,
    1 / beta), with the alpha and beta that maximise the evidence, by the fixed point of
    arXiv 2110.10545. Nothing is held out, and there is no intercept.

    It is the density of y itself. The published code (thuml/LogME) equals it for more
    rows than features; for fewer its default counts D dimensions where the features
    span k < D, and adds (D - k) / 2N log alpha.
    """
    rows, y = _checked(features, labels)
    basis, squares = _spectrum(rows)
    scores = [_evidence(basis, squares, y == t) for t in np.unique(y)]
    return float(np.mean(scores))


def likelihood_ratio(
    answers: Float[Given, "N S"], features: Float[Given, "N D"], labels: Int[Given, "N"]
) -> float:
    """log p(labels | prompted answers) - log p(labels | features), for each row, both
    as LogME (Tsao et al., arXiv 2409.01821).

    Above 0 a prompt with a linear map of the answers is likelier to win, below 0 a
    linear probe.

    Args:
        answers: the model's logits under a prompt that stands for a trained one: noise,
            a few steps, or as here without any, "no prompt", which needs no second
            pass. The paper ranks tasks by it; its zero depends on the prompt.
    """
    return log_evidence(answers, labels) - log_evidence(features, labels)


def label_overlap(answers: Float[Given, "N S"], labels: Int[Given, "N"]) -> float:
    """The share of answers that two classes of the task have in common: the mean over
    pairs of sum_s min(p(s | t), p(s | u)), s being the model's first answer.

    At 0 each class has answers of its own, and a label map can tell all apart. At 1 all
    classes get the same answers, and no map of the first answer can.
    """
    rows, y = _checked(answers, labels)
    first, classes = rows.argmax(1), np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            f"label_overlap got labels of the class {classes} alone, expected at least "
            "two classes"
        )
    counts = np.zeros((len(classes), rows.shape[1]))
    np.add.at(counts, (np.searchsorted(classes, y), first), 1)
    share = counts / counts.sum(1, keepdims=True)
    pairs = [
        np.minimum(share[i], share[:i]).sum(1).sum() for i in range(1, len(classes))
    ]
    return float(sum(pairs) / (len(classes) * (len(classes) - 1) / 2))


def rank_correlation(scores: Sequence[float], results: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of the ranks; equal values share their mean.

    NaN if all scores, or all results, are equal.
    """
    if len(scores) != len(results) or len(scores) < 2:
        raise ValueError(
            f"rank_correlation got {len(scores)} scores and {len(results)} results, "
            "expected as many of both, at least two"
        )
    a, b = _ranks(scores), _ranks(results)
    spread = a.std() * b.std()
    together = ((a - a.mean()) * (b - b.mean())).mean()
    return float(together / spread) if spread else float("nan")


def _ranks(values: Sequence[float]) -> np.ndarray:
    v = np.asarray(values, np.float64)
    below, equal = (v[:, None] > v).sum(1), (v[:, None] == v).sum(1)
    return below + (equal - 1) / 2


def _checked(rows: Given, labels: Given) -> tuple[np.ndarray, np.ndarray]:
    """Both on the host, without rows that have no label."""
    x, y = np.asarray(rows, np.float64), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or not (y >= 0).any():
        raise ValueError(
            f"got rows of shape {x.shape} and labels of shape {y.shape}, expected "
            "[N D] and [N] with a label for some row"
        )
    if not np.isfinite(x[y >= 0]).all():
        raise ValueError(
            "got rows that are not finite, expected the frozen model's own features or "
            "answers; check its weights and the images"
        )
    return x[y >= 0], y[y >= 0]


def _spectrum(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(left singular vectors [N k], squared singular values [k]) of rows."""
    if len(rows) <= rows.shape[1]:
        u, s, _ = np.linalg.svd(rows, full_matrices=False)
        return u, s**2
    squares, v = np.linalg.eigh(rows.T @ rows)  # cheaper, if rows are many
    kept = squares > 1e-12 * max(squares.max(), 1e-300)
    return rows @ v[:, kept] / np.sqrt(squares[kept]), squares[kept]


def _evidence(u: np.ndarray, s: np.ndarray, y: np.ndarray) -> float:
    """The largest log evidence of one class, for each row."""
    count, inner = len(y), (u.T @ y) ** 2
    outside = y.sum() - inner.sum()  # of |y|^2, as y is 0 or 1
    alpha = beta = 1.0
    misfit = size = 0.0
    for _ in range(ROUNDS):
        t = alpha / beta
        used = (s / (s + t)).sum()
        size = (s * inner / (t + s) ** 2).sum()
        misfit = (inner / (1 + s / t) ** 2).sum() + outside
        alpha, beta = used / (size + TINY), (count - used) / (misfit + TINY)
        if abs(alpha / beta - t) <= CLOSE * t:
            break
    found = len(s) / 2 * np.log(alpha) + count / 2 * np.log(beta)
    found -= np.log(alpha + beta * s).sum() / 2
    found -= (beta * misfit + alpha * size + count * np.log(2 * np.pi)) / 2
    return found / count
