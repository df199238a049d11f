"""One's own method joins by one call, and is then used as ours are."""

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_languages

from reprojax import data, recipes, reprogram
from reprojax.alignments import bayesian, label_words, one_to_one
from reprojax.core import Manipulation, Params, padded
from reprojax.formats import learnable
from reprojax.models import Arrays, Model, Pixels, Series, card
from reprojax.models.image_text import Pair
from reprojax.models.language import Words
from reprojax.operators import add, resize
from reprojax.recipes import (
    Method,
    Needs,
    Preset,
    build,
    linear_probe,
    methods,
    needs,
    rebuild,
    register,
)
from reprojax.recipes.method import on_texts
from reprojax.recipes.registry import METHODS
from reprojax.saving.programs import Card, load, save
from reprojax.taxonomy import describe
from reprojax.training import fit

BACKBONE = backbones.convolutional()


@needs(Pixels)
def shift(model, align=None, *, targets=None, scale=1.0):
    """A learned picture, added."""
    zeros = jax.nn.initializers.zeros
    at = {"input": resize(model.input.size), "normalized": add(learnable(zeros))}
    return reprogram(model.forward, at, align or bayesian(targets))


SGD = Preset(lambda rate, steps, epochs: optax.sgd(rate), 0.1, epochs=2, batch=12)


@pytest.fixture
def mine():
    own = Method("shift", shift, source="nobody", enters="here", preset=SGD)
    yield register(own)
    del METHODS["shift"]


def test_it_is_trained_saved_rebuilt_and_described(mine, tmp_path):
    images, labels = backbones.photos(24), np.arange(24) % 3
    task = data.from_arrays(images, labels, list("abc"), validation=6, test=6)
    program = recipes.build("shift", BACKBONE, 3, "ilm", scale=2.0)
    optimizer = mine.preset.optimizer(mine.preset.learning_rate, 1, 2)
    settings = {"optimizer": optimizer, "epochs": 2, "batch": 12, "progress": False}
    fitted = fit(program, BACKBONE.frozen, task, **settings)
    given = {"alignment": "ilm", "scale": 2.0}
    image = tuple(task.train.x.shape[1:])
    about = {"method": "shift", "arguments": given, "image": image, "classes": "abc"}
    about["classes"] = tuple("abc")
    save(tmp_path / "p", fitted.params, Card.of(BACKBONE, **about))
    again, params = rebuild(load(tmp_path / "p"), BACKBONE)
    x = task.test.x
    np.testing.assert_array_equal(
        again.apply(params, BACKBONE.frozen, x),
        program.apply(fitted.params, BACKBONE.frozen, x),
    )
    seen = describe(again, BACKBONE.frozen, x[:2], roles=BACKBONE.roles)
    assert seen.coordinates == "learnable input additive -> statistical"


def test_a_name_is_given_once_and_to_a_method(mine, unchecked):
    assert register(mine) is mine
    with pytest.raises(ValueError, match="'padding' is registered already"):
        register(mine._replace(name="padding"))
    with pytest.raises(ValueError, match="expected a Method"):
        register(shift)
    with pytest.raises(ValueError, match="no alignment 'bml'"):
        register(mine._replace(name="other", alignment="bml"))
    with pytest.raises(ValueError, match="expected Preset"):
        register(mine._replace(name="other", preset=0.1))


@pytest.mark.parametrize(
    "holds", [Arrays(jax.ShapeDtypeStruct((1, 3), "float32")), Series(6, 2)]
)
def test_a_probe_fits_whatever_is_no_words(holds):
    """Its head reads the features of a plain function, for numbers as for classes."""
    size = int(np.prod(holds.example().shape))
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(size, 5)), jnp.float32)

    def forward(frozen, x, edit=lambda site, value: value):
        hidden = jnp.tanh(edit("input", x).reshape(len(x), -1) @ frozen)
        return edit("output", edit("hidden", hidden)[:, :1])

    model = card(forward, weights, name="own", input=holds, features="hidden")
    assert set(methods(model)) == {"map-only", "linear-probe"}
    x = np.random.default_rng(1).normal(size=(60, *holds.example().shape[1:]))
    x = x.astype("float32")
    told = np.tanh(x.reshape(60, -1) @ np.asarray(weights))[:, 0] * 2 - 1
    task = data.from_arrays(x, told, holds="rows", answers="numbers")
    probe = build("linear-probe", model, 1)
    run = {"optimizer": optax.adam(0.1), "epochs": 20, "batch": 10, "progress": False}
    assert fit(probe, weights, task, **run).metrics["mean squared error"] < 0.05
    with pytest.raises(ValueError, match="expected a model of Pixels, or Series, or"):
        linear_probe(small_languages.card("rotary"), targets=2)


def test_params_may_depend_on_the_context(tmp_path):
    """A head of the context's own width is built again for that context."""

    @needs(Pixels)
    def beside(model, align=None, *, targets=None):
        def init(key, y, scope):
            width = scope.context.shape[-1]
            return Params(jax.random.normal(key, (y.shape[-1] + width, targets)))

        def apply(params, y, scope):
            return jnp.concatenate([y, scope.context], -1) @ params.learnable

        at = {"input": resize(model.input.size)}
        return reprogram(model.forward, at, Manipulation(init, apply))

    method = Method("beside", beside, source="nobody", enters="nowhere", preset=SGD)
    register(method)
    try:
        x, context = backbones.photos(3), jnp.ones((3, 4))
        program = build("beside", BACKBONE, 2)
        params = program.init(jax.random.key(0), BACKBONE.frozen, x, context)
        about = {
            "method": "beside",
            "arguments": {},
            "image": x.shape[1:],
            "classes": ("a", "b"),
        }
        save(tmp_path / "p", params, Card.of(BACKBONE, **about))
        saved = load(tmp_path / "p")
        again, back = rebuild(saved, BACKBONE, context=context[:1])
        given = BACKBONE.frozen, x, context
        np.testing.assert_array_equal(
            again.apply(back, *given), program.apply(params, *given)
        )
    finally:
        del METHODS["beside"]


def test_an_unknown_method_says_how_ones_own_joins():
    with pytest.raises(ValueError, match="no method 'mine'.*--methods FILE"):
        build("mine", BACKBONE, 2)


def test_what_fits_a_model():
    assert {"padding", "vpt-deep", "linear-probe"} <= set(methods(BACKBONE))
    assert "vpt-deep" not in methods(BACKBONE._replace(roles={}))
    assert not set(methods(Pixels)) & set(methods(Words))
    of_pairs = set(methods(Pair)) - set(methods(Pixels))
    assert {"coop", "tpt"} <= of_pairs and set(methods(Pixels)) <= set(methods(Pair))
    assert all(methods()[name].needs.of_texts for name in of_pairs)
    assert {"prompt-tuning", "loreft"} <= set(methods(small_languages.card("rotary")))
    assert METHODS["bar"].needs == Needs(Pixels, (), "answers")
    assert METHODS["kate"].needs.access == "texts"
    asks = on_texts(lambda template: None)
    assert Method("ask", asks, source="nobody", enters="").needs == Needs(
        access="texts"
    )


def test_a_vocabulary_remapping_is_rebuilt(tmp_path):
    model = small_languages.card("rotary")
    given = {"letters": 9, "width": 3, "labels": [1, 2]}
    program = recipes.build("vocabulary-remapping", model, 2, **given)
    x = padded([[1, 2, 3], [4, 5]])
    params = program.init(jax.random.key(3), model.frozen, x)
    about = {"method": "vocabulary-remapping", "arguments": given}
    save(tmp_path / "p", params, Card.of(model, classes=("a", "b"), **about))
    again, back = rebuild(load(tmp_path / "p"), model)
    np.testing.assert_array_equal(
        again.apply(back, model.frozen, x), program.apply(params, model.frozen, x)
    )


def test_a_function_of_three_numbers_has_a_card_too():
    def forward(frozen, x, edit):
        x = edit("input", x)
        x = edit("hidden", jnp.tanh(x @ frozen["in"]))
        return edit("output", x @ frozen["out"])

    frozen = {"in": jnp.ones((3, 5)), "out": jnp.ones((5, 2))}
    reads = Arrays(jax.ShapeDtypeStruct((1, 3), jnp.float32))
    model = card(forward, frozen, name="net", input=reads, features="hidden")
    assert isinstance(model, Model)
    assert model.classes == ("0", "1") and model.width == 5
    assert model.roles == {"features": ("hidden",), "input": ("input",)}
    program = reprogram(model.forward, {"input": add(learnable(jnp.zeros(3)))})
    x = jnp.ones((4, 3))
    params = program.init(jax.random.key(0), model.frozen, x)
    assert program.apply(params, model.frozen, x).shape == (4, 2)
    with pytest.raises(ValueError, match="padding got net, whose input is Arrays"):
        recipes.padding(model, targets=2)
    with pytest.raises(ValueError, match="got input=3, expected what the model reads"):
        card(forward, frozen, name="net", input=3)


def test_widths_and_heads_are_known_to_the_card():
    language, images = small_languages.card("rotary"), backbones.transformer()
    assert (language.width, language.heads) == (16, 2)
    assert (images.width, images.heads) == (16, 2)
    with pytest.raises(ValueError, match="names no keys"):
        _ = BACKBONE.heads


def test_an_alignment_is_given_once():
    with pytest.raises(ValueError, match="got both of align and targets"):
        recipes.padding(BACKBONE, one_to_one(3), targets=3)
    with pytest.raises(ValueError, match="an alignment twice"):
        reprogram(BACKBONE.forward, {"output": one_to_one(3)}, label_words([1]))
