"""Tasks: labelled images or texts in three splits, from arrays, files and by name."""

from reprojax.data.checks import check
from reprojax.data.folder import from_folder, image_files
from reprojax.data.lazy import Images
from reprojax.data.order import batch, batches, in_order, steps
from reprojax.data.pixels import read_images
from reprojax.data.rows import Shared
from reprojax.data.sources import from_arrays, from_npz, load
from reprojax.data.splits import shots
from reprojax.data.task import Split, Task, digest
from reprojax.data.text import Questions, from_texts
from reprojax.data.tfds import from_tfds

__all__ = [
    "Images",
    "Questions",
    "Shared",
    "Split",
    "Task",
    "batch",
    "batches",
    "check",
    "digest",
    "from_arrays",
    "from_folder",
    "from_npz",
    "from_texts",
    "from_tfds",
    "image_files",
    "in_order",
    "load",
    "read_images",
    "shots",
    "steps",
]
