"""Methods of one's own for the commands: Python files that register them."""

import runpy
from collections.abc import Sequence
from pathlib import Path

from reprojax import recipes


def read_methods(files: Sequence[Path]) -> list[str]:
    """Run the files, each of which calls `recipes.register`; the names that are new.

    Raises:
        ValueError: a file that is not there, or that registers nothing.
    """
    first = set(recipes.METHODS)
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
    return [name for name in recipes.METHODS if name not in first]
