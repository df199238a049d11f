"""Metrics over batches, with missing labels and fillers, against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as theirs

from reprojax import reprogram
from reprojax.core import stateless
from reprojax.data import Split
from reprojax.training import metrics as ours
from reprojax.training.metrics import Metric
from reprojax.training.parallel import mesh
from reprojax.training.steps import evaluate, measure

DRAW = np.random.default_rng(0)
ROWS = 203
SINGLE = DRAW.integers(0, 4, ROWS).astype(np.int32)
LOGITS = (DRAW.normal(size=(ROWS, 4)) + 1.5 * np.eye(4)[SINGLE]).astype(np.float32)
SEVERAL = (DRAW.normal(size=(ROWS, 5)) > 0.6).astype(np.int32)
YES = (DRAW.normal(size=(ROWS, 5)) + SEVERAL - 0.5).astype(np.float32)
KNOWN = DRAW.uniform(size=SEVERAL.shape) > 0.2
NUMBERS = (DRAW.normal(size=(ROWS, 2)) * [1, 9] + 3).astype(np.float32)
GUESSES = (NUMBERS + DRAW.normal(size=(ROWS, 2))).astype(np.float32)

PROGRAM = reprogram(
    lambda frozen, x, edit: edit("output", edit("input", x)),
    {"input": stateless(lambda x: x)},
)
PARAMS = PROGRAM.init(jax.random.key(0), (), jnp.zeros((1, 4)))


def measured(
    metric: Metric, y: np.ndarray, labels: np.ndarray, batch: int = 48
) -> float:
    """As `fit` does: in batches, the last one filled, and on two devices the same."""
    split = Split(y, labels)
    found = evaluate(PROGRAM, PARAMS, (), split, batch, metric=metric)
    spread = mesh(devices=jax.devices()[:2])
    again = evaluate(PROGRAM, PARAMS, (), split, 31, spread, metric)
    assert again == pytest.approx(found, rel=1e-5)
    return found


def softmax(y: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(jnp.asarray(y)))


SAID = LOGITS.argmax(1)
CLASSES = {
    "accuracy": theirs.accuracy_score(SINGLE, SAID),
    "balanced_accuracy": theirs.balanced_accuracy_score(SINGLE, SAID),
    "f1": theirs.f1_score(SINGLE, SAID, average="macro"),
    "roc_auc": theirs.roc_auc_score(SINGLE, softmax(LOGITS), multi_class="ovr"),
    "perplexity": np.exp(theirs.log_loss(SINGLE, softmax(LOGITS))),
}


@pytest.mark.parametrize("name", CLASSES)
def test_of_classes(name):
    found = measured(getattr(ours, name), LOGITS, SINGLE)
    near = 2e-4 if name == "roc_auc" else 1e-5  # logits in bins
    assert found == pytest.approx(CLASSES[name], abs=near, rel=near)


def test_of_two_classes():
    labels, y = (SINGLE > 1).astype(np.int32), LOGITS[:, :2] * [1, 2]
    y = y.astype(np.float32)
    wanted = theirs.roc_auc_score(labels, y[:, 1] - y[:, 0])
    assert measured(ours.roc_auc, y, labels) == pytest.approx(wanted, abs=2e-4)


def each(score, *tables: np.ndarray) -> float:
    """The mean over labels, of the rows in which each is known."""
    columns = range(SEVERAL.shape[1])
    return float(
        np.mean([score(*(t[KNOWN[:, i], i] for t in tables)) for i in columns])
    )


SAYS = (YES > 0).astype(int)
LABELS = {
    "accuracy": float((SAYS == SEVERAL)[KNOWN].mean()),
    "balanced_accuracy": each(theirs.balanced_accuracy_score, SEVERAL, SAYS),
    "f1": each(theirs.f1_score, SEVERAL, SAYS),
    "roc_auc": each(theirs.roc_auc_score, SEVERAL, YES),
}


@pytest.mark.parametrize("name", LABELS)
def test_of_several_labels_of_which_some_are_missing(name):
    labels = np.where(KNOWN, SEVERAL, -1).astype(np.int32)
    found = measured(getattr(ours, name), YES, labels)
    assert found == pytest.approx(LABELS[name], abs=2e-4 if name == "roc_auc" else 1e-6)


REAL = {
    "mean_squared_error": theirs.mean_squared_error(NUMBERS, GUESSES),
    "mean_absolute_error": theirs.mean_absolute_error(NUMBERS, GUESSES),
    "r2": theirs.r2_score(NUMBERS, GUESSES),
}


@pytest.mark.parametrize("name", REAL)
def test_of_numbers(name):
    found = measured(getattr(ours, name), GUESSES, NUMBERS)
    assert found == pytest.approx(REAL[name], rel=1e-5)
    some = np.where(np.arange(ROWS)[:, None] < 190, NUMBERS, np.nan)
    rest = measured(getattr(ours, name), GUESSES, some.astype(np.float32))
    whole = measured(getattr(ours, name), GUESSES[:190], NUMBERS[:190])
    assert rest == pytest.approx(whole, rel=1e-6)


def test_calibration_by_hand():
    p = softmax(LOGITS)
    sure, right = p.max(1), SAID == SINGLE
    place = np.minimum((sure * 15).astype(int), 14)
    gaps = [abs((sure - right)[place == i].sum()) for i in range(15)]
    found = measured(ours.calibration_error, LOGITS, SINGLE)
    assert found == pytest.approx(sum(gaps) / ROWS, rel=1e-4)


def test_an_answer_of_nan_is_wrong():
    broken = LOGITS.copy()
    broken[:50] = np.nan
    wanted = np.mean((SAID == SINGLE) & (np.arange(ROWS) >= 50))
    assert measured(ours.accuracy, broken, SINGLE) == pytest.approx(wanted)
    hit = (SAID == SINGLE) & (np.arange(ROWS) >= 50)
    recall = np.mean([hit[SINGLE == c].mean() for c in range(4)])
    assert measured(ours.balanced_accuracy, broken, SINGLE) == pytest.approx(recall)
    worst = np.where(np.arange(ROWS)[:, None] < 50, np.where(SEVERAL, -99, 99), YES)
    nan = np.where(np.arange(ROWS)[:, None] < 50, np.nan, YES).astype(np.float32)
    wanted = theirs.roc_auc_score(SEVERAL, worst)
    assert measured(ours.roc_auc, nan, SEVERAL) == pytest.approx(wanted, abs=2e-4)


def test_a_metric_of_nothing_is_refused():
    with pytest.raises(ValueError, match="ROC-AUC.*not a number.*larger split"):
        evaluate(PROGRAM, PARAMS, (), Split(YES, 0 * SEVERAL), 48, metric=ours.roc_auc)


def test_several_in_one_pass():
    split, asked = Split(LOGITS, SINGLE), (ours.accuracy, ours.f1)
    found = measure(PROGRAM, PARAMS, (), split, 48, None, asked)
    assert found == {
        m.name: evaluate(PROGRAM, PARAMS, (), split, 48, metric=m) for m in asked
    }
