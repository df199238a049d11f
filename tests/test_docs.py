"""What the documents show runs, and says what describe says."""

import argparse
import doctest
import importlib
import re
import runpy
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable
from inspect import isgenerator
from itertools import chain, pairwise
from typing import Any

import backbones
import contexts
import documents
import examples
import pytest
import tyro
from documents import (
    ELIDED,
    FENCE,
    PAGES,
    ROOT,
    SHELL,
    commands,
    docstrings,
    is_python,
    name,
    paragraphs,
    run,
)

from reprojax import recipes
from reprojax.models import Pixels
from reprojax.taxonomy import describe

IMAGES = list(recipes.methods(Pixels))  # before a document registers its own


@pytest.fixture(autouse=True)
def methods_of_documents():
    """Another test file must not find what a document registers."""
    before = dict(recipes.METHODS)
    yield
    recipes.METHODS.clear()
    recipes.METHODS.update(before)


RUN_ELSEWHERE = ["docs/black_boxes.md"]  # tests/training/test_black_box.py: a service
OTHERS = "docs/your_model.md"  # its blocks for other libraries run in `make verify`
BLOCKS = [name(p) for p in PAGES if "\n```python" in p.read_text("utf-8")]


@pytest.mark.parametrize("page", [p for p in BLOCKS if p not in RUN_ELSEWHERE])
def test_the_python_blocks_run_one_after_the_other(page):
    run(ROOT / page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_one_that_a_test_runs_or_compares(page):
    text = page.read_text("utf-8")
    fences = [*FENCE.finditer(text)]
    assert len(re.findall(r"^\s*(?:```|~~~)", text, re.M)) == 2 * len(fences)
    kinds = ["sh", *(fence[1] for fence in fences)]
    assert {*kinds} <= {"python", "text", *SHELL}
    assert all(a == "python" for a, b in pairwise(kinds) if b == "text")
    assert name(page) == OTHERS or not any(fence[2] for fence in fences)


@pytest.mark.verify
def test_the_blocks_with_other_libraries_run_too():
    names = run(ROOT / OTHERS, libraries=True)
    assert {"eqx", "hk", "keras", "torch"} <= names.keys()


@pytest.mark.parametrize(
    "wanted, printed",
    [("1.0\n", "1.5\n"), ("0.9...\n", "0.8\n"), ("a\n", "a\nb\n"), ("a\n", "")],
)
def test_another_output_fails(tmp_path, monkeypatch, wanted, printed):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        f"```python\nprint({printed!r}, end='')\n```\n\n```text\n{wanted}```\n"
    )
    with pytest.raises(pytest.fail.Exception, match="page.md:1 prints something else"):
        run(page)
    page.write_text(page.read_text().replace(wanted, printed))
    run(page)


PYTHON = sorted(
    p for room in ("reprojax", "experiments") for p in (ROOT / room).rglob("*.py")
)
TEXTS = [p.read_text("utf-8") for p in PAGES] + [
    text for path in PYTHON for text in docstrings(path)
]
EXAMPLES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in PYTHON
    if any(">>> " in text for text in docstrings(path))
}


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_docstrings_run(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = getattr(examples, module.partition(".")[2].replace(".", "_"), dict)()
    given, rest = (next(given), given) if isgenerator(given) else (given, ())
    names = vars(importlib.import_module(module)) | given
    for text in docstrings(EXAMPLES[module]):
        test = doctest.DocTestParser().get_doctest(text, names, module, None, None)
        report: list[str] = []
        runner = doctest.DocTestRunner(verbose=False, optionflags=ELIDED)
        runner.run(test, out=report.append)
        assert not report, "".join(report)
    for _ in rest:  # closes what it opened
        pass


def test_no_example_of_python_stands_in_a_docstring_unrun():
    for path in PYTHON:
        for text in docstrings(path):
            assert not list(filter(is_python, paragraphs(text))), path


class Read(Exception):
    """A command has read its settings."""


def parsed(module: str, lines: list[list[str]], patch: pytest.MonkeyPatch) -> None:
    """Start a command, up to where it has read its settings, once for each line."""

    def read(parse: Callable[[list[str]], Any]) -> None:
        for words in lines:
            try:
                parse(words)
            except SystemExit as ended:
                assert ended.code == 0, words  # --help
        raise Read

    def by_tyro(settings, **options):
        read(lambda words: cli(settings, **options | {"args": words}))

    def by_argparse(parser, _=None):
        read(lambda words: parse(parser, words))

    cli, parse = tyro.cli, argparse.ArgumentParser.parse_args
    patch.setattr(tyro, "cli", by_tyro)
    patch.setattr(argparse.ArgumentParser, "parse_args", by_argparse)
    patch.setattr(sys, "argv", module.split())
    name = sys.argv[0]
    for known in (name, f"{name}.__main__"):  # as if no other test had imported it
        patch.delitem(sys.modules, known, raising=False)
    # What runpy compiles has the tests' checks of shapes in it. It would be kept for
    # whoever runs the command later, without what checks.
    patch.setattr(sys, "dont_write_bytecode", True)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def called() -> dict[str, list[list[str]]]:
    """{module, and subcommand: the words behind it} of all commands of our own."""
    found = defaultdict(list)
    for words in chain.from_iterable(map(commands, TEXTS)):
        if words[0] == "reprojax":
            words = ["-m", *words]
        module, *rest = words[words.index("-m") + 1 if "-m" in words else 0 :]
        if module == "reprojax" and rest and rest[0][0] != "-":
            module, rest = f"reprojax {rest[0]}", rest[1:]
        rest = rest or ["--help"]  # where it is only named
        if re.match(r"experiments\.|reprojax ", module) and rest not in found[module]:
            found[module].append(rest)
    return found


CALLED = called()


@pytest.mark.parametrize("module", CALLED)
def test_commands_take_the_flags_that_the_documents_give_them(module, monkeypatch):
    with pytest.raises(Read):
        parsed(module, CALLED[module], monkeypatch)


def test_what_else_the_documents_call_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for words in chain.from_iterable(map(commands, TEXTS)):
        if words[0] == "make":
            assert targets.issuperset(w for w in words[1:] if "=" not in w), words
        if "pytest" in words:
            paths = [w.partition("::")[0] for w in words if w.startswith("tests")]
            assert all((ROOT / path).exists() for path in paths), words
        for extras in re.findall(r"^(?:reprojax|\.)\[(.*)\]$", "\n".join(words), re.M):
            known = project["optional-dependencies"].keys()
            assert known >= set(extras.split(",")), words


def rows(title: str) -> dict[str, list[str]]:
    """{first cell: cells} of the tables under a title of the taxonomy's page."""
    text = (ROOT / "docs/taxonomy.md").read_text()
    text = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0].strip("`"): row for row in cells if row and row[0].startswith("`")}


PAIRS = [n for n in recipes.methods(contexts.model()) if n not in IMAGES]


def test_the_table_has_every_method():
    assert set(rows("Images")) == set(IMAGES)
    assert set(rows("Pairs of an image and a text tower")) == set(PAIRS)


@pytest.mark.parametrize("name", PAIRS)
def test_the_table_of_pairs_is_what_describe_observes(name):
    method, model = recipes.METHODS[name], contexts.of(name)
    program = method.build(model, targets=3, **contexts.SIZES.get(name, {}))
    seen = describe(program, model.frozen, contexts.X[:2], roles=model.roles)
    own = rows("Pairs of an image and a text tower")[name]
    assert own[2:] == [seen.coordinates, method.enters]


@pytest.mark.parametrize("name", IMAGES)
def test_the_table_is_what_describe_observes(name):
    method = recipes.METHODS[name]
    backbone = backbones.transformer()
    small = (
        {"width": 4} if name == "refine" else {}
    )  # or four million numbers are drawn
    program = method.build(backbone, targets=3, **small)
    photos = backbones.photos(2)
    seen = describe(program, backbone.frozen, photos, roles=backbone.roles)
    assert rows("Images")[name][2:] == [seen.coordinates, method.enters]


def test_no_line_of_the_documents_speaks_of_a_file_that_is_not_there():
    for page in PAGES:
        text = page.read_text("utf-8")
        found = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)
        links = [page.parent / p for p in found]
        inside = r"`((?:reprojax|experiments|docs|tests)/[\w/.]+)`"
        named = [ROOT / p for p in re.findall(inside, text)]
        for path in links + named:
            assert path.exists(), (name(page), path)
