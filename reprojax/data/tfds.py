"""A task from a TensorFlow Datasets folder of ArrayRecords, without TensorFlow."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from reprojax.data.folder import decode, square
from reprojax.data.splits import draw
from reprojax.data.task import SPLITS, Split, Task, check, listed
