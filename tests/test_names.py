"""One name, one meaning: what the rooms offer is defined once."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "reprojax"
SAME = {
    "load": "read by name or path, of each room's own kind",
    "names": "what `load` knows, images' and texts'",
    "random": "a model, or a pair, with random weights",
}


def trees():
    return {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def offered(tree):
    """The names in `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


def defined(tree):
    """Public functions and classes at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not node.name.startswith("_"):
                yield node.name


PLACES = defaultdict(list)
for path, tree in trees().items():
    for name in defined(tree):
        PLACES[name].append(str(path.relative_to(PACKAGE)))
OFFERED = sorted({name for tree in trees().values() for name in offered(tree)})


def test_a_public_name_means_one_thing():
    assert len(OFFERED) > 200
    twice = {name: PLACES[name] for name in OFFERED if len(PLACES[name]) > 1}
    assert twice.keys() == SAME.keys(), twice
