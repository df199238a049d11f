"""TensorFlow Datasets, read and even written without TensorFlow."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from reprojax.data import from_tfds, load


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


def prepare(root, shape, splits, apart=1):
    """A set whose image i of split s shows the grey 10 i + s apart, labelled i % 2."""
    import tensorflow_datasets as tfds

    class Shades(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=shape)
            label = tfds.features.ClassLabel(names=["even", "odd"])
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                name: self._generate_examples(n, apart * s)
                for s, (name, n) in enumerate(splits.items())
            }

        def _generate_examples(self, count, more):
            for i in range(count):
                size = [n or 6 + i for n in shape[:2]]
                pixels = np.full((*size, shape[-1]), 10 * i + more, np.uint8)
                pixels = pixels[..., 0] if shape[-1] == 1 else pixels
                yield i, {"image": png(pixels), "label": i % 2}

    builder = Shades(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    root = tmp_path_factory.mktemp("ragged")
    return prepare(root, (None, None, 3), {"train": 12, "test": 6})


def correct(task):
    for split in (task.train, task.validation, task.test):
        shade = split.x[:, 0, 0, 0] // 10
        assert (split.x == split.x[:, :1, :1, :1]).all()
        assert (shade % 2 == split.y).all()
    return [sorted(s.x[:, 0, 0, 0] // 10) for s in task[1:4]]


def test_a_prepared_folder_without_tensorflow(ragged):
    task = from_tfds(ragged, size=5, validation=4)
    assert task.name == "shades" and task.classes == ("even", "odd")
    assert task.train.x.shape == (8, 5, 5, 3) and task.train.x.dtype == np.uint8
    train, validation, test = correct(task)
    assert sorted(train + validation) == list(range(12)) and test == list(range(6))
    assert "tensorflow" not in sys.modules


def test_by_name_and_by_load(ragged):
    by_name = from_tfds("shades", data_dir=ragged.parent.parent, size=5)
    for task in (by_name, load(ragged, size=5), load(f"tfds:{ragged}", size=5)):
        assert correct(task) == correct(by_name)


def test_images_of_one_shape_stay_as_they_are(tmp_path):
    path = prepare(tmp_path, (4, 7, 1), {"train": 12, "validation": 4, "test": 6})
    task = from_tfds(path, size=5, train=6)
    assert task.train.x.shape == (6, 4, 7, 1)
    assert correct(task)[1:] == [list(range(4)), list(range(6))]


@pytest.mark.parametrize("lazy", [False, True])
def test_equal_images_in_two_splits_are_counted_or_dropped(tmp_path, lazy):
    path = prepare(tmp_path, (4, 4, 1), {"train": 12, "test": 6}, apart=0)
    with pytest.warns(UserWarning, match="6 of 6 test images .first row 0. are train"):
        from_tfds(path, lazy=lazy)
    task = from_tfds(path, validation=2, lazy=lazy, duplicates="drop")
    own = [{int(x[0, 0, 0]) // 10 for x in split.x[:]} for split in task[1:4]]
    assert [len(shades) for shades in own] == [4, 2, 6]
    assert own[2] == set(range(6)) and own[0] | own[1] == set(range(6, 12))


def test_an_absent_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(
        ValueError, match="'mnist' is not prepared in .*tfds build mnist"
    ):
        from_tfds("mnist", data_dir=tmp_path)
    with pytest.raises(ValueError, match="no 'mnistt', .*nearest names: mnist"):
        load("tfds:mnistt")
    with pytest.raises(ValueError, match="is no prepared data set .*dataset_info.json"):
        from_tfds(tmp_path)


def test_records_that_only_tensorflow_reads(ragged, tmp_path):
    path = tmp_path / "shades/1.0.0"
    shutil.copytree(ragged, path)
    info = json.loads((path / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="holds tfrecord files.*convert_format"):
        from_tfds(path)


def test_other_features_and_splits(ragged, tmp_path):
    with pytest.raises(
        ValueError, match=r"no Image feature 'picture'; it has image \("
    ):
        from_tfds(ragged, image="picture")
    with pytest.raises(ValueError, match="no ClassLabel feature 'image'"):
        from_tfds(ragged, label="image")
    path = prepare(tmp_path, (4, 4, 3), {"test": 4})
    with pytest.raises(ValueError, match="shades has the splits test; expected train"):
        from_tfds(path)
