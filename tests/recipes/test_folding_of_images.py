"""A program of an image model alone, folded; pairs/test_folding.py has those of pairs.

The wrong variants: a head of unit features; a prompt that changes with the image as a
bias; the same prompt left in the pixels too; a head that the folded model still holds.
"""

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training
from jax import export
from small_pairs import pair

from reprojax.alignments import identity, one_to_one
from reprojax.core import Manipulation, Params, record, reprogram
from reprojax.models.image_text import classifier
from reprojax.operators import resize
from reprojax.recipes import build
from reprojax.recipes.folding import folded
from reprojax.testing.compiled import operations

NET, VIT = backbones.convolutional(), backbones.transformer()
X, Y = backbones.photos(12), np.arange(12) % 3


def drawn(program, model):
    return small_training.drawn(program, model, X, Y)


def count(tree):
    return sum(np.size(a) for a in jax.tree.leaves(tree))


@pytest.mark.parametrize("model", [NET, VIT], ids=lambda model: model.name)
@pytest.mark.parametrize("name", ["vp", "padding", "smm", "linear", "ilm"])
def test_it_answers_the_same_without_the_models_head(name, model):
    program = {
        "ilm": lambda: reprogram(model.forward, {"input": resize(16)}, one_to_one(3)),
        "linear": lambda: build("watermark", model, 3, alignment="linear"),
    }.get(name, lambda: build(name, model, 3, alignment="blm"))()
    params = drawn(program, model)
    small = folded(program, params, model)
    x = backbones.photos(20, seed=7)  # other images than those it was compared on
    y = jax.jit(program.apply)(params, model.frozen, x)
    again = jax.jit(small.program.apply)(small.params, small.model.frozen, x)
    np.testing.assert_allclose(again, y, rtol=1e-4, atol=2e-5)
    before, after = small.numbers
    assert after == count((small.model.frozen, small.params))
    assert before - after >= (backbones.CLASSES - 3) * 16
    assert len(small.model.frozen) == len(jax.tree.leaves(model.frozen)) - 2
    mine, theirs = (small.params, small.model.frozen), (params, model.frozen)
    assert operations(small.program.apply, *mine, x) <= operations(
        program.apply, *theirs, x
    )


def edited(program):
    return {site for own, _ in program.at for site in own}


def test_a_prompt_in_pixels_becomes_the_bias_of_the_first_layer():
    program = build("vp", VIT, 3, alignment="blm")
    params = drawn(program, VIT)
    small = folded(program, params, VIT)
    assert edited(small.program) == {"input", "patches:out", "output"}
    both = record(program.apply, ["normalized", "normalized/raw"])
    _, seen = both(params, VIT.frozen, X[:1])
    strips = np.asarray(seen["normalized"] - seen["normalized/raw"])[0]
    patches = strips.reshape(2, 8, 2, 8, 3).transpose(0, 2, 1, 3, 4).reshape(4, -1)
    kernel = np.asarray(VIT.frozen["params"]["patches"]["kernel"]).reshape(-1, 16)
    own = small.params.fixed["patches:out"]
    np.testing.assert_allclose(own, patches @ kernel, rtol=1e-4, atol=1e-5)


def test_a_prompt_that_is_smaller_than_its_trace_stays_in_the_pixels():
    """Of a convolution the bias would be a number for each place and channel."""
    program = build("vp", NET, 3, alignment="blm")
    small = folded(program, drawn(program, NET), NET)
    assert "normalized" in edited(small.program)


def test_what_changes_with_the_image_is_no_bias():
    each = Manipulation(  # a factor for each pixel
        lambda key, spec, scope: Params(jnp.ones(spec.shape[1:])),
        lambda params, value, scope: value * params.learnable,
    )
    at = {"input": resize(16), "normalized": each}
    program = reprogram(VIT.forward, at, identity())
    small = folded(program, drawn(program, VIT), VIT)
    assert "normalized" in edited(small.program)


def test_it_is_exported_for_any_number_of_images():
    program = build("watermark", VIT, 3, alignment="ilm")
    params = drawn(program, VIT)
    small = folded(program, params, VIT)
    answer = jax.jit(lambda x: small.program.apply(small.params, small.model.frozen, x))
    any_number = export.symbolic_shape("b, 10, 10, 3")
    raw = export.export(answer)(jax.ShapeDtypeStruct(any_number, np.uint8)).serialize()
    y = jax.jit(program.apply)(params, VIT.frozen, X)
    found = export.deserialize(raw).call(X)
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=2e-5)


def test_what_is_no_linear_head_is_refused():
    program = build("ar", NET, 3)  # sums of probabilities
    with pytest.raises(ValueError, match="no linear function of an image's feature"):
        folded(program, drawn(program, NET), NET)
    program = build("vp", NET, 3)
    params = drawn(program, NET)
    with pytest.raises(ValueError, match="no classifier of a pair.*the model alone"):
        folded(program, params, NET, pair().image)
    rows = NET._replace(roles={**NET.roles, "features": NET.roles["blocks"][:1]})
    with pytest.raises(ValueError, match="expected a vector for each image"):
        folded(program, params, rows)
    named = classifier(pair(), ["cat", "dog", "owl"])
    with pytest.raises(ValueError, match="without its image tower.*pair.image"):
        folded(program, params, named)
