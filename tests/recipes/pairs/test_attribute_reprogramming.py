"""AttrVR (arXiv 2501.13982) beside tmlr-group/AttrVR's border and its mean of the
nearest attributes, in torch with the weights of `small_pairs.pair()`.

The wrong variants are in `mutants.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attributes import APART, LOOKS, NAMES, X, Y, model
from small_pairs import pair
from small_training import trained

from reprojax.alignments import identity, nearest_texts
from reprojax.core import Params, Scope
from reprojax.models.image_text import classifier, of_descriptions
from reprojax.models.image_text.card import encoded, text_features
from reprojax.recipes import find_method
from reprojax.recipes.model_reprogramming import attrvr, padding, visual_prompting
from reprojax.taxonomy import describe
from reprojax.testing import contract

MODEL = model()
FIRST = [[1.37352, 2.60707, 1.26655], [1.4288, 2.63746, 1.15481]]
OTHER = [[2.53576, 3.32877, 1.83356], [2.55025, 3.25430, 1.52689]]  # 2 of 4, share .3
LAST = [[6.03876, 5.84612, 6.66744], [0.09424, 1.26507, -0.17245]]
LOSSES = """
1.16995 1.12955 1.06726 1.004 0.96154 0.94356 0.93323 0.92683 0.92578 0.92824 0.92849
0.92347 0.91636 0.91031 0.90584 0.90074 0.89442 0.88738 0.88105 0.87567 0.87121 0.86758
0.86416 0.86112 0.85885 0.85719 0.85569 0.85409 0.85222 0.85034 0.84857 0.847 0.84564
0.84446 0.84341 0.84248 0.84158 0.84073 0.83992 0.83919 0.83851 0.83791 0.83739 0.83696
0.83658 0.83624 0.83593 0.83565 0.8354 0.83518 0.835 0.83484 0.83472 0.83463 0.83456
0.83451 0.83447 0.83445 0.83444 0.83443
"""


def answers(params, **sizes):
    program = attrvr(MODEL, targets=3, inner=12, **sizes)
    return jax.jit(program.apply)(params, MODEL.frozen, X[:2])


def test_sixty_steps_of_the_published_code():
    program = attrvr(MODEL, targets=3, inner=12)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    np.testing.assert_allclose(answers(params), FIRST, atol=2e-5)
    np.testing.assert_allclose(answers(params, nearest=2, share=0.3), OTHER, atol=2e-5)
    optimizer = find_method("attrvr").preset.optimizer(4.0, 6, 10)
    found, state = trained(program, MODEL.frozen, X, Y, optimizer, 60, params)
    np.testing.assert_allclose(found, np.fromstring(LOSSES, sep=" "), atol=5e-4)
    np.testing.assert_allclose(answers(state.params), LAST, atol=2e-3)


def test_texts_stand_kind_by_kind_and_class_by_class():
    texts = [t for kind in (LOOKS, APART) for name in NAMES for t in kind[name]]
    own = text_features(pair(), encoded(pair(), texts))
    np.testing.assert_allclose(MODEL.frozen["texts"].features, own, atol=1e-6)
    y = np.random.default_rng(0).normal(size=(5, 24))
    found = nearest_texts(3, 2, (0.25, 0.75)).apply(Params(), jnp.asarray(y), Scope())
    for row, wanted in zip(found, y, strict=True):
        for t in range(3):
            kinds = [wanted[12 * k + 4 * t : 12 * k + 4 * t + 4] for k in (0, 1)]
            near = [np.sort(kind)[-2:].mean() for kind in kinds]
            np.testing.assert_allclose(row[t], np.dot([0.25, 0.75], near), rtol=1e-5)
    few = {"cat": ["a cat"], "dog": ["the dog", "a dog"], "bird": ["bird"]}
    again = of_descriptions(pair(), NAMES, few, count=2).frozen["texts"].tokens.value
    np.testing.assert_array_equal(again[0], again[1])
    assert (again[2] != again[3]).any()


def test_the_contract():
    found = contract(
        attrvr(MODEL, targets=3, inner=12),
        MODEL.frozen,
        X[:4],
        Y[:4],
        forward=MODEL.forward,
        shape=(4, 3),
    )
    assert found.learnable == 16 * 16 * 3


def test_coordinates_and_settings():
    program = attrvr(MODEL, targets=3)
    seen = describe(program, MODEL.frozen, X[:2], roles=MODEL.roles)
    assert seen.coordinates == "learnable input concatenative -> rule"
    preset = find_method("attrvr").preset
    assert (preset.learning_rate, preset.epochs, preset.batch) == (40.0, 200, 64)


@pytest.mark.parametrize("recipe", [padding, visual_prompting])
def test_recipes_of_pixels_take_names_of_classes(recipe):
    """VP and padding on CLIP: the recipes as they are, and the identity."""
    own = classifier(pair(), NAMES)
    program = recipe(own, identity())
    params = program.init(jax.random.key(0), own.frozen, X)
    y = jax.jit(program.apply)(params, own.frozen, X)
    assert y.shape == (12, 3)
    seen = describe(program, own.frozen, X[:2], roles=own.roles)
    assert seen.coordinates.endswith("-> identity")
    optimizer = find_method("padding").preset.optimizer(0.05, 5, 3)
    found, _ = trained(program, own.frozen, X, Y, optimizer, 15, params)
    assert found[-1] < found[0] - 0.01


def test_bad_descriptions_are_refused():
    with pytest.raises(ValueError, match="for the class 'bird'"):
        of_descriptions(pair(), NAMES, {"cat": ["a cat"], "dog": ["dog"], "bird": []})
    with pytest.raises(ValueError, match="got no sentences"):
        of_descriptions(pair(), NAMES)
    with pytest.raises(ValueError, match="count=0"):
        of_descriptions(pair(), NAMES, LOOKS, count=0)
    for wrong in ({"targets": 5}, {"targets": 3, "nearest": 5}):
        program = attrvr(MODEL, **wrong)
        with pytest.raises(ValueError, match="got 24 texts for 2 kinds"):
            program.init(jax.random.key(0), MODEL.frozen, X)
