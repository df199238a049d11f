"""The embedded pair: its card, its file, and that it does what the card says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.train_glyphs.drawing import FIGURES
from experiments.train_sketches import captions
from experiments.train_sketches.__main__ import (
    Config,
    batches,
    contrast,
    zero_shot,
)
from reprojax.core import sites, tokens
from reprojax.models import image_text
from reprojax.models.image_text.sketches import WEIGHTS, sketches_card, towers
from reprojax.models.image_text.towers import roles

PAIR = image_text.load("sketches")


def test_the_file_is_small_and_its_card_whole():
    card = sketches_card()
    assert WEIGHTS.stat().st_size < 3e6
    assert (
        card["words"] == captions.words()
        and card["left_out"] == captions.unseen_names()
    )
    for name in ("figures", "unseen", "text_of_image", "image_of_text"):
        assert card[name] > card[f"{name}_random"] + 0.4, name
    # its 64 numbers an image keep what captions say, and less of other strokes
    assert card["probe_digits"] < card["probe_digits_random"]
    assert image_text.names() == ("sketches",)


def test_its_sites_are_those_of_any_pair():
    model = image_text.classifier(PAIR, ["arrow"], ["a {}"])
    found = set(sites(model.forward, model.frozen, model.input.example()))
    wanted = roles(towers(captions.words())[0])
    assert PAIR.image.roles.keys() == wanted.keys()
    for role, its in model.roles.items():
        assert set(its) <= found, role
        if role in wanted and role != "features":
            assert {s.removeprefix("image/") for s in its} == set(wanted[role])


@pytest.mark.parametrize(
    "given", [{"tokenizer": None}, {"ignore": ["width"]}, {"revision": "main"}]
)
def test_what_it_does_not_read_is_refused(given):
    with pytest.raises(ValueError, match=rf"got \['{[*given][0]}'\], expected none"):
        image_text.load("sketches", **given)


def test_it_names_figures_and_pairs_that_it_has_never_seen():
    card = sketches_card()
    drawn = captions.draw(np.random.default_rng(5), 320)
    found = zero_shot(PAIR, drawn.images, drawn.figure, [*FIGURES])
    assert abs(found - card["figures"]) < 0.12  # 4 standard errors of so many images


def test_colours_are_told_apart_too():
    drawn = captions.draw(np.random.default_rng(6), 256)
    names = [*captions.COLOURS]
    texts = {n: [f"a {n} {figure}" for figure in ("box", "moon")] for n in names}
    model = image_text.classifier(PAIR, names, sentences=texts)
    answers = np.asarray(model.forward(model.frozen, drawn.images).argmax(-1))
    assert (answers == drawn.colour).mean() > 0.6


def test_bfloat16_gives_about_the_same():
    half = image_text.load("sketches", dtype=jnp.bfloat16)
    drawn = captions.draw(np.random.default_rng(7), 32)
    y = [
        model.forward(model.frozen, drawn.images)
        for model in (image_text.classifier(p, [*FIGURES]) for p in (PAIR, half))
    ]
    assert y[1].dtype == jnp.bfloat16
    np.testing.assert_allclose(y[0], np.float32(y[1]), atol=1.0)


def test_a_step_of_training_lowers_the_loss_and_equal_captions_are_all_right():
    image, text = towers(captions.words())
    x, ids, weight = next(batches(Config(batch=32), np.random.default_rng(0)))
    own = {
        "image": image.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))),
        "text": text.init(jax.random.key(1), tokens(jnp.zeros((1, 16), jnp.int32))),
        "scale": jnp.log(10.0),
    }
    cost = jax.jit(lambda own, text: contrast(own, PAIR, x, text))
    text = tokens(ids, weight)
    value, slope = cost(own, text), jax.grad(cost)(own, text)
    lower = cost(jax.tree.map(lambda a, g: a - 0.01 * g, own, slope), text)
    assert lower < value and abs(value - np.log(32)) < 1.5
    first = lambda a: jnp.broadcast_to(a[:1], a.shape)
    # all captions are equal, so all answers are right and hardly anything is learned
    same = cost(own, tokens(first(ids), first(weight)))
    assert same == pytest.approx(np.log(32), abs=0.05)
