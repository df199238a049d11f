"""Methods of one's own for the commands: Python files that register them."""

import runpy
from collections.abc import Sequence
from pathlib import Path

from reprojax import recipes


def read_methods(files: Sequence[Path]) -> None:
    """Run the files, each of which calls `recipes.register`.

    Raises:
        ValueError: a file that is not there, or that registers nothing.
    """
    for path in files:
        before = set(recipes.METHODS)
        if not path.is_file():
            raise ValueError(f"--methods {path}, expected a Python file that is there")
        runpy.run_path(str(path))
        if before == set(recipes.METHODS):
            raise ValueError(
                f"--methods {path} registers no method, expected a call of "
                "recipes.register(Method(name, recipe, ...)) in it"
            )
