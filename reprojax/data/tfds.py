"""A task from TensorFlow Datasets in ArrayRecord files, without TensorFlow."""

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from reprojax.data.checks import check, listed
from reprojax.data.lazy import Images
from reprojax.data.pixels import decode_image, opened, rgb, square
from reprojax.data.splits import divide
from reprojax.data.task import SPELLINGS, Split, Task


def from_tfds(
    name: str | PathLike,
    *,
    image: str = "image",
    label: str = "label",
    data_dir: str | PathLike | None = None,
    size: int = 256,
    train: int | float | None = None,
    validation: int | float | None = None,
    test: int | float | None = None,
    seed: int = 0,
    test_seed: int | None = None,
    lazy: bool = False,
    duplicates: str = "warn",
) -> Task:
    """A task from a prepared set: its name, or the folder with its dataset_info.json.

    Images of one shape are not resized; otherwise each becomes RGB [size size 3] as in
    `read_images`. Sizes and seeds are as for `from_arrays`. Only drawn images are
    decoded, with `lazy` when their batch is read. Nothing is downloaded: a missing set
    raises a ValueError that says how to prepare it. For `duplicates`, equal means equal
    encoded bytes.
    """
    builder = _builder(str(name), data_dir)
    _check_features(builder, image, label)
    sources = _sources(builder, image)
    y, contents = _scan(sources, image, label)
    classes = tuple(str(c) for c in builder.info.features[label].names)
    drawn = divide(
        y,
        len(classes),
        lambda: contents,
        sizes={"train": train, "validation": validation, "test": test},
        seed=seed,
        test_seed=test_seed,
        duplicates=duplicates,
    )
    every = np.concatenate(list(y.values())).astype(np.int32)
    where = [(part, i) for part in y for i in range(len(y[part]))]
    convert = _convert(builder.info.features[image].shape, size)
    if lazy:
        x = [_lazy(builder, part, sources[part], image, convert) for part in y]
        whole = x[0].joined(*x[1:])
        a, b, c = (Split(whole.take(rows), every[rows]) for rows in drawn)
        return check(Task(builder.info.name, a, b, c, classes))

    def read(rows: np.ndarray) -> Split:
        records = [where[r] for r in rows]
        names = [f"{part}[{i}]" for part, i in records]
        encoded = [sources[part][i][image] for part, i in records]
        return Split(decode_image(names, encoded, convert), every[rows])

    a, b, c = (read(rows) for rows in drawn)
    return check(Task(builder.info.name, a, b, c, classes))


def _scan(
    sources: Mapping[str, Any], image: str, label: str
) -> tuple[dict[str, np.ndarray], list[bytes]]:
    """Labels by split, and the sha256 of every encoded image, in one pass."""
    y, contents = {}, []
    for part, source in sources.items():
        own = []
        for i in range(len(source)):
            record = source[i]
            own.append(record[label])
            contents.append(hashlib.sha256(record[image]).digest())
        y[part] = np.array(own, np.int64)
    return y, contents


class _Encoded:
    """The encoded images of records."""

    def __init__(self, records: Any, image: str) -> None:
        self.records, self.image = records, image

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> bytes:
        return self.records[i][self.image]


def _lazy(builder: Any, part: str, records: Any, image: str, convert: Any) -> Images:
    """A split's images, marked by the set's name, version and size in bytes: reading
    every record for a checksum would take as long as an epoch."""
    where = f"{builder.info.full_name} {builder.info.dataset_size} {part}"
    return Images(
        _Encoded(records, image),
        lambda encoded: opened(encoded, convert),
        name=lambda i: f"{part}[{i}] of {builder.data_path}",
        mark=lambda i: f"{where}[{i}]",
    )


def _convert(shape: tuple, size: int):
    """A converter of PIL images: unchanged if the set has one shape, else a square."""
    if None in shape:
        return lambda picture: square(picture, size)
    if shape[-1] == 1:
        return lambda picture: np.asarray(rgb(picture).convert("L"))[..., None]
    return lambda picture: np.asarray(rgb(picture))


def _builder(name: str, data_dir: str | PathLike | None) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    if Path(name).is_dir():
        try:
            return tfds.builder_from_directory(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name} is no prepared data set ({error}); expected the version's "
                "folder, which holds dataset_info.json, such as mnist/3.0.1"
            ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except DatasetNotFoundError:
        known = tfds.list_builders(
            with_community_datasets=False
        )  # those need tensorflow
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        raise ValueError(
            f"TensorFlow Datasets knows no {name!r}, and there is no such folder; "
            f"nearest names: {listed(near) or 'none'}"
        ) from None
    if not builder.info.splits:
        raise ValueError(
            f"{name!r} is not prepared in {builder.data_path}; expected ArrayRecord "
            f"files there. Run `tfds build {name} --file_format=array_record` once, "
            "where there are a network and tensorflow (which most sets need to be "
            "prepared, none to be read), and give the folder or TFDS_DATA_DIR"
        )
    return builder


def _sources(builder: Any, image: str) -> Mapping[str, Any]:
    """{split: records}, images still encoded."""
    import tensorflow_datasets as tfds

    names = {SPELLINGS[s]: s for s in builder.info.splits if s in SPELLINGS}
    if "train" not in names:
        raise ValueError(
            f"{builder.info.name} has the splits {listed(list(builder.info.splits))}; "
            "expected train, with validation and test if there"
        )
    skip = {image: tfds.decode.SkipDecoding()}
    try:
        return {
            part: builder.as_data_source(names[part], decoders=skip)
            for part in dict.fromkeys(SPELLINGS.values())
            if part in names
        }
    except NotImplementedError:  # its message guesses; the folder's own format is known
        raise ValueError(
            f"{builder.data_path} holds {builder.info.file_format.value} files, which "
            "only tensorflow reads; expected array_record: run, where it is installed, "
            f"`tfds convert_format --dataset_version_dir={builder.data_path} "
            "--out_file_format=array_record --out_dir=NEW_FOLDER` once"
        ) from None


def _check_features(builder: Any, image: str, label: str) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    kinds = ((image, tfds.features.Image), (label, tfds.features.ClassLabel))
    for key, kind in kinds:
        if key not in features or not isinstance(features[key], kind):
            here = [f"{k} ({type(v).__name__})" for k, v in sorted(features.items())]
            raise ValueError(
                f"{builder.info.name} has no {kind.__name__} feature {key!r}; it has "
                f"{listed(here)}: name them by image= and label="
            )
