"""The embedded language model: its card, its tokeniser, its weights."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.core import padded, sites, tokens
from reprojax.models import language as models
from reprojax.models.language import abacus
from reprojax.text import Request
from reprojax.text.in_process import language


@pytest.fixture(scope="module")
def model():
    return models.load("abacus")


def test_weights_are_small_and_their_card_is_complete(model):
    about = abacus.abacus_card()
    assert abacus.WEIGHTS.stat().st_size <= 3_500_000
    numbers = sum(leaf.size for leaf in jax.tree.leaves(model.frozen))
    assert about["parameters"] == numbers
    assert {"architecture", "training", "strings", "abilities"} <= set(about)
    json.dumps(about)


def test_roles_name_sites_that_exist(model):
    found = sites(model.forward, model.frozen, padded([[1, 2, 3]]))
    for role, names in model.roles.items():
        assert names and set(names) <= set(found), role
    assert "abacus" in models.names()


def test_a_character_is_a_token(model):
    text = model.input.tokenizer
    printable = "\n" + "".join(map(chr, range(32, 127)))
    ids = text.encode(printable)
    assert sorted(ids) == list(range(text.size)) == list(range(model.input.vocabulary))
    assert text.decode(ids) == printable
    assert [text.token(text.id(c)) for c in printable] == list(printable)
    assert text.id("ab") is text.token(text.size) is text.token(-1) is None


def test_other_characters_are_refused(model):
    with pytest.raises(ValueError, match=r"\['\\t', 'é'\], expected"):
        model.input.tokenizer.encode("caf\té")


def test_it_needs_no_package_of_tokenisers(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert models.load("abacus").input.tokenizer.encode("a") == [66]


def test_loading_takes_a_type_and_no_tokeniser(model):
    half = models.load("abacus", dtype=jnp.bfloat16, tokenizer=None)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.frozen)} == {jnp.bfloat16.dtype}
    assert half.input.tokenizer is None
    with pytest.raises(ValueError, match="expected jnp.float32 or jnp.bfloat16"):
        models.load("abacus", dtype=jnp.int8)


def test_stored_halves_are_the_weights(model):
    """What is loaded is stored without loss: float16 and back."""
    for leaf in jax.tree.leaves(model.frozen):
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, leaf.astype(jnp.float16))


def test_a_repeated_string_is_gone_on_with(model):
    """What follows is likely once it was there before, and not before that."""
    string = "kdupwmqxbjhz"
    ids = jnp.asarray([model.input.tokenizer.encode(3 * string)])
    logits = model.forward(model.frozen, tokens(ids)).value
    each = jax.nn.log_softmax(logits[0, :-1])[jnp.arange(ids.size - 1), ids[0, 1:]]
    first, last = each[: len(string) - 1].mean(), each[-len(string) :].mean()
    assert last > np.log(0.5) and first < np.log(0.05)


def test_it_writes_to_the_end_of_a_line(model):
    asked = language(model, rows=2)
    prompt = "3+4>7\n2+2>4\n5+1>6\n4+4>"
    (reply,) = asked.complete([Request(prompt, length=16, stop=())])
    (answer,) = reply.completions
    assert answer == ("8\n", "stop")
