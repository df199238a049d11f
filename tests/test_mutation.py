"""`make mutants` takes minutes; that it still can run is seen at once."""

from pathlib import Path

import mutation
import pytest

HERE = Path(__file__).parent
MUTANTS = tuple(mutation.mutants())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_snippets_and_tests_are_where_they_were(mutant):
    code = (HERE.parent / "reprojax" / mutant.file).read_text()
    assert code.count(mutant.right) == 1
    compile(code.replace(mutant.right, mutant.wrong), mutant.file, "exec")
    file, *names = mutant.test.split("::")
    for name in names:
        assert f"def {name.partition('[')[0]}(" in (HERE / file).read_text()


def test_a_moved_snippet_is_told_before_anything_runs(monkeypatch, capsys):
    moved = next(mutation.mutants())._replace(right="no such code")
    monkeypatch.setattr(mutation, "mutants", lambda: [moved])
    monkeypatch.setattr("sys.argv", ["mutation.py"])
    assert mutation.main() == 2
    assert "holds 'no such code' 0 times, not once" in capsys.readouterr().out
