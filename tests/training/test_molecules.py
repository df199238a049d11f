"""Real tasks with several labels at once, and with a number: Tox21 and ESOL.

The frozen model knows no chemistry: counts of a SMILES' character n-grams, hashed, and
a layer of random features over them, whose kernel a head can already use. What is
trained is a scale and shift of that layer and the head, against what has to be beaten.
"""

import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from assets import assets
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from reprojax import data, reprogram
from reprojax.alignments import linear
from reprojax.operators import scale_and_shift
from reprojax.training import fit, metrics

pytestmark = pytest.mark.verify
BUCKETS, WIDTH = 1024, 256


def forward(frozen: Any, x: Any, edit: Any = lambda site, value: value) -> Any:
    hidden = edit("hidden", jnp.log1p(edit("input", x)) @ frozen["in"])
    return edit("output", jax.nn.relu(hidden))


FROZEN = {"in": jax.random.normal(jax.random.key(0), (BUCKETS, WIDTH)) / 4}


def counts(smiles: list[str]) -> np.ndarray:
    """Of n-grams of 1 to 3 characters [N buckets]."""
    x = np.zeros((len(smiles), BUCKETS), np.float32)
    for row, text in zip(x, smiles, strict=True):
        for n in (1, 2, 3):
            for i in range(len(text) - n + 1):
                row[zlib.crc32(text[i : i + n].encode()) % BUCKETS] += 1
    return x


def rows(name: str) -> list[dict[str, str]]:
    path: Path = assets() / "data/molecules/moleculenet" / name
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return list(csv.DictReader(io.StringIO(text)))


def trained(task: data.Task, targets: int, epochs: int, **how: Any) -> Any:
    at = {"hidden": scale_and_shift(), "output": linear(targets, standardised=True)}
    program = reprogram(forward, at)
    settings = {"optimizer": optax.adam(0.003), "epochs": epochs, "batch": 128}
    settings["progress"] = False
    return fit(program, FROZEN, task, **settings, **how)


def features(split: data.Split) -> np.ndarray:
    return np.asarray(forward(FROZEN, split.x))


def test_solubility_of_esol():
    found = rows("delaney-processed.csv")
    y = [float(row["measured log solubility in mols per litre"]) for row in found]
    x = counts([row["smiles"].strip() for row in found])
    given = {"holds": "n-grams", "answers": "numbers", "duplicates": "keep"}
    task = data.from_arrays(x, y, **given, name="ESOL")
    assert task.train.y.shape[1] == 1 and task.train.y.dtype == np.float32
    fitted = trained(task, 1, 60, metrics=(metrics.r2, metrics.mean_absolute_error))
    train, test = task.train.y[:, 0], task.test.y[:, 0]
    mean = np.square(test - train.mean()).mean()
    ridge = Ridge(10.0).fit(features(task.train), train)
    probe = np.square(ridge.predict(features(task.test)) - test).mean()
    # 1.02; the mean of the training numbers 4.65, ridge regression .96
    assert fitted.score["test"] < 0.3 * mean and fitted.score["test"] < 1.15 * probe


def test_toxicity_of_tox21():
    found = rows("tox21.csv.gz")
    names = [name for name in found[0] if name not in ("mol_id", "smiles")]
    number = lambda text: float(text) if text else np.nan
    y = np.array([[number(row[name]) for name in names] for row in found])
    x = counts([row["smiles"] for row in found])
    given = {"holds": "n-grams", "answers": "labels", "duplicates": "keep"}
    task = data.from_arrays(x, y, names, **given, name="Tox21")
    assert len(task.classes) == 12 and (task.train.y == -1).mean() > 0.1
    fitted = trained(task, 12, 10, metrics=(metrics.f1, metrics.balanced_accuracy))
    known, test = task.test.y >= 0, task.test.y
    ridge = Ridge(100.0).fit(features(task.train), np.maximum(task.train.y, 0))
    said = ridge.predict(features(task.test))
    probe = np.mean(
        [roc_auc_score(test[known[:, i], i], said[known[:, i], i]) for i in range(12)]
    )
    # .768, and ridge regression, to which an unknown label is a 0, .757
    assert fitted.score["test"] > max(0.75, probe)
