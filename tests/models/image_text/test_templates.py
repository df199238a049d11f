"""Published templates as data, and sentences from files."""

import hashlib
import json

import numpy as np
import pytest
from small_pairs import pair

from reprojax.models.image_text import classifier, read_sentences, templates

NAMES = ["cat", "dog"]


def test_the_templates_are_the_published_ones():
    """Counts, and the digest of the list in OpenAI's notebook and of KaiyangZhou/CoOp,
    which are equal."""
    assert len(templates.IMAGENET) == 80 == len(set(templates.IMAGENET))
    assert len(templates.ALL) == 81 == len(set(templates.ALL))
    assert templates.ALL[0] == "This is a photo of a {}."
    assert set(templates.SELECTED) < set(templates.IMAGENET)
    assert len(templates.SELECTED) == 7 and len(templates.OF_TASKS) == 15
    every = (*templates.ALL, *templates.OF_TASKS.values())
    assert all(text.count("{}") == 1 for text in every)
    digest = hashlib.sha256("\n".join(templates.IMAGENET).encode()).hexdigest()
    assert digest[:16] == "4f976686fb651bb5"


def written(folder, value):
    path = folder / "sentences.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


GOOD = {"dog": ["a dog on blue"], "cat": ["a cat", "the small cat"]}


def test_sentences_are_read_in_the_order_of_the_classes(tmp_path):
    path = written(tmp_path, GOOD)
    assert list(read_sentences(path)) == ["dog", "cat"]
    found = read_sentences(path, NAMES)
    assert list(found) == NAMES and found == GOOD
    model = classifier(pair(), NAMES, sentences=found)
    wanted = [[0.5, 0.5, 0], [0, 0, 1]]
    np.testing.assert_array_equal(model.frozen["texts"].weights, wanted)


BAD = {
    "a class without": ({"cat": ["a cat"]}, "has no sentences for 'dog', expected"),
    "another": (GOOD | {"cats": ["a"]}, "has sentences for 'cats'.*did you mean 'cat'"),
    "a text": (GOOD | {"cat": "a cat"}, "'cat' has 'a cat', expected a list"),
    "an empty list": (GOOD | {"cat": []}, r"'cat' has \[\], expected a list"),
    "an empty text": (GOOD | {"cat": ["a", " "]}, "'cat' has .*expected a list"),
    "numbers": (GOOD | {"cat": [3]}, r"'cat' has \[3\], expected a list"),
    "a list": (["a cat"], "sentences.json"),
    "no JSON": ("{cat: ", "sentences.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(name, tmp_path):
    value, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        read_sentences(written(tmp_path, value), NAMES)
