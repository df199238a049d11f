"""Files of methods that the commands read."""

import pytest

from reprojax import recipes
from reprojax.commands.methods import read_methods

FILE = """
from reprojax import recipes
from reprojax.recipes import Method

def build(model, align=None):
    raise ValueError("never built")

recipes.register(Method("of-a-file", build, source="mine", enters="input"))
"""


def test_a_file_that_is_read_twice_names_the_same_methods(tmp_path):
    """As by a command that makes several choices in one process."""
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    try:
        assert read_methods([path]) == read_methods([path]) == ["of-a-file"]
        path.write_text(FILE.replace("of-a-file", "linear-probe"))
        with pytest.raises(ValueError, match="'linear-probe' is registered already"):
            read_methods([path])
    finally:
        del recipes.METHODS["of-a-file"]
    path.write_text(FILE)
    assert read_methods([path]) == ["of-a-file"]  # it is not there any more
    del recipes.METHODS["of-a-file"]


def test_a_file_without_a_method(tmp_path):
    path = tmp_path / "none.py"
    path.write_text("")
    for _ in range(2):
        with pytest.raises(ValueError, match="registers no method"):
            read_methods([path])
    with pytest.raises(ValueError, match="a Python file that is there"):
        read_methods([tmp_path / "other.py"])
