"""The command as a user has it: from a wheel, without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reprojax import __main__ as command
from reprojax import models, recipes
from reprojax.data.sources import NAMED

ROOT = Path(__file__).parents[2]


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(command, "NEEDED", ("jax", "no_such_module"))
    with pytest.raises(
        SystemExit, match=r"needs no_such_module.*'reprojax\[commands\]'"
    ):
        command.main(["train"])


def test_an_unknown_command_is_told_the_known_ones(capsys):
    with pytest.raises(SystemExit, match="'trian', expected one of list, train, pred"):
        command.main(["trian"])
    command.main([])
    said = capsys.readouterr().out
    assert all(f"reprojax {name} " in said for name in command.COMMANDS)


def test_the_list_names_all_that_the_commands_take(capsys):
    command.main(["list"])
    said = capsys.readouterr().out
    for names in (recipes.METHODS, recipes.ALIGNMENTS, models.names(), NAMED):
        assert all(f"\n  {name} " in said for name in names)
    assert "Try watermark first" in said


@pytest.mark.verify
def test_a_wheel_holds_all_that_the_command_needs(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    subprocess.run([*build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    installed = tmp_path / "installed"
    own = {p.relative_to(ROOT) for p in (ROOT / "reprojax").rglob("*") if p.is_file()}
    own = {path for path in own if "__pycache__" not in path.parts}
    held = {p.relative_to(installed) for p in installed.rglob("*") if p.is_file()}
    assert own <= held and Path("reprojax/commands/page.css") in own
    assert {p.suffix for p in own} == {".py", ".css", ".safetensors"}
    (said,) = installed.glob("*.dist-info/entry_points.txt")
    assert "reprojax = reprojax.__main__:main" in said.read_text()
    elsewhere = os.environ | {"PYTHONPATH": str(installed)}
    code = "import reprojax; print(reprojax.__file__); "
    code += "from reprojax.__main__ import main; main(['list'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=elsewhere,
        check=True,
        capture_output=True,
        text=True,
    )
    first, _, rest = done.stdout.partition("\n")
    assert first.startswith(str(installed)) and "Try watermark first" in rest


def test_a_reader_that_has_read_enough_is_no_fault():
    """As in `reprojax list | head`: the pipe is closed before anything is written."""
    code = "import sys; from reprojax.__main__ import main; sys.stdin.read(); main()"
    reader = subprocess.Popen(
        [sys.executable, "-c", code, "list"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    reader.stdout.close()
    assert reader.communicate()[1] == "" and reader.returncode == 0
