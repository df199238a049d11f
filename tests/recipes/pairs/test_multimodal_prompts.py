"""MaPLe (arXiv 2210.03117) beside the published modules.

The numbers are from muzairkhattak/multimodal-prompt-learning, its learner and towers in
float32, with the weights of `small_pairs.pair()` and Dassl's schedule. The wrong
variants are in `mutants.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_pairs import pair, pictures
from small_training import trained

from reprojax.core import record
from reprojax.models.image_text import classifier
from reprojax.recipes import find_method, methods
from reprojax.recipes.prompt_tuning import maple
from reprojax.taxonomy import describe
from reprojax.testing import contract

MODEL = classifier(pair(), ["cat", "dog", "bird"])
PROGRAM, SITE = maple(MODEL), "text/embed:out"
X, Y = pictures(12), np.arange(12) % 3
LOGITS = [[0.8068, 1.70775, 0.42708], [0.29915, 0.98188, -0.43763]]
# 10 epochs of 6 steps of the whole batch, at rate .3
LOSSES = """
1.24663 1.24663 1.24663 1.24663 1.24662 1.24662 1.24662 1.16607 1.13274 1.11937
1.11304 1.10953 1.10734 1.10589 1.10482 1.10401 1.10337 1.10283 1.10236 1.10196
1.10158 1.1012 1.10081 1.10041 1.09998 1.09957 1.09914 1.09869 1.0982 1.09768
1.09714 1.09668 1.0962 1.09571 1.0952 1.09469 1.09418 1.09378 1.09339 1.09299
1.09259 1.09219 1.09179 1.09152 1.09124 1.09096 1.09069 1.09041 1.09013 1.08997
1.0898 1.08963 1.08947 1.0893 1.08913 1.08905 1.08897 1.08889 1.08881 1.08873
"""


def drawn(program=PROGRAM):
    """Params far from the small first ones, drawn as for the published modules."""
    draw = np.random.default_rng(5)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    shapes = {n: params.learnable[SITE][n].shape for n in ("prompts", "kernel", "bias")}
    own = {n: jnp.asarray(draw.standard_normal(s) / 2, "f4") for n, s in shapes.items()}
    return params._replace(learnable=params.learnable | {SITE: own})


def test_logits_of_the_published_modules():
    y = jax.jit(PROGRAM.apply)(drawn(), MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, LOGITS, atol=2e-5)


def test_sixty_steps_of_the_published_trainer():
    optimizer = find_method("maple").preset.optimizer(0.3, 6, 10)
    found, state = trained(PROGRAM, MODEL.frozen, X, Y, optimizer, 60, drawn())
    np.testing.assert_allclose(found, np.fromstring(LOSSES, sep=" "), atol=1e-4)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), state.params, drawn()
    ).learnable
    assert min(jax.tree.leaves(moved)) > 0.01


def test_prompts_stand_behind_the_first_word_and_behind_the_patches():
    params = drawn()
    own = params.learnable[SITE]
    places = ["text/embed:out", "image/norm_before:in", "text/block_1:in"]
    places += ["image/block_1:in", "image/block_1:in/raw"]
    _, seen = record(PROGRAM.apply, places)(params, MODEL.frozen, X[:2])
    made = own["prompts"] @ own["kernel"] + own["bias"][:, None]
    for i, (text, image) in enumerate((places[:2], places[2:4])):
        for row in seen[text].value:
            np.testing.assert_allclose(row[1:3], own["prompts"][i], atol=1e-6)
        for row in seen[image]:
            assert row.shape == (1 + 4 + 2, 12)
            np.testing.assert_allclose(row[-2:], made[i], atol=1e-5)
    kept, raw = (np.asarray(seen[place])[:, :-2] for place in places[3:])
    np.testing.assert_array_equal(kept, raw)


def test_the_start_is_the_words_and_one_linear_map():
    params = PROGRAM.init(jax.random.key(3), MODEL.frozen, X)
    own = params.learnable[SITE]
    table = MODEL.frozen["text"]["params"]["embed"]["embedding"]
    ids = pair().text.input.tokenizer.encode("a photo")[1:3]
    np.testing.assert_array_equal(own["prompts"][0], table[np.array(ids)])
    drawn_later = np.asarray(own["prompts"][1])
    assert 0.005 < drawn_later.std() < 0.04
    bound = 8**-0.5
    for name in ("kernel", "bias"):
        assert 0.8 * bound < np.abs(own[name]).max() <= bound
    model = classifier(pair(depth=3), ["cat", "dog"])
    deeper = maple(model, depth=4)
    own = deeper.init(jax.random.key(3), model.frozen, X).learnable[SITE]
    np.testing.assert_array_equal(own["kernel"][1], own["kernel"][2])
    assert np.abs(own["kernel"][0] - own["kernel"][1]).max() > 0.1
    drawn_first = maple(MODEL, words=False).init(jax.random.key(3), MODEL.frozen, X)
    assert np.abs(drawn_first.learnable[SITE]["prompts"][0]).max() < 0.1


def test_the_contract_and_the_cost():
    """A step costs what both towers and their gradients do, and no more."""
    found = contract(
        PROGRAM,
        MODEL.frozen,
        X[:4],
        Y[:4],
        forward=MODEL.forward,
        shape=(4, 3),
        work=1.05,
    )
    assert found.learnable == 2 * (2 * 8 + 8 * 12 + 12)


def test_coordinates():
    seen = describe(PROGRAM, MODEL.frozen, X[:2], roles=MODEL.roles)
    assert seen.coordinates == (
        "learnable embedding concatenative + learnable hidden concatenative -> identity"
    )


def test_a_pair_of_the_other_kind():
    """SigLIP's towers: no class token, no norm before the blocks, padded texts."""
    model = classifier(pair("siglip"), ["cat", "dog"])
    program = maple(model)
    params = program.init(jax.random.key(0), model.frozen, X)
    y, seen = record(program.apply, ["image/block_0:in"])(params, model.frozen, X)
    assert y.shape == (12, 2)
    assert seen["image/block_0:in"].shape == (12, 4 + 2, 8)


def test_the_published_settings():
    preset = find_method("maple").preset
    assert (preset.learning_rate, preset.epochs, preset.batch) == (0.0035, 5, 4)


def test_it_fits_a_classifier_of_a_pair_alone():
    assert "maple" in methods(MODEL)
    assert "maple" not in methods(pair().image)
    with pytest.raises(ValueError, match="expected 'text_embedding' among them"):
        maple(pair().image)


@pytest.mark.parametrize("template, length", [("{} on a photo", 1), ("a {}.", 2)])
def test_names_of_classes_are_not_replaced(template, length):
    model = classifier(pair(), ["cat", "dog"], [template])
    count = 0 if length == 1 else 1
    with pytest.raises(ValueError, match=f"begin with {count} common words"):
        maple(model, length=length)
    with pytest.raises(ValueError, match="depth of 0 layers"):
        maple(MODEL, depth=0)
