"""Real molecules, of Tox21 and ESOL, and a frozen model of them.

The frozen model knows no chemistry: counts of a SMILES' character n-grams, hashed, and
a layer of random features over them, whose kernel a head can already use.
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
from assets import assets

from reprojax import data
from reprojax.models import Arrays, card

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


CARD = card(
    forward,
    FROZEN,
    name="n-grams",
    input=Arrays(jax.ShapeDtypeStruct((1, BUCKETS), "float32")),
    inner="hidden",
)


def esol() -> data.Task:
    """Solubility, a number a molecule."""
    found = rows("delaney-processed.csv")
    y = [float(row["measured log solubility in mols per litre"]) for row in found]
    x = counts([row["smiles"].strip() for row in found])
    given = {"holds": "n-grams", "answers": "numbers", "duplicates": "keep"}
    return data.from_arrays(x, y, ["solubility"], **given, name="ESOL")


def tox21() -> data.Task:
    """Twelve kinds of toxicity, of which many are not known."""
    found = rows("tox21.csv.gz")
    names = [name for name in found[0] if name not in ("mol_id", "smiles")]
    number = lambda text: float(text) if text else np.nan
    y = np.array([[number(row[name]) for name in names] for row in found])
    x = counts([row["smiles"] for row in found])
    given = {"holds": "n-grams", "answers": "labels", "duplicates": "keep"}
    return data.from_arrays(x, y, names, **given, name="Tox21")


def features(split: data.Split) -> np.ndarray:
    return np.asarray(forward(FROZEN, split.x))
