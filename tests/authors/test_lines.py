"""The methods of this folder stand on the public API, and are as short as said."""

import ast
import importlib
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DOCS = [*HERE.parents[1].glob("docs/*.md"), HERE.parents[1] / "README.md"]
TOOLS = {"mutants", "walk", "small_models", "small_words"}
METHODS = {
    path.stem: path
    for path in sorted(HERE.glob("*.py"))
    if path.stem not in TOOLS and not path.stem.startswith("test_")
}
OTHERS = ("jax", "numpy", "optax", "flax", "functools", "typing", "collections")
IMPORT = re.compile(r"^(?:from (reprojax[\w.]*) import|import (reprojax[\w.]*))", re.M)
SHOWN = {"".join(name) for path in DOCS for name in IMPORT.findall(path.read_text())}


def imports(tree):
    """(module, name) of what a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, None) for name in node.names)


def offered(module, name):
    """Whether a room offers a name, or a module that the documents show has it."""
    found = importlib.import_module(module)
    if name in getattr(found, "__all__", ()):
        return True
    if f"{module}.{name}" in SHOWN or (module == "reprojax" and name in rooms()):
        return True
    own = getattr(getattr(found, name, None), "__module__", module)
    return module in SHOWN and hasattr(found, name) and own == module


def rooms():
    root = Path(importlib.import_module("reprojax").__file__).parent
    return {path.parent.name for path in root.glob("*/__init__.py")}


def code(path):
    """How many lines hold code: no blank line, comment, docstring, import."""
    tree, silent = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            silent |= {*range(node.lineno, node.end_lineno + 1)}
    rows = enumerate(map(str.strip, path.read_text().splitlines()), 1)
    return sum(bool(row) and row[0] != "#" and n not in silent for n, row in rows)


def table():
    """{method: (paper, lines, test)} of the README."""
    rows = re.findall(
        r"^\| .*? \| (.*?) \| `(\w+)\.py` \| (\d+) \| `(.*?)` \|$",
        (HERE / "README.md").read_text(),
        re.M,
    )
    return {name: (paper, int(lines), test) for paper, name, lines, test in rows}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_stands_on_the_public_api_alone(name):
    tree = ast.parse(METHODS[name].read_text())
    for module, imported in imports(tree):
        if module.split(".")[0] in OTHERS:
            continue
        assert module.split(".")[0] == "reprojax", f"{name} imports {module}"
        words = [*module.split("."), imported or ""]
        assert not any(word.startswith("_") for word in words), words
        assert imported and offered(module, imported), f"{module} offers no {imported}"
    fields = {"_replace", "_asdict", "_fields"}  # a NamedTuple's own
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            assert node.attr in fields, f"{name}: {ast.unparse(node)}"


def test_the_table_has_every_method_with_its_lines():
    found = table()
    assert found.keys() == METHODS.keys()
    assert {name: row[1] for name, row in found.items()} == {
        name: code(path) for name, path in METHODS.items()
    }
    for name, (paper, _, test) in found.items():
        assert (HERE / test).exists() and re.search(r"arXiv \d{4}\.\d{5}", paper), name
