"""Files of other people: no pipes, no endless ones, JSON of the expected type."""

import os
import socket
from typing import TypedDict

import pytest

from reprojax.saving.files import (
    decode_json,
    open_regular,
    read_file,
    read_json,
)


class Size(TypedDict):
    height: int


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))  # the file stays behind
    elif kind == "folder":
        path.mkdir()
    else:
        path = type(path)("/dev/zero")
    with pytest.raises(ValueError, match="expected a regular file"):
        open_regular(path)


def test_a_larger_file_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_file(tmp_path / "a", 4)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"height": "3"}', r"Expected `int`, got `str` - at `\$.height`"),
        ('{"height": null}', "got `null`"),
        ('{"height": true}', "got `bool`"),
        ('{"height": 1.5}', "got `float`"),
        ('{"height": NaN}', "not whole, valid JSON"),
        ("{}", "missing required field `height`"),
        ("[]", "got `array`"),
        ('{"height": 3', "not whole, valid JSON"),
        ("", "not whole, valid JSON"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_json_of_another_type_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "size.json"
    path.write_text(text)
    kind = list if text.startswith("[[") else Size
    with pytest.raises(ValueError, match=f"size.json .*{message}"):
        read_json(path, kind)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="the reply is not whole"):
        decode_json(b'{"a": "\xff"}', dict[str, str], "the reply")


def test_json_of_the_expected_type_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"height": 3, "other": [1]}')
    assert read_json(tmp_path / "a.json", Size) == {"height": 3}
