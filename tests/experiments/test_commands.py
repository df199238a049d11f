"""`python -m experiments` lists what can be run, and each says what it is."""

import ast
import re
import runpy
import subprocess
import sys

import pytest

from experiments.__main__ import HERE, commands

ROOT = HERE.parent
COMMANDS = commands()


def test_the_list_is_printed_without_jax():
    code = (
        "import runpy, sys; runpy.run_module('experiments', run_name='__main__'); "
        "assert not {'jax', 'numpy', 'reprojax', 'tyro'} & {*sys.modules}"
    )
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ", 1) for line in done.stdout.splitlines()]
    assert {name: line.strip() for name, line in lines} == COMMANDS


def test_every_command_is_listed():
    """All that documents name, and all that lies in the folder but what is shared."""
    texts = [ROOT / "README.md", ROOT / "BUILD.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(path.read_text("utf-8") for path in texts)
    named = set(re.findall(r"-m (experiments\.[\w.]*\w)", text))
    assert named and named <= COMMANDS.keys()
    here = {path.stem for path in HERE.iterdir() if path.stem[0] not in "._"}
    assert here - {name.split(".")[1] for name in COMMANDS} == {"shared"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_docstring(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    for known in (name, f"{name}.__main__"):  # as if no other test had imported it
        monkeypatch.delitem(sys.modules, known, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    usage, _, above = capsys.readouterr().out.partition("\n\n")
    assert ended.value.code == 0 and f"usage: python -m {name} " in usage
    place = HERE.joinpath(*name.split(".")[1:])
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text("utf-8")))
    assert text is not None and text.startswith(COMMANDS[name])
    words = text.split()
    assert above.split()[: len(words)] == words
    assert COMMANDS[name][-1] in ".?"
