"""No spoilt input is read as something else in silence; see `bad_inputs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / part) for part in ("models/language", "text")]

import bad_inputs  # noqa: E402
import bad_readers  # noqa: E402
import pytest  # noqa: E402

NUMBER = {reader.name: i for i, reader in enumerate(bad_readers.READERS)}


def check(name):
    reader = bad_readers.READERS[NUMBER[name]]
    found = list(bad_inputs.tried(NUMBER[name], reader))
    assert len(found) >= 18
    assert [one for one in found if one[1].isupper()] == []
    assert any(what == "refused" for _, what, _ in found)


def test_questions():
    check("questions")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NUMBER if name != "questions"])
def test_every_reader(name):
    check(name)


def test_what_is_wrong_in_silence_is_seen(tmp_path):
    """The harness itself: a reader that takes anything is told apart from ours."""
    reader = bad_inputs.Reader("open", lambda folder: None, Path.read_text, iter)
    (tmp_path / "good").write_text("a")
    (tmp_path / "bad").write_text("b")
    good = bad_inputs.digest("a")
    assert bad_inputs.outcome(reader, tmp_path / "good", good) == ("unchanged", "")
    assert bad_inputs.outcome(reader, tmp_path / "bad", good) == ("SILENT", "")
    what, said = bad_inputs.outcome(reader, tmp_path / "none", good)
    assert what == "BARE" and "FileNotFoundError" in said
