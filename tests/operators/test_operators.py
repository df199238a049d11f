"""How a prompt meets a value: arrays by index; images against PIL."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.nn.initializers import normal, zeros
from PIL import Image

from reprojax import Params, Scope, chain, stateless
from reprojax.core import STEP, TAIL, tokens
from reprojax.formats import fixed, from_context, learnable
from reprojax.operators import (
    add,
    crop,
    dropout,
    flip,
    frame,
    insert,
    mlp,
    network,
    pad,
    replace,
    resize,
    scale_and_shift,
)
from reprojax.operators.additive import cast_like, rows
from reprojax.operators.concatenative import insert_rows

KEY = jax.random.key(0)
soft = learnable(normal(1.0))
random = np.random.default_rng(0)
SEQUENCE = jnp.asarray(random.normal(size=(2, 5, 3)), jnp.float32)
PHOTO = jnp.asarray(random.uniform(size=(2, 8, 6, 3)), jnp.float32)


EVALUATION = Scope()


def run(manipulation, value, scope=EVALUATION):
    """Its params, and what it makes of a value."""
    params = manipulation.init(KEY, jax.eval_shape(lambda: value), scope)
    return params, manipulation.apply(params, value, scope)


# -- add


def test_add_is_value_plus_prompt():
    params, out = run(add(soft), PHOTO)
    assert params.learnable.shape == (8, 6, 3)
    np.testing.assert_array_equal(out, PHOTO + params.learnable)


def test_add_to_the_first_rows():
    params, out = run(add(soft, 2), SEQUENCE)
    assert params.learnable.shape == (2, 3)
    np.testing.assert_allclose(
        out[:, :2] - SEQUENCE[:, :2], [params.learnable] * 2, rtol=1e-4
    )
    np.testing.assert_array_equal(out[:, 2:], SEQUENCE[:, 2:])
    with pytest.raises(ValueError, match=r"add\(length=9, at=0\) needs 9 .* has 5"):
        run(add(soft, 9), SEQUENCE)
    params, out = run(add(soft, 2, at=1), SEQUENCE)
    moved = np.zeros(SEQUENCE.shape) + np.pad(params.learnable, [(1, 2), (0, 0)])
    np.testing.assert_allclose(out - SEQUENCE, moved, atol=1e-6)
    with pytest.raises(ValueError, match=r"add\(length=2, at=4\) needs 6 .* has 5"):
        run(add(soft, 2, at=4), SEQUENCE)


def test_add_a_prompt_for_each_row():
    each = jnp.asarray(random.normal(size=(2, 5, 3)), jnp.float32)
    _, out = run(add(from_context()), SEQUENCE, Scope(context=each))
    np.testing.assert_array_equal(out, SEQUENCE + each)
    _, out = run(add(from_context(), 5), SEQUENCE, Scope(context=each))
    np.testing.assert_array_equal(out, SEQUENCE + each)


@pytest.mark.parametrize(
    ("widths", "box"),
    [((2,), (2, 2, 2, 2)), ((1, 2), (1, 1, 2, 2)), (((0, 3), (1, 2)), (0, 3, 1, 2))],
)
def test_a_frame_is_the_outside_of_a_box(widths, box):
    top, bottom, left, right = box
    expected = np.ones((1, 8, 6, 3), bool)
    expected[:, top : 8 - bottom, left : 6 - right] = False
    np.testing.assert_array_equal(frame(*widths)(PHOTO.shape), expected)


def test_a_frame_over_a_series():
    """The first three of ten steps."""
    mask = frame((3, 0), 0)((2, 10, 1))[0, :, 0]
    np.testing.assert_array_equal(mask, [True] * 3 + [False] * 7)


def test_pixels_inside_a_frame_never_move():
    params, out = run(add(learnable(normal(100.0)), mask=frame(2)), PHOTO)
    np.testing.assert_array_equal(out[:, 2:-2, 2:-2], PHOTO[:, 2:-2, 2:-2])
    assert (out != PHOTO).any(axis=(0, -1))[:2].all()


def test_a_mask_does_not_enlarge_the_program():
    """An array in a closure becomes text; an iota of the shape does not."""
    image = jnp.zeros((1, 224, 224, 3))
    array = np.ones((1, 224, 224, 1), np.float32)
    array[:, 30:-30, 30:-30] = 0
    inside, beside = add(soft, mask=lambda shape: array), add(soft, mask=frame(30))
    params = beside.init(KEY, image, Scope())

    def text(m):
        apply = lambda p, v: m.apply(p, v, Scope())
        return len(jax.jit(apply).lower(params, image).as_text())

    same = (m.apply(params, image, Scope()) for m in (inside, beside))
    np.testing.assert_array_equal(*same)
    assert text(beside) < text(inside) / 20


# -- concatenative


@pytest.mark.parametrize("at", [0, 1, 5, None, -2])
def test_insert_before_a_row_or_behind_the_end(at):
    params, out = run(insert(soft, 2, at), SEQUENCE)
    i = {None: 5, -2: 3}.get(at, at)
    expected = np.insert(SEQUENCE, [i] * 2, params.learnable, axis=1)
    np.testing.assert_array_equal(out, expected)


def test_insert_before_the_last_tokens_wherever_the_padding_is():
    ids, weight = jnp.array([[0, 5, 6, 7], [5, 6, 7, 8]]), jnp.ones((2, 4))
    x = tokens(ids, weight.at[0, 0].set(0))
    m = insert(fixed(jnp.array([1, 2])), 2, at=-1)
    out = m.apply(m.init(KEY, x, Scope()), x, Scope())
    order = np.argsort(np.where(out.weight > 0, out.position, -1), axis=1)
    found = np.take_along_axis(np.asarray(out.value), order, 1)
    np.testing.assert_array_equal(found, [[0, 5, 6, 1, 2, 7], [5, 6, 7, 1, 2, 8]])
    query = x._replace(span=TAIL)
    moved = insert(fixed(jnp.array([1, 2])), 2, at=-5)
    with pytest.raises(ValueError, match="behind a shared head, expected the last 5"):
        moved.apply(moved.init(KEY, query, Scope()), query, Scope())
    step = x._replace(span=STEP)
    later = m.apply(m.init(KEY, step, Scope()), step, Scope())
    np.testing.assert_array_equal(later.position, x.position + 2)


def test_insert_token_ids():
    ids = jnp.arange(8).reshape(2, 4)
    _, out = run(insert(fixed(jnp.array([7, 9])), 2, at=1), ids)
    np.testing.assert_array_equal(out, [[0, 7, 9, 1, 2, 3], [4, 7, 9, 5, 6, 7]])
    assert out.dtype == ids.dtype


def test_insert_a_prompt_for_each_row():
    each = jnp.asarray(random.normal(size=(2, 3, 3)), jnp.float32)
    _, out = run(insert(from_context(), 3), SEQUENCE, Scope(context=each))
    np.testing.assert_array_equal(out, np.concatenate([each, SEQUENCE], 1))


def test_insert_past_the_end_is_refused():
    with pytest.raises(ValueError, match=r"insert\(at=6\) needs 6 rows"):
        run(insert(soft, 2, at=6), SEQUENCE)


def test_replace_overwrites_rows():
    params, out = run(replace(soft, 2, at=1), SEQUENCE)
    expected = np.array(SEQUENCE)
    expected[:, 1:3] = params.learnable
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(ValueError, match="replace.* needs 6 rows"):
        run(replace(soft, 5, at=1), SEQUENCE)


def test_replace_takes_the_last_rows_of_an_array():
    own = replace(fixed(jnp.ones((2, 3))), 2, at=None)
    value = jnp.zeros((4, 5, 3))
    params = own.init(jax.random.key(0), value, Scope())
    found = own.apply(params, value, Scope())
    np.testing.assert_array_equal(found[:, -2:], 1)
    np.testing.assert_array_equal(found[:, :-2], 0)
    with pytest.raises(ValueError, match="got Tokens, expected an array"):
        own.init(jax.random.key(0), tokens(jnp.zeros((4, 5), int)), Scope())


def test_insert_then_replace_is_insert():
    """VPT-deep: the second layer's prompt stands where the first one's came out."""
    both = chain(first=insert(soft, 2, at=1), second=replace(soft, 2, at=1))
    params, out = run(both, SEQUENCE)
    second = Params(params.learnable["second"])
    only = insert(soft, 2, at=1).apply(second, SEQUENCE, Scope())
    np.testing.assert_array_equal(out, only)


def test_padding_puts_the_image_in_a_border():
    params, out = run(pad(soft, 2), PHOTO)
    assert out.shape == (2, 12, 10, 3)
    np.testing.assert_array_equal(out[:, 2:-2, 2:-2], PHOTO)
    edge = np.asarray(frame(2)(out.shape))[0]
    np.testing.assert_array_equal(out[1][edge], params.learnable[edge])


def test_padding_by_sides():
    _, out = run(pad(learnable(zeros), (1, 0), (0, 3)), PHOTO)
    expected = np.pad(PHOTO, ((0, 0), (1, 0), (0, 3), (0, 0)))
    np.testing.assert_array_equal(out, expected)


def test_padding_with_overlap_adds_on_the_image_too():
    params, out = run(pad(soft, 2, overlap=True), PHOTO)
    expected = np.pad(PHOTO, ((0, 0), (2, 2), (2, 2), (0, 0))) + params.learnable
    np.testing.assert_allclose(out, expected, rtol=1e-6)


# -- parametric


def test_scale_and_shift_starts_as_nothing():
    params, out = run(scale_and_shift(), SEQUENCE)
    np.testing.assert_array_equal(out, SEQUENCE)
    scale, shift = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, -1.0, 1.0])
    moved = Params({"scale": scale, "shift": shift})
    found = scale_and_shift().apply(moved, SEQUENCE, Scope())
    np.testing.assert_allclose(found, SEQUENCE * scale + shift, rtol=1e-6)


def test_dropout_keeps_the_mean():
    value = jnp.ones(20_000)
    m = dropout(0.3)
    np.testing.assert_array_equal(m.apply(Params(), value, Scope()), value)
    out = m.apply(Params(), value, Scope(key=KEY))
    np.testing.assert_allclose([out.mean(), (out == 0).mean()], [1, 0.3], atol=0.02)
    with pytest.raises(ValueError, match="0 <= rate < 1"):
        dropout(1.0)


def test_mlp_is_two_layers_without_bias():
    params, out = run(mlp(4), SEQUENCE[0])
    down, up = params.learnable["down"], params.learnable["up"]
    expected = np.tanh(np.asarray(SEQUENCE[0] @ down)) @ up
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-6)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)


def test_a_network_shows_its_new_statistics():
    """In evaluation the stored ones are used; in training the batch's, and a tap."""
    m, shown = network(Normed()), {}
    params = m.init(KEY, jax.eval_shape(lambda: SEQUENCE), Scope())
    assert set(params.learnable) == set(params.fixed["batch_stats"]) == {"BatchNorm_0"}
    stored = m.apply(params, SEQUENCE, Scope())
    np.testing.assert_allclose(stored, SEQUENCE, rtol=1e-4)

    def tap(name, value):
        shown[name] = value
        return value

    trained = m.apply(params, SEQUENCE, Scope(key=KEY, tap=tap))
    np.testing.assert_allclose(trained.mean((0, 1)), 0, atol=1e-5)
    assert jax.tree.structure(shown["fixed"]) == jax.tree.structure(params.fixed)
    found = shown["fixed"]["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(found, 0.5 * SEQUENCE.mean((0, 1)), rtol=1e-4, atol=1e-6)


# -- images


def test_resize_against_pil():
    """Up and down, bilinear with antialiasing, as PIL does it."""
    image = random.uniform(size=(24, 24)).astype(np.float32)
    for size in (11, 24, 40):
        _, out = run(resize(size), jnp.asarray(image)[None, :, :, None])
        again = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        for channel in range(3):
            np.testing.assert_allclose(
                out[0, ..., channel], np.asarray(again), atol=2e-5
            )


def test_resize_takes_bytes_and_floats():
    image = random.integers(0, 256, (2, 9, 7, 3), np.uint8)
    m = resize(5)
    of_bytes = m.apply(Params(), jnp.asarray(image), Scope())
    of_floats = m.apply(Params(), jnp.asarray(image / 255, jnp.float32), Scope())
    np.testing.assert_allclose(of_bytes, of_floats, atol=1e-6)
    assert of_bytes.dtype == jnp.float32 and of_bytes.shape == (2, 5, 5, 3)
    assert 0 <= of_bytes.min() and of_bytes.max() <= 1
    np.testing.assert_allclose(m.apply(Params(), image, Scope()), of_bytes, atol=1e-6)


def test_resize_to_its_own_size_is_exact():
    image = random.integers(0, 256, (2, 6, 6, 3), np.uint8)
    out = resize(6).apply(Params(), jnp.asarray(image), Scope())
    np.testing.assert_array_equal(out, jnp.asarray(image, jnp.float32) / 255)


def test_resize_stays_within_pixels():
    """A cubic kernel overshoots at an edge."""
    step = jnp.zeros((1, 8, 8, 3)).at[:, :, 4:].set(1.0)
    out = resize(31, "cubic").apply(Params(), step, Scope())
    assert out.min() == 0 and out.max() == 1


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 2), (1, 8, 8, 4)])
def test_resize_refuses_what_is_no_image(shape, unchecked):
    with pytest.raises(ValueError, match="resize got a value of shape .* C = 1 or 3"):
        resize(4).apply(Params(), jnp.zeros(shape), Scope())


def test_resize_refuses_other_types():
    with pytest.raises(ValueError, match="images of int32, expected uint8"):
        resize(4).apply(Params(), jnp.zeros((1, 8, 8, 3), jnp.int32), Scope())


def test_crop_in_evaluation_is_the_centre():
    out = crop(4).apply(Params(), PHOTO, Scope())
    np.testing.assert_array_equal(out, PHOTO[:, 2:6, 1:5])


def test_crop_in_training_is_a_window_of_each_image():
    many = jnp.asarray(random.uniform(size=(40, 8, 6, 3)), jnp.float32)
    out = np.asarray(crop(4).apply(Params(), many, Scope(key=KEY)))
    seen = set()
    for image, cut in zip(np.asarray(many), out, strict=True):
        windows = {
            (top, left): image[top : top + 4, left : left + 4]
            for top in range(5)
            for left in range(3)
        }
        found = [at for at, window in windows.items() if np.array_equal(window, cut)]
        assert len(found) == 1
        seen.add(found[0])
    assert {top for top, _ in seen} == set(range(5))
    assert {left for _, left in seen} == set(range(3))
    with pytest.raises(ValueError, match=r"crop\(7\) got images .* at least 7 x 7"):
        crop(7).apply(Params(), PHOTO, Scope())


def test_flip_mirrors_half_of_the_images_in_training():
    many = jnp.asarray(random.uniform(size=(200, 3, 4, 1)), jnp.float32)
    np.testing.assert_array_equal(flip().apply(Params(), many, Scope()), many)
    out = np.asarray(flip().apply(Params(), many, Scope(key=KEY)))
    same = (out == np.asarray(many)).all((1, 2, 3))
    mirrored = (out == np.asarray(many)[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(same, ~mirrored)
    assert 0.35 < mirrored.mean() < 0.65


# -- types and shapes


@pytest.mark.parametrize(
    "m",
    [
        add(soft),
        add(soft, 2),
        add(soft, mask=frame(1)),
        insert(soft, 2),
        replace(soft, 2),
        pad(soft, 1, 0),
        pad(soft, 1, 0, overlap=True),
        scale_and_shift(),
        chain(a=dropout(0.5), b=add(soft)),
    ],
)
def test_bfloat16_stays(m):
    value = SEQUENCE.astype(jnp.bfloat16)
    params = m.init(KEY, value, Scope())
    assert m.apply(params, value, Scope(key=KEY)).dtype == jnp.bfloat16


def test_a_float_prompt_over_bytes_is_refused():
    with pytest.raises(ValueError, match="prompt of float32 for a value of uint8"):
        run(add(soft), jnp.zeros((2, 4, 4, 3), jnp.uint8))
    _, out = run(
        chain(size=resize(4), mark=add(soft)), jnp.zeros((2, 4, 4, 3), jnp.uint8)
    )
    assert out.dtype == jnp.float32


def test_numpy_values_are_taken_as_they_come():
    for m in (add(soft), add(soft, 2), insert(soft, 2), replace(soft, 2)):
        params = m.init(KEY, SEQUENCE, Scope())
        found = m.apply(params, np.asarray(SEQUENCE), Scope())
        np.testing.assert_array_equal(found, m.apply(params, SEQUENCE, Scope()))


def test_wrong_shapes_are_caught():
    with pytest.raises(jaxtyping.TypeCheckError):
        insert_rows(jnp.zeros((2, 1, 4)), SEQUENCE, 0)  # another width
    with pytest.raises(jaxtyping.TypeCheckError):
        insert_rows(jnp.zeros((3, 1, 3)), SEQUENCE, 0)  # another batch
    with pytest.raises(jaxtyping.TypeCheckError):
        flip().apply(Params(), SEQUENCE, Scope())  # no image
    with pytest.raises(jaxtyping.TypeCheckError):
        scale_and_shift().apply(Params({"scale": 1, "shift": 0}), 1.0, Scope())
    with pytest.raises(ValueError, match=r"expected \(1, 3\), or one for"):
        rows(jnp.zeros((3, 1, 3)), SEQUENCE)
    assert cast_like(1, SEQUENCE).dtype == jnp.float32
    assert stateless(abs).apply(Params(), -1, Scope()) == 1


@pytest.mark.parametrize("shape", ((1,), (1, 3), (4, 3)))
def test_a_prompt_of_another_width_or_batch_is_never_broadcast(shape):
    m = add(learnable(jax.nn.initializers.zeros))
    with pytest.raises(ValueError, match=r"expected \(3,\), or one for each"):
        m.apply(Params(jnp.ones(shape)), jnp.zeros((2, 3)), Scope())


def test_a_vector_has_no_rows_to_replace():
    m = replace(learnable(jax.nn.initializers.zeros), 1)
    with pytest.raises(ValueError, match="expected rows of vectors"):
        m.init(KEY, jax.ShapeDtypeStruct((2, 3), jnp.float32), Scope())
