"""The two-tower card: features, sites, what is computed once, what is refused."""

from dataclasses import replace as changed

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import normal
from small_pairs import pair, pictures

from reprojax import models, recipes
from reprojax.alignments import linear
from reprojax.core import given, record, reprogram, sites, until
from reprojax.formats import learnable
from reprojax.models.image_text import classifier, image_features, random
from reprojax.models.image_text.card import (
    Texts,
    encoded,
    of_classes,
    of_texts,
    spoken,
    text_features,
    under,
)
from reprojax.operators import insert, replace
from reprojax.recipes.model_reprogramming.visual_prompting import visual_prompting
from reprojax.recipes.prompt_tuning.soft_prompts import prompt_tuning
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import vpt_deep

NAMES = ["cat", "dog", "bird"]
KINDS = pytest.mark.parametrize("kind", ["clip", "siglip"])


def unit(x):
    return x / np.sqrt((np.asarray(x) ** 2).sum(-1, keepdims=True))


@KINDS
def test_logits_are_scaled_cosines_of_both_towers(kind):
    own = pair(kind)
    model = classifier(own, NAMES)
    ids = encoded(own, [f"a photo of a {name}." for name in NAMES])
    image, text = image_features(own, pictures()), text_features(own, ids)
    scale, bias = np.exp(own.scale), np.asarray(own.bias)
    expected = scale * unit(image) @ unit(text).T + bias
    y = model.forward(model.frozen, pictures())
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert model.classes == tuple(NAMES)


def test_an_ensemble_is_the_mean_of_unit_features_again_of_unit_length():
    own = pair()
    templates = ["a photo of a {}.", "a red {}", "the small {} on blue"]
    model = classifier(own, NAMES, templates)
    rows = [
        text_features(own, encoded(own, [t.replace("{}", n) for t in templates]))
        for n in NAMES
    ]
    means = np.stack([unit(row).mean(0) for row in rows])
    expected = 10 * unit(image_features(own, pictures())) @ unit(means).T
    y = model.forward(model.frozen, pictures())
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    # a mean of features that are not of unit length is another classifier
    wrong = (
        10
        * unit(image_features(own, pictures()))
        @ unit(np.stack([np.mean(row, 0) for row in rows])).T
    )
    assert np.abs(wrong - expected).max() > 1e-3


def test_sentences_may_differ_in_number_and_weights_decide():
    own = pair()
    texts = {"cat": ["a cat", "small cat"], "dog": ["the dog"]}
    model = classifier(own, ["cat", "dog"], sentences=texts, weights=np.eye(2, 3))
    alone = of_texts(own, ["a cat", "small cat", "the dog"])
    y = alone.forward(alone.frozen, pictures())
    np.testing.assert_allclose(
        model.forward(model.frozen, pictures()), y[:, :2], rtol=1e-4, atol=1e-5
    )
    equal = classifier(own, ["cat", "dog"], sentences=texts)
    np.testing.assert_array_equal(
        equal.frozen["texts"].weights, [[0.5, 0.5, 0], [0, 0, 1]]
    )


@KINDS
def test_padding_and_other_texts_do_not_change_a_text(kind):
    own = pair(kind)
    short, long = "a cat", "a photo of the small red cat"
    alone = text_features(own, encoded(own, [short]))
    beside = text_features(own, encoded(own, [short, long]))[:1]
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_sites_of_both_towers():
    model = classifier(pair(), NAMES)
    found = [*sites(model.forward, model.frozen, pictures(1))]
    wanted = [
        "input", "normalized", "image/block_0:in", "image/features", "text/input",
        "text/embed:out", "text/block_0:in", "text/block_0/kv", "text/features",
        "output",
    ]  # fmt: skip
    assert [site for site in found if site in wanted] == wanted
    for role, its in model.roles.items():
        assert set(its) <= set(found), role
    assert model.roles["embedding"][0] == "image/norm_before:in"


def operations(call, *args):
    return jax.jit(call).lower(*args).compile().cost_analysis()["flops"]


def test_the_text_tower_runs_only_where_a_prompt_stands_in_it():
    own = pair()
    model = classifier(own, NAMES)
    bare = operations(own.image.forward, own.image.frozen, pictures())
    text = operations(own.text.forward, own.text.frozen, model.frozen["texts"].tokens)
    prompt = learnable(normal(0.02))

    def cost(at):
        program = reprogram(model.forward, at)
        params = program.init(jax.random.key(0), model.frozen, pictures())
        return operations(program.apply, params, model.frozen, pictures())

    assert cost({}) < 1.05 * bare
    assert cost({"image/block_0:in": replace(prompt, 1, at=1)}) < 1.05 * bare
    assert cost({"text/embed:out": insert(prompt, 2, at=1)}) > bare + text


def test_a_prompt_in_the_text_tower_is_used_and_recorded_features_are():
    model = classifier(pair(), NAMES)
    at = {"text/embed:out": insert(learnable(normal(1.0)), 2, at=1)}
    program = reprogram(model.forward, at)
    params = program.init(jax.random.key(0), model.frozen, pictures())
    y, seen = record(program.apply, ["text/features"])(params, model.frozen, pictures())
    plain, bare = record(model.forward, ["text/features"])(model.frozen, pictures())
    assert np.abs(y - plain).max() > 0.01
    np.testing.assert_array_equal(bare["text/features"], model.frozen["texts"].features)
    again = given(model.forward, {"text/features": seen["text/features"]})
    np.testing.assert_allclose(again(model.frozen, pictures()), y, rtol=1e-4, atol=1e-5)


def test_features_of_the_frozen_tower_are_those_computed_once():
    """A neutral edit, such as adding zeros, runs the tower and gives the same."""
    model = classifier(pair(), NAMES)
    same = model.forward(
        model.frozen,
        pictures(),
        edit=lambda site, v: v + 0 if site == "text/features" else v,
    )
    ran = []

    def edit(site, value):
        ran.append(site)
        if site == "text/block_1:in":
            return value._replace(value=value.value + 0)
        return value

    fresh = model.forward(model.frozen, pictures(), edit=edit)
    np.testing.assert_allclose(fresh, same, rtol=1e-4, atol=1e-5)
    assert "text/block_0:in" in ran


def test_texts_of_their_own_for_each_image():
    own = pair()
    model = classifier(own, NAMES)

    def edit(site, value):
        if site != "text/embed:out":
            return value
        each = lambda a: jnp.repeat(a[None], 4, 0).reshape(12, *a.shape[1:])
        value = jax.tree.map(each, value)
        moved = value.value.reshape(4, 3, *value.value.shape[1:])
        moved = moved + 0.3 * jnp.arange(4.0)[:, None, None, None]
        return value._replace(value=moved.reshape(value.value.shape))

    y = model.forward(model.frozen, pictures(), edit=edit)
    for i in range(4):

        def alone(site, value, i=i):
            if site != "text/embed:out":
                return value
            return value._replace(value=value.value + 0.3 * i)

        one = model.forward(model.frozen, pictures()[i : i + 1], edit=alone)
        np.testing.assert_allclose(y[i], one[0], rtol=1e-3, atol=1e-4)


def test_recipes_of_images_and_of_texts_take_either_tower():
    own = pair()
    model = classifier(own, NAMES)
    soft = prompt_tuning(own.text, length=2, initial=learnable(normal(0.02)))
    for program in (
        visual_prompting(model, None, targets=3, width=2),
        vpt_deep(model, targets=3, length=2),
        reprogram(until(model.forward, "image/features"), {}, linear(3)),
        reprogram(model.forward, under("text", dict(soft.at))),
    ):
        params = program.init(jax.random.key(0), model.frozen, pictures())
        y = jax.jit(program.apply)(params, model.frozen, pictures())
        assert y.shape == (4, 3)
        slopes = jax.grad(
            lambda own, program=program, params=params: program.apply(
                params._replace(learnable=own), model.frozen, pictures()
            ).sum()
        )(params.learnable)
        assert all(np.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(slopes))


def test_a_fingerprint_is_of_weights_and_texts():
    """The features are computed, and differ in their last bits between devices."""
    model = classifier(pair(), NAMES, ["a {}"])
    texts = model.frozen["texts"]
    other = texts._replace(features=texts.features * 1.0000002)
    assert (np.asarray(other.features) != np.asarray(texts.features)).any()
    elsewhere = model._replace(frozen=model.frozen | {"texts": other})
    assert elsewhere.fingerprint == model.fingerprint
    for another in (
        classifier(pair(), NAMES, ["the {}"]),
        classifier(pair(), NAMES[::-1], ["a {}"]),
        model._replace(frozen=model.frozen | {"scale": pair().scale + 1}),
    ):
        assert another.fingerprint != model.fingerprint


def test_names_of_folders_are_read_as_words():
    assert spoken(["red_arrow-two", "box"]) == ["red arrow two", "box"]


BAD = {
    "an empty name": (dict(classes=["cat", " "]), "got the class ' ', expected a name"),
    "a doubled name": (dict(classes=["cat", "cat"]), r"got \['cat'\] more than once"),
    "the same tokens": (
        dict(classes=["red cat", "dog", "red  cat"]),
        "got the classes 'red cat' and 'red  cat', which are the same tokens to",
    ),
    "one text": (dict(classes="cat"), "expected a list of names"),
    "no template": (dict(templates=["a photo"]), "expected one {} for the class"),
    "a field": (dict(templates=["{} of {kind}"]), "name and no other braces"),
    "a text as templates": (dict(templates="a {}"), "expected a list of texts"),
    "no sentences": (dict(sentences={"cat": ["a cat"]}), "for the class 'dog'"),
    "too long": (dict(templates=["a {} " + "red " * 12]), "expected at most 12"),
    "weights": (dict(weights=np.ones((2, 3))), r"expected \[3, 3\]"),
    "a class of no weight": (
        dict(weights=np.diag([1.0, 0, 1])),
        "only zeros for the class 'dog'",
    ),
    "weights of NaN": (dict(weights=np.diag([1.0, 1, np.nan])), "for the class 'bird'"),
    "names without order": (dict(classes={"cat", "dog"}), "expected a list of names"),
    "a number": (dict(classes=3), "got the classes 3, expected a list of names"),
    "a table": (dict(classes=np.array([NAMES])), "expected a list of names"),
    "a template that is no text": (dict(templates=[3]), "got the template 3, expected"),
    "a sentence that is no text": (
        dict(sentences={"cat": ["a cat"], "dog": [3], "bird": ["a bird"]}),
        "got the sentence 3 for the class 'dog'",
    ),
    "negative room": (dict(room=-1), "got room=-1, expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_texts_are_refused(name, unchecked):
    given, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        classifier(pair(), **{"classes": NAMES} | given)


def test_names_and_texts_may_be_arrays_or_generators():
    templates = ["a {}", "the small {}"]
    wanted = classifier(pair(), NAMES, templates)
    of = {name: np.array([t.replace("{}", name) for t in templates]) for name in NAMES}
    for model in (
        classifier(pair(), np.array(NAMES), np.array(templates)),
        classifier(pair(), (n for n in NAMES), (t for t in templates)),
        classifier(pair(), NAMES, sentences=of),
    ):
        assert model.classes == tuple(NAMES)
        found, own = model.frozen["texts"], wanted.frozen["texts"]
        np.testing.assert_array_equal(found.tokens.value, own.tokens.value)
        np.testing.assert_array_equal(found.weights, own.weights)


def test_the_mean_of_texts_in_bfloat16_is_one_in_float32():
    rows = jax.random.normal(jax.random.key(0), (8 * 40, 32), jnp.bfloat16)
    weights = jnp.repeat(jnp.eye(8), 40, 1) / 40
    found = of_classes(rows, Texts(encoded(pair(), NAMES), rows, weights))
    wanted = unit(unit(np.float32(rows)).reshape(8, 40, 32).mean(1))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jnp.asarray(wanted, jnp.bfloat16))


def test_methods_that_read_all_tokens_are_refused():
    model = classifier(pair(), NAMES)
    with pytest.raises(ValueError, match="expected 'tokens' among them"):
        recipes.build("l2p", model, 3)


def test_a_pair_without_tokeniser_and_prompts_without_room_are_refused():
    own = pair()
    bare = changed(own, text=own.text._replace(tokenizer=None))
    with pytest.raises(ValueError, match="has no tokeniser"):
        classifier(bare, NAMES)
    full = classifier(pair("siglip"), NAMES)
    at = {"text/embed:out": insert(learnable(normal(0.02)), 2, at=0)}
    with pytest.raises(ValueError, match="14 tokens for a model that has 12 positions"):
        reprogram(full.forward, at).init(jax.random.key(0), full.frozen, pictures())
    roomy = classifier(pair("siglip"), NAMES, room=2)
    params = reprogram(roomy.forward, at).init(
        jax.random.key(0), roomy.frozen, pictures()
    )
    y = reprogram(roomy.forward, at).apply(params, roomy.frozen, pictures())
    assert y.shape == (4, 3)
    with pytest.raises(ValueError, match="expected 'image' or 'text'"):
        under("both", {})


def test_random_towers_make_a_classifier_of_their_own():
    own, other = pair(), random(pair(), jax.random.key(0))
    model, control = classifier(own, NAMES), classifier(other, NAMES)
    fresh = text_features(other, encoded(other, ["a photo of a cat."]))
    np.testing.assert_allclose(control.frozen["texts"].features[:1], fresh, atol=1e-6)
    assert np.abs(fresh - model.frozen["texts"].features[:1]).max() > 0.01
    with pytest.raises(ValueError, match="image_text.random"):
        models.random(model, jax.random.key(0))
