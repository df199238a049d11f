"""Methods of one's own for the commands: Python files that register them."""

import runpy
from collections.abc import Sequence
from pathlib import Path

from reprojax import recipes

_READ: dict[tuple[Path, str], list[str]] = {}
"""{(file, its text): the names that it has registered in this process}. A command that
runs another one several times gives it the same files."""


def read_methods(files: Sequence[Path]) -> list[str]:
    """Run the files, each of which calls `recipes.register`; their methods' names.

    A file that this process has run is not run again, unless its text has changed.

    Raises:
        ValueError: a file that is not there, or that registers nothing.
    """
    found: list[str] = []
    for path in files:
        if not path.is_file():
            raise ValueError(f"--methods {path}, expected a Python file that is there")
        key = path.resolve(), path.read_text()
        if any(name not in recipes.METHODS for name in _READ.get(key, [""])):
            before = set(recipes.METHODS)
            runpy.run_path(str(path))
            _READ[key] = [name for name in recipes.METHODS if name not in before]
        if not _READ[key]:
            raise ValueError(
                f"--methods {path} registers no method, expected a call of "
                "recipes.register(Method(name, recipe, ...)) in it"
            )
        found += _READ[key]
    return found
