"""The list of long tests names tests that there are."""

from pathlib import Path

HERE = Path(__file__).parent
LINES = (HERE / "long.txt").read_text().splitlines()


def test_each_is_a_test_and_stands_there_once():
    names = [line for line in LINES if not line.startswith("#")]
    assert names == sorted(set(names))
    for name in names:
        file, _, test = name.partition("::")
        text = (HERE.parent / file).read_text()
        assert f"def {test.partition('[')[0]}(" in text, name
