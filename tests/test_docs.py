"""What the documents show runs, and says what describe says."""

import re
from pathlib import Path

import backbones
import pytest

from reprojax import recipes
from reprojax.models import Pixels
from reprojax.taxonomy import describe

ROOT = Path(__file__).parents[1]
IMAGES = list(recipes.methods(Pixels))  # before a document registers its own


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/authors.md",
        "docs/tour.md",
        "docs/your_model.md",
        "docs/instruction.md",
        "docs/language.md",
        "docs/prompts.md",
    ],
)
def test_the_python_blocks_run_one_after_the_other(name):
    assert run(name, r"```python\n") >= 3


@pytest.mark.verify
def test_the_blocks_with_other_libraries_run_too():
    assert run("docs/your_model.md", r"```python(?: \w+)?\n") >= 14


def run(name, fence):
    blocks = re.findall(fence + "(.*?)```", (ROOT / name).read_text(), re.S)
    names = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    return len(blocks)


def rows(title: str) -> dict[str, list[str]]:
    """{first cell: cells} of the tables under a title of the taxonomy's page."""
    text = (ROOT / "docs/taxonomy.md").read_text()
    text = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0].strip("`"): row for row in cells if row and row[0].startswith("`")}


def test_the_table_has_every_method():
    assert set(rows("Images")) == set(IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_the_table_is_what_describe_observes(name):
    method = recipes.METHODS[name]
    backbone = backbones.transformer()
    program = method.build(backbone, targets=3)
    photos = backbones.photos(2)
    seen = describe(program, backbone.frozen, photos, roles=backbone.roles)
    assert rows("Images")[name][2:] == [seen.coordinates, method.enters]


def test_no_line_of_the_documents_speaks_of_a_file_that_is_not_there():
    documents = (ROOT / "docs").glob("*.md")
    for path in (ROOT / "README.md", ROOT / "BUILD.md", *documents):
        name = path.relative_to(ROOT)
        text = (ROOT / name).read_text()
        found = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)
        links = [(ROOT / name).parent / p for p in found]
        inside = r"`((?:reprojax|docs|tests)/[\w/.]+)`"
        named = [ROOT / p for p in re.findall(inside, text)]
        for path in links + named:
            assert path.exists(), (name, path)
