"""Parts of the recipes for pairs, each beside its formula in numpy.

The wrong variants: a sum for a mean, rows in another order, a map to the wrong layer, a
step that ignores the second gradient, a query of the prompted model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.nn.initializers import constant
from small_pairs import JOINT, WIDE, WIDTH, pair, pictures

from reprojax.core import Manipulation, Params, Scope, record, reprogram, tokens, until
from reprojax.formats import learnable
from reprojax.models.image_text import classifier
from reprojax.operators import resize
from reprojax.recipes.prompt_tuning.aligned_gradients import (
    agreeing_sgd,
    with_teacher,
)
from reprojax.recipes.prompt_tuning.conditional_context import image_by_image
from reprojax.recipes.prompt_tuning.independent_prompts import SITES, self_regulated
from reprojax.recipes.prompt_tuning.knowledge_guided_context import APART, guided
from reprojax.recipes.prompt_tuning.multimodal_prompts import coupled, first_layers
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    class_features,
    template_words,
)
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import head_at_rest
from reprojax.recipes.queries import asking
from reprojax.training.losses import Seen
from reprojax.training.optimizers import sgd_by_epochs

NAMES, X = ["cat", "dog", "bird"], pictures(2)
MODEL = classifier(pair(), NAMES)
DRAW = np.random.default_rng(3)
KEY = jax.random.key(0)


def rows(*shape):
    return DRAW.standard_normal(shape).astype(np.float32)


def unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def entropy(logits, labels):
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -log[np.arange(len(labels)), labels]


def test_guided_adds_the_mean_distance_of_the_classes():
    logits, labels, apart = rows(4, 3), np.array([0, 2, 1, 1]), np.abs(rows(3))
    found = guided(8.0)(Seen({"output": logits, APART: apart}, labels))
    np.testing.assert_allclose(
        found, entropy(logits, labels) + 8 * apart.sum() / 3, rtol=1e-5
    )


def test_self_regulated_is_its_four_terms():
    own, frozen, words, teacher = rows(4, 6), rows(4, 6), rows(3, 6), rows(3, 6)
    logits, old, labels = rows(4, 3), rows(4, 3), np.array([0, 2, 1, 1])
    each = dict(zip(SITES, (own, words, frozen, teacher, old), strict=True))
    recorded = jax.tree.map(jnp.asarray, each | {"output": logits})
    found = self_regulated(10.0, 25.0)(Seen(recorded, jnp.asarray(labels)))
    soft = lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    moved = np.abs(unit(own) - unit(frozen)).mean(-1)
    told = np.abs(unit(words) - unit(teacher)).mean()
    kept = (soft(old) * np.log(soft(old) / soft(logits))).sum(-1) / 3
    wanted = entropy(logits, labels) + 10 * moved + 25 * told + kept
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_the_teacher_is_the_scaled_classes_of_the_weights_that_the_program_has():
    features = MODEL.frozen["texts"].features
    np.testing.assert_allclose(class_features(MODEL.frozen), unit(features), rtol=1e-5)
    program = reprogram(MODEL.forward, {"text/features": with_teacher()})
    params = program.init(KEY, MODEL.frozen, X)
    look = record(program.apply, ["text/features/teacher"])
    y, seen = look(params, MODEL.frozen, X)
    np.testing.assert_allclose(
        seen["text/features/teacher"], 10 * unit(features), rtol=1e-4
    )
    np.testing.assert_allclose(y, MODEL.forward(MODEL.frozen, X), rtol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_agreeing_sgd_leaves_out_what_goes_against_the_second_gradient(sign):
    first, second = jnp.array([1.0, 2.0]), sign * jnp.array([3.0, 0.0])
    params = {
        "words": jnp.array([0.5, -1.0]),
        "text/features": {"which": jnp.zeros(())},
    }
    grads = {"words": first, "text/features": {"which": jnp.zeros(())}}

    def value(params):  # its gradient is the second one only where it is asked for
        return params["text/features"]["which"] * (second @ params["words"])

    wanted = first if sign > 0 else jnp.array([0.0, 2.0])
    steps: list[Any] = []
    for make, own in ((agreeing_sgd, first), (sgd_by_epochs, wanted)):
        optimizer: Any = optax.with_extra_args_support(make(0.1, 1, 2))
        state, given = optimizer.init(params), {**grads, "words": own}
        for _ in range(2):  # the first epoch hardly moves
            moved, state = optimizer.update(given, state, params, value_fn=value)
        steps.append(moved["words"])
    np.testing.assert_allclose(*steps, rtol=1e-6)


def test_image_by_image_stacks_the_texts_of_one_image_after_the_other():
    seen = {}

    def look(site, value):
        if site in ("text/input", "text/embed:out"):
            seen[site] = value.value
        return value

    y = image_by_image(MODEL.forward)(MODEL.frozen, X, edit=look)
    ids = MODEL.frozen["texts"].tokens.value
    assert seen["text/embed:out"].shape[0] == len(X) * len(ids)
    table = MODEL.frozen["text"]["params"]["embed"]["embedding"]
    np.testing.assert_array_equal(
        seen["text/embed:out"], np.concatenate([table[ids]] * len(X))
    )
    np.testing.assert_allclose(y, MODEL.forward(MODEL.frozen, X), rtol=1e-4, atol=1e-5)


def test_the_first_layers_are_those_of_the_embeddings_and_the_blocks_behind():
    text, image = first_layers(MODEL, 2)
    assert text == ("text/embed:out", "text/block_1:in")
    assert image == ("image/norm_before:in", "image/block_1:in")
    assert first_layers(MODEL, 9) == (text, image), "as many as the towers have"
    with pytest.raises(ValueError, match="got a depth of 0 layers, expected at least"):
        first_layers(MODEL, 0)


def test_coupled_image_prompts_are_linear_maps_of_the_text_prompts_of_their_layer():
    part = coupled(2, 2, learnable(constant(0.5)))
    patches, words = jnp.asarray(rows(1, 5, WIDE)), jnp.asarray(rows(3, 6, WIDTH))
    texts = tokens(jnp.ones((3, 6), jnp.int32))._replace(value=words)
    specs = {"a": texts, "b": texts, "c": patches, "d": patches}
    params = part.init(KEY, specs, Scope(key=KEY, frozen=()))
    own = params.learnable
    np.testing.assert_array_equal(own["prompts"][0], np.full((2, WIDTH), 0.5))
    own = own | {"bias": jnp.asarray(rows(2, WIDE)), "kernel": rows(2, WIDTH, WIDE)}
    at = lambda i, v: part.apply(Params(own), v, Scope(index=i, frozen=()))
    for layer, site in ((0, 2), (1, 3)):
        words = at(layer, texts).value[:, 1:3]
        np.testing.assert_allclose(words[0], own["prompts"][layer], rtol=1e-6)
        wanted = np.asarray(own["prompts"])[layer] @ own["kernel"][layer]
        ends = at(site, patches)[0, -2:]
        np.testing.assert_allclose(ends, wanted + own["bias"][layer], rtol=1e-4)
    assert at(2, patches).shape[1] == 7 and at(3, patches).shape[1] == 5


def test_names_and_words_of_the_template():
    check_classes(MODEL, 3)
    with pytest.raises(ValueError, match="got 4 classes and small clip with 3 names"):
        check_classes(MODEL, 4)
    given = learnable(constant(1.0))
    assert template_words(MODEL, 2, given, "test") is given
    fmt = template_words(MODEL, 2, None, "test")
    first = fmt.init(KEY, (2, WIDTH), Scope(frozen=MODEL.frozen)).learnable
    table = MODEL.frozen["text"]["params"]["embed"]["embedding"]
    np.testing.assert_array_equal(
        first, table[MODEL.frozen["texts"].tokens.value[0, 1:3]]
    )


def test_a_head_at_rest_answers_one_in_a_hundred_and_spreads_as_published():
    head = head_at_rest(8)
    features = rows(4, 4000)
    own = head.init(KEY, features, Scope(key=KEY, frozen=())).learnable
    np.testing.assert_allclose(jax.nn.sigmoid(own["bias"]), np.full(8, 0.01), rtol=1e-5)
    assert own["kernel"].shape == (4000, 8)
    np.testing.assert_allclose(np.std(own["kernel"]), (2 / 8) ** 0.5, rtol=0.02)


def test_the_query_is_of_the_model_without_prompts():
    told = []

    def tell(params, value, scope):
        told.append(scope.context)
        return value.at[..., 0].add(3.0)

    moved = Manipulation(lambda key, value, scope: Params(), tell)
    site = MODEL.roles["embedding"][0]
    to_size = resize(MODEL.input.size)
    program = reprogram(MODEL.forward, {"input": to_size, site: moved})
    asked = asking(program, MODEL, to_size)
    params = asked.init(KEY, MODEL.frozen, X)
    told.clear()
    y = asked.apply(params, MODEL.frozen, X)
    wanted = until(MODEL.forward, MODEL.roles["features"][0])(MODEL.frozen, X)
    np.testing.assert_allclose(told[-1], wanted, rtol=1e-5)
    assert wanted.shape == (2, JOINT)
    assert np.abs(y - MODEL.forward(MODEL.frozen, X)).max() > 0.01, "the prompt acts"
