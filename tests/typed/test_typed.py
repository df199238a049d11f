"""What pyright sees of a user's mistakes: the marked lines of `mistakes.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MISTAKES = HERE / "mistakes.py"


def marked():
    lines = MISTAKES.read_text().splitlines()
    return [i for i, line in enumerate(lines, 1) if "# wrong: " in line]


@pytest.mark.verify
def test_a_type_checker_reports_what_is_wrong_and_no_more():
    command = ["-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [sys.executable, *command, str(MISTAKES)],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )
    said = json.loads(done.stdout)["generalDiagnostics"]
    found = {each["range"]["start"]["line"] + 1: each["message"] for each in said}
    assert len(marked()) >= 20
    missed, more = set(marked()) - found.keys(), found.keys() - set(marked())
    assert not missed and not more, (missed, {line: found[line] for line in more})
