"""Learned words in the place of a template's: where they start, and for which classes.

The wrong variants: words of the weights with which the program was built; words in half
precision; a task with other classes than the texts name.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_pairs import pair, pictures

from reprojax.models.image_text import classifier, random
from reprojax.recipes import find_method

NAMES, X = ["cat", "dog", "bird"], pictures(2)
MODEL = classifier(pair(), NAMES)
SITE = "text/embed:out"
SIZES = {"maple": {"length": 4}, "prograd": {"length": 6}}
REPLACING = ("cocoop", "kgcoop", "tpt", "prograd", "maple", "ivlp", "promptsrc")


def start(name, frozen):
    """The first words of a program that was built with the model's own weights."""
    program = find_method(name).build(MODEL, **SIZES.get(name, {}))
    own = program.init(jax.random.key(0), frozen, X).learnable[SITE]
    if name == "maple":
        return own["prompts"][0]
    return own["words"] if name in ("cocoop", "prograd") else own


@pytest.mark.parametrize("name", REPLACING)
def test_the_first_words_are_of_the_weights_that_the_program_begins_with(name):
    other = classifier(random(pair(), jax.random.key(4)), NAMES).frozen
    halves = lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a
    other = jax.tree.map(halves, other)
    ids = pair().text.input.tokenizer.encode("a photo of a", special=False)
    table = other["text"]["params"]["embed"]["embedding"].astype(jnp.float32)
    found = start(name, other)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found[-4:], table[np.array(ids)])
    np.testing.assert_array_equal(found[:-4], 0)


@pytest.mark.parametrize("name", [*REPLACING, "coop", "plot"])
def test_other_classes_than_the_texts_name_are_refused(name):
    with pytest.raises(ValueError, match="got 4 classes and small clip with 3 names"):
        find_method(name).build(MODEL, targets=4)
