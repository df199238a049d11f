"""describe() against the survey's table: what each method is, typed here by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import normal, zeros
from toys import (
    DECODER_FROZEN,
    DENSE_FROZEN,
    IDS,
    IMAGES,
    MIXER_FROZEN,
    ROWS,
    TEXT,
    TEXT_FROZEN,
    VIT,
    VIT_FROZEN,
    decoder,
    dense,
    mixer,
    table,
)

from reprojax import (
    Format,
    Manipulation,
    Params,
    chain,
    informed,
    passthrough,
    reprogram,
    shared,
    stateless,
    until,
)
from reprojax.alignments import (
    bayesian,
    columns,
    groups,
    identity,
    linear,
    one_to_one,
    random_map,
)
from reprojax.core import tokens
from reprojax.formats import fixed, from_context, learnable, subspace, through
from reprojax.operators import (
    add,
    crop,
    frame,
    insert,
    pad,
    replace,
    resize,
    scale_and_shift,
)
from reprojax.taxonomy import Cell, cells, describe, grid

soft = learnable(normal(1.0))
grey = jnp.zeros((4, 8, 8, 1), jnp.uint8)
small = IMAGES[:, :8, :8]


def affine():
    """A user's own operator, by its parts."""

    def init(key, value, scope):
        return Params({"a": jnp.ones(value.shape[-1]), "b": jnp.zeros(value.shape[-1])})

    def apply(params, value, scope):
        return params.learnable["a"] * value + params.learnable["b"]

    return Manipulation(init, apply)


def gate():
    def init(key, value, scope):
        return Params(jnp.zeros(value.shape[-1]))

    def apply(params, value, scope):
        return jax.nn.sigmoid(params.learnable) * value

    return Manipulation(init, apply)


def intervention(rank=2):
    """LoReFT's form: only a subspace of the value is overwritten."""

    def init(key, value, scope):
        keys = jax.random.split(key)
        shape = (rank, value.shape[-1])
        return Params([jax.random.normal(k, shape) for k in keys])

    def apply(params, value, scope):
        onto, into = params.learnable
        return value.at[:, 0].add((value[:, 0] @ into.T - value[:, 0] @ onto.T) @ onto)

    return Manipulation(init, apply)


def rewritten(size=12):
    """R2DL's form: the embedding is looked up anew, in mixtures of the frozen table."""

    def init(key, value, scope):
        shape = (30, table(scope.frozen).shape[0])
        return Params(jax.random.normal(key, shape))

    def apply(params, value, scope):
        return (params.learnable @ table(scope.frozen))[scope.x]

    return Manipulation(init, apply)


canvas = stateless(lambda x: jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0))))
bordered = chain(canvas=canvas, border=add(soft, mask=frame(4)))
clip = stateless(lambda v: jnp.clip(v, 0, 1))
normalise = stateless(lambda v: (v - 0.5) / 0.2)
tanh = stateless(jnp.tanh)

IMAGE_METHODS = {
    "watermark": (
        {"input": add(learnable(zeros), mask=frame(4)), "output": columns([0, 1, 2])},
        IMAGES,
        "learnable input additive -> rule",
    ),
    "watermark, drawn in uint8": (
        {"input": chain(size=resize(16), mark=add(learnable(zeros)))},
        grey,
        "learnable input additive -> identity",
    ),
    "watermark after normalisation": (
        {"input": chain(mark=add(soft), normalise=normalise)},
        IMAGES,
        "learnable input additive -> identity",
    ),
    "watermark, clipped": (
        {"input": chain(mark=add(soft), clip=clip)},
        IMAGES,
        "learnable input additive -> identity",
    ),
    "padding": (
        {"input": pad(learnable(zeros), 4), "output": one_to_one(3)},
        small,
        "learnable input concatenative -> statistical",
    ),
    "padding, resized from uint8, through a sigmoid": (
        {
            "input": chain(
                size=resize(8),
                border=pad(through(soft, stateless(jax.nn.sigmoid)), 4),
            ),
            "output": bayesian(3),
        },
        jnp.zeros((4, 5, 5, 3), jnp.uint8),
        "learnable input concatenative -> statistical",
    ),
    "padding, the prompt on the image too": (
        {"input": pad(soft, 4, overlap=True)},
        small,
        "learnable input additive -> identity",
    ),
    "canvas and frame": (
        {"input": bordered, "output": random_map(3)},
        small,
        "learnable input concatenative -> statistical",
    ),
    "a fixed border": (
        {"input": pad(fixed(jnp.ones((16, 16, 3))), 4)},
        small,
        "fixed input concatenative -> identity",
    ),
    "a resize alone": ({"input": resize(16)}, grey, "no prompt -> identity"),
    "a resize to the nearest pixel": (
        {"input": resize(16, "nearest"), "output": groups([[0, 1], [2]])},
        grey,
        "no prompt -> rule",
    ),
    "an empty canvas": ({"input": canvas}, small, "no prompt -> identity"),
    "crop": (
        {"input": chain(size=resize(20), cut=crop(16)), "output": identity()},
        grey,
        "no prompt -> identity",
    ),
    "a linear probe": ({"output": linear(3)}, IMAGES, "no prompt -> linear"),
    "scale and shift": (
        {"block_1:out": scale_and_shift()},
        IMAGES,
        "learnable hidden parametric -> identity",
    ),
    "a user's affine operator": (
        {"block_1:out": affine()},
        IMAGES,
        "learnable hidden parametric -> identity",
    ),
    "a gate": (
        {"block_1:out": gate()},
        IMAGES,
        "learnable hidden parametric -> identity",
    ),
    "an intervention in a subspace": (
        {"block_1:in": intervention()},
        IMAGES,
        "learnable hidden parametric -> identity",
    ),
    "VPT-deep": (
        {
            "block_0:in": insert(soft, 2, at=1),
            "block_1:in": replace(soft, 2, at=1),
            "output": linear(3),
        },
        IMAGES,
        "learnable embedding concatenative + learnable hidden concatenative -> linear",
    ),
    "one prompt in every block": (
        {("block_0:in", "block_1:in"): shared(add(soft))},
        IMAGES,
        "learnable embedding additive + learnable hidden additive -> identity",
    ),
}


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_methods_for_images(name):
    at, x, expected = IMAGE_METHODS[name]
    program = reprogram(mixer, at)
    found = describe(program, MIXER_FROZEN, x, embedding=["block_0:in"])
    assert found.coordinates == expected


TEXT_METHODS = {
    "in context": (
        {"input": insert(fixed(jnp.array([7, 8, 9])), 3), "output": columns([1, 2])},
        "fixed input concatenative -> rule",
    ),
    "a template in the code": (
        {"input": stateless(lambda ids: jnp.pad(ids, ((0, 0), (2, 0))))},
        "fixed input concatenative -> identity",
    ),
    "prompt tuning": (
        {"embed:out": insert(soft, 2), "output": columns([1, 2])},
        "learnable embedding concatenative -> rule",
    ),
    "prompt tuning in a subspace": (
        {"embed:out": insert(subspace(2, soft), 2)},
        "learnable embedding concatenative -> identity",
    ),
    "steering at hand": (
        {"block_0:out": add(fixed(jnp.ones((6, 8))))},
        "fixed hidden additive -> identity",
    ),
    "vocabulary, rewritten": (
        {"embed:out": rewritten()},
        "learnable embedding parametric -> identity",
    ),
}


@pytest.mark.parametrize("name", TEXT_METHODS)
def test_methods_for_text(name):
    at, expected = TEXT_METHODS[name]
    found = describe(reprogram(TEXT, at), TEXT_FROZEN, IDS, embedding=["embed:out"])
    assert found.coordinates == expected


DECODER_METHODS = {
    "in context": (
        {"input": insert(fixed(jnp.array([7, 8, 9])), 3)},
        "fixed input concatenative -> identity",
    ),
    "a soft prompt": (
        {"embed:out": insert(soft, 3)},
        "learnable embedding concatenative -> identity",
    ),
    "a soft prompt behind": (
        {"embed:out": insert(soft, 3, at=None)},
        "learnable embedding concatenative -> identity",
    ),
    "in place of placeholders": (
        {"embed:out": replace(soft, 3)},
        "learnable embedding concatenative -> identity",
    ),
    "steering": ({"hidden": add(soft)}, "learnable hidden additive -> identity"),
    "an update of the first tokens": (
        {"hidden": add(soft, 3)},
        "learnable hidden additive -> identity",
    ),
    "scale and shift": (
        {"hidden": scale_and_shift(), "output": stateless(lambda y: y.value.mean(1))},
        "learnable hidden parametric -> rule",
    ),
}


@pytest.mark.parametrize("name", DECODER_METHODS)
def test_methods_for_tokens(name):
    at, expected = DECODER_METHODS[name]
    program = reprogram(decoder, at)
    found = describe(program, DECODER_FROZEN, tokens(IDS), embedding=["embed:out"])
    assert found.coordinates == expected


def test_a_prompt_that_comes_with_the_call():
    program = reprogram(mixer, {"input": add(from_context()), "block_1:in": add(soft)})
    prompt = jnp.ones((16, 16, 3))
    found = describe(program, MIXER_FROZEN, IMAGES, prompt)
    assert found.rows[0][1:4] == ("fixed", "input", "additive")


def test_shapes_are_enough():
    program = reprogram(mixer, {"input": add(soft), "output": bayesian(3)})
    shapes = jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)
    of_shapes = describe(program, MIXER_FROZEN, shapes)
    assert of_shapes == describe(program, MIXER_FROZEN, IMAGES)


def test_roles_of_a_card_name_the_locations():
    def forward(frozen, x, edit=passthrough):
        rename = lambda site, v: edit("normalized" if site == "input" else site, v)
        return mixer(frozen, edit("input", x) - 0.5, edit=rename)

    program = reprogram(
        forward, {"normalized": add(soft), "block_0:in": insert(soft, 1)}
    )
    roles = {"input": ("input", "normalized"), "embedding": ("block_0:in",)}
    found = describe(program, MIXER_FROZEN, IMAGES, roles=roles)
    assert [row.location for row in found.rows] == ["input", "embedding"]
    without = describe(program, MIXER_FROZEN, IMAGES, inputs=["input"])
    assert [row.location for row in without.rows] == ["hidden", "hidden"]


def test_a_model_that_is_cut_at_its_features():
    program = reprogram(until(mixer, "head:in"), {"output": linear(3)})
    found = describe(program, MIXER_FROZEN, IMAGES)
    assert found.coordinates == "no prompt -> linear"
    assert found.learnable == 12 * 3 + 3


def test_a_program_over_a_program():
    inner = reprogram(mixer, {"input": pad(soft, 4)})
    forward = functools.partial(
        inner.apply, inner.init(jax.random.key(0), MIXER_FROZEN, small)
    )
    outer = reprogram(forward, {"input/raw": add(soft), "output": linear(2)})
    found = describe(outer, MIXER_FROZEN, small)
    assert found.coordinates == (
        "fixed input concatenative + learnable input additive -> linear"
    )
    assert [(row.site, row.shapes, row.acting, row.fixed) for row in found.rows] == [
        ("input/raw", ((8, 8, 3),), 192, 0),
        ("input", ((16, 16, 3),), 0, 768),  # the inner one's: nobody searches it now
        ("output", ((2,), (10, 2)), 22, 0),
    ]


def test_rows_of_a_group_count_its_params_once():
    at = {
        ("block_0:in", "block_1:in"): shared(insert(soft, 2)),
        "output": random_map(3),
    }
    found = describe(reprogram(mixer, at), MIXER_FROZEN, IMAGES)
    assert [(row.site, row.shapes, row.learnable) for row in found.rows] == [
        ("block_0:in", ((2, 12),), 24),
        ("block_1:in", (), 0),
        ("output", ((10, 3),), 0),
    ]
    assert found.learnable == 24 and found.rows[2].fixed == 30


def test_each_site_of_a_group_has_its_own_numbers():
    def own(key, specs, scope):
        return Params({site: jnp.zeros(spec.shape[1:]) for site, spec in specs.items()})

    def apply(params, value, scope):
        return value + params.learnable[scope.site]

    at = {("block_0:in", "block_1:in"): Manipulation(own, apply)}
    found = describe(reprogram(mixer, at), MIXER_FROZEN, IMAGES)
    assert found.learnable == found.acting == 2 * 4 * 12


COUNTED = {
    "no mask": (add(soft), 16 * 16 * 3),
    "a frame": (add(soft, mask=frame(3)), (16 * 16 - 10 * 10) * 3),
    "a frame, clipped": (
        chain(mark=add(soft, mask=frame(3)), clip=clip),
        (16 * 16 - 10 * 10) * 3,
    ),
    "a border": (
        chain(cut=crop(8), border=pad(soft, 4)),
        (16 * 16 - 8 * 8) * 3,
    ),
    "a saturating prompt": (add(through(soft, tanh), mask=frame(1)), 60 * 3),
    "a resize": (resize(16), 0),
    "ids": (
        stateless(lambda x: x),
        0,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_numbers_that_act(name):
    manipulation, expected = COUNTED[name]
    found = describe(reprogram(mixer, {"input": manipulation}), MIXER_FROZEN, IMAGES)
    assert found.acting == expected


def test_learned_ids_all_count():
    ids = Format(
        lambda key, shape, scope: Params(jnp.zeros(shape, jnp.int32)),
        lambda params, value, scope: params.learnable,
    )
    found = describe(reprogram(TEXT, {"input": insert(ids, 3)}), TEXT_FROZEN, IDS)
    assert found.coordinates == "learnable input concatenative -> identity"
    assert found.learnable == found.acting == 3


def test_the_published_count_of_visual_prompting():
    """Bahng et al. (arXiv 2203.17274): a border of 30 on 224 has 69,840 numbers."""
    forward = lambda frozen, x, edit=passthrough: edit(
        "output", edit("input", x).mean()
    )
    program = reprogram(forward, {"input": add(learnable(zeros), mask=frame(30))})
    found = describe(program, (), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert found.acting == 69_840 and found.learnable == 150_528


def test_arguments_of_a_module():
    """ "<path>:call" carries flags among arrays; only its params say something."""
    at = {"head:call": stateless(lambda call: call), "input": add(soft)}
    found = describe(reprogram(VIT, at), VIT_FROZEN, IMAGES)
    assert found.rows[0].operator == ""


def test_the_table_is_aligned_and_complete():
    at = {"hidden": add(soft), "output": linear(2)}
    text = str(describe(reprogram(dense, at), DENSE_FROZEN, ROWS))
    assert text == "\n".join(
        [
            "learnable hidden additive -> linear",
            "site    format     location  operator  shapes  learnable  fixed",
            "hidden  learnable  hidden    additive  7               7      0",
            "output  learnable  output    linear    2, 5x2         12      0",
            "total                                                 19      0",
        ]
    )
    masked = reprogram(
        dense, {"hidden": add(soft, mask=lambda shape: np.arange(7) < 2)}
    )
    assert "7 (2 act)" in str(describe(masked, DENSE_FROZEN, ROWS))


def test_numbers_act_that_only_training_moves():
    """A choice by argmax: its derivative is that of the mixture it is trained by."""

    def init(key, value, scope):
        return Params(jnp.zeros((3, value.shape[-1])))

    def apply(params, value, scope):
        rows = params.learnable
        soft = jax.nn.softmax(rows.sum(1)) @ rows
        return soft + 0 * value if scope.key is not None else jnp.ones_like(value)

    found = describe(
        reprogram(dense, {"hidden": Manipulation(init, apply)}), DENSE_FROZEN, ROWS
    )
    assert found.acting == found.learnable == 21


def test_the_cells_and_what_stands_in_them():
    found = cells(
        {
            "a": "learnable input additive -> statistical",
            "b": "learnable input parametric + learnable hidden additive -> rule",
            "c": "no prompt -> statistical",
            "d": "fixed hidden parametric + learnable input additive -> statistical",
        }
    )
    assert len(found) == 72
    filled = {cell: names for cell, names in found.items() if names}
    assert filled == {
        Cell("learnable", "input", "additive", "statistical"): ["a", "d"],
        Cell("learnable", "input", "parametric", "rule"): ["b"],
        Cell("learnable", "hidden", "additive", "rule"): ["b"],
        Cell("fixed", "hidden", "parametric", "statistical"): ["d"],
    }
    lines = grid(found).splitlines()
    assert len(lines) == 2 + 18
    assert lines[2] == "| learnable input additive | – | – | a, d | – |"
    assert lines[-1] == "| fixed hidden parametric | – | – | d | – |"


def test_a_program_stands_in_the_cells_that_describe_observes():
    at = {("block_0:in", "block_1:in"): shared(add(soft)), "output": linear(3)}
    seen = describe(reprogram(mixer, at), MIXER_FROZEN, IMAGES)
    found = cells({"one": seen.coordinates})
    assert [cell for cell, names in found.items() if names] == [
        Cell("learnable", "hidden", "additive", "linear")
    ]


def test_coordinates_of_another_kind_are_refused():
    for text in ("learnable pixels additive -> rule", "learnable input additive"):
        with pytest.raises(ValueError, match="pass what Description.coordinates gives"):
            cells({"a": text})


def test_a_wrong_site_is_named():
    with pytest.raises(ValueError, match="no such site"):
        describe(reprogram(mixer, {"block_7:in": add(soft)}), MIXER_FROZEN, IMAGES)


def test_a_program_that_makes_its_own_context():
    """As the same program with that context given; the prompt is the context."""
    program = reprogram(dense, {"hidden": add(from_context()), "output": linear(3)})
    own = informed(program, lambda frozen, x: jnp.tanh(x @ frozen["a"]))
    found = describe(own, DENSE_FROZEN, ROWS)
    given = describe(program, DENSE_FROZEN, ROWS, jnp.ones((4, 7)))
    assert found == given
    assert found.coordinates == "fixed hidden additive -> linear"
    with pytest.raises(ValueError, match="from_context got no context"):
        describe(program, DENSE_FROZEN, ROWS)


def test_a_site_inside_a_loop_is_hidden_whatever_a_card_calls_it():
    """One site for all layers: what enters the first, and every other."""

    def forward(frozen, x, edit=passthrough):
        layer = lambda x, w: (jnp.tanh(edit("blocks:in", x) @ w), None)
        x = jax.lax.scan(jax.checkpoint(layer), edit("input", x), frozen["layers"])[0]
        return edit("output", edit("head:in", x))

    frozen = {"layers": jnp.ones((3, 6, 6))}
    for site, location in (("blocks:in", "hidden"), ("head:in", "embedding")):
        program = reprogram(forward, {site: add(soft)})
        found = describe(program, frozen, ROWS, embedding=[site])
        assert found.coordinates == f"learnable {location} additive -> identity"
