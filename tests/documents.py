"""Runs what the pages and docstrings show, and compares what it prints.

CONTRIBUTING.md, "Documents", says how a page is written so that this can read it.
"""

import ast
import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")})
FENCE = re.compile(r"^```(\w*) ?(\w*)\n(.*?)^```$", re.S | re.M)
SHELL = ("sh", "bash", "console")
ELIDED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(page: Path, libraries: bool = False, **names: Any) -> dict[str, Any]:
    """Run a page's Python blocks in one namespace, which is returned.

    Args:
        libraries: run the blocks that name another library too (```python torch).
        names: what the page takes for granted.
    """
    text = page.read_text("utf-8")
    for fence, after in pairwise([*FENCE.finditer(text), None]):
        language, library, code = fence.groups()
        if language != "python" or library and not libraries:
            continue
        line = text.count("\n", 0, fence.start()) + 1
        code = compile("\n" * line + code, name(page), "exec")  # errors say the line
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        wanted = after[3] if after and after[1] == "text" else ""
        compare(wanted, printed.getvalue(), f"{name(page)}:{line}")
    return names


def compare(wanted: str, printed: str, where: str) -> None:
    """Fail unless this was printed; `...` in what is wanted stands for anything."""
    checker = doctest.OutputChecker()
    if not checker.check_output(wanted, printed, ELIDED):
        example = doctest.Example("", wanted)
        difference = checker.output_difference(example, printed, ELIDED)
        pytest.fail(f"{where} prints something else.\n{difference}", pytrace=False)


def docstrings(path: Path) -> Iterator[str]:
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


def paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def is_indented(block: str) -> bool:
    """Whether it is a command, or a table."""
    return all(line.startswith("    ") for line in block.splitlines())


def is_python(block: str) -> bool:
    """Whether it calls or assigns something, as Python reads it."""
    try:
        tree = ast.parse(dedent(block))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Assign) for node in ast.walk(tree))


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in blocks of a page or docstring, and in `backticks`.

    Variables in front and comments behind are left out, and so are prose and output.
    """
    fences = [f[3] for f in FENCE.finditer(text) if f[1] in SHELL]
    blocks = [*filter(is_indented, paragraphs(FENCE.sub("", text))), *fences]
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
    for line in (*lines, *re.findall(r"`([^`]+)`", FENCE.sub("", text))):
        line = re.sub(r"^\s*(\$ )?(\w+=\S+ )*", "", line)
        line, *_ = line.split("  ")  # what it does, in a table
        if re.match(
            r"(\.venv/bin/)?(python3? -m|make|reprojax) |srun|pip install ", line
        ):
            yield shlex.split(line, comments=True)
