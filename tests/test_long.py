"""The lists of long and of slow tests name tests that there are."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def names_of(list_):
    lines = (HERE / list_).read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("list_", ["long.txt", "slow.txt"])
def test_each_is_a_test_and_stands_there_once(list_):
    names = names_of(list_)
    assert names == sorted(set(names))
    for name in names:
        file, _, test = name.partition("::")
        text = (HERE.parent / file).read_text()
        assert f"def {test.partition('[')[0]}(" in text, name


def test_no_test_is_on_both():
    assert not {*names_of("long.txt")} & {*names_of("slow.txt")}
