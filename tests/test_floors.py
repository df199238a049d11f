"""A module imports only lower floors, and nothing heavy at the top of a file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reprojax"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (
    ("core",),
    ("formats", "locations", "operators", "alignments", "saving"),
    ("data", "models", "searches"),
    ("training", "decoding"),
    ("text",),
    ("recipes",),
    ("taxonomy", "testing"),
    ("commands",),
)
HEAVY = {
    "PIL",
    "cmaes",
    "chex",
    "equinox",
    "gguf",
    "httpx2",
    "grain",
    "haiku",
    "huggingface_hub",
    "keras",
    "matplotlib",
    "orbax",
    "sklearn",
    "tensorflow_datasets",
    "tokenizers",
    "torch",
    "torchax",
    "transformers",
}


def part_of(path):
    """reprojax/models/vision/vit.py -> models."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


PARTS = {part_of(path) for path in FILES} - {"__init__"}


def floor(part):
    return next((i for i, parts in enumerate(FLOORS) if part in parts), len(FLOORS))


def imported(nodes):
    """The modules that import statements among the nodes name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def parse(path):
    return ast.parse(path.read_text())


def by_name(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_only_lower_floors_are_imported(path):
    own = part_of(path)
    if own == "__init__":
        return  # the front door opens on all floors
    names = [name.split(".") for name in imported(ast.walk(parse(path)))]
    parts = {name[1] for name in names if name[0] == "reprojax"} & PARTS - {own}
    wrong = sorted(part for part in parts if floor(part) >= floor(own))
    assert not wrong, f"{own}, on floor {floor(own)}, imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_heavy_imports_stand_inside_functions(path):
    heavy = {name.split(".")[0] for name in imported(parse(path).body)} & HEAVY
    assert not heavy or part_of(path) == "testing"


def test_parts_of_the_formula_are_all_there():
    """`ls reprojax` prints lambda, ell, tau and omega."""
    assert {"formats", "locations", "operators", "alignments"} <= PARTS


def test_importing_the_package_is_light():
    code = "import sys, reprojax; print([m for m in sys.argv[1:] if m in sys.modules])"
    names = [*HEAVY, "flax", "optax", "reprojax.testing", "reprojax.models"]
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    assert done.stdout.strip() == "[]"
