"""TPT (arXiv 2209.07511) beside its official code.

The wrong variants: all views count; the mean of entropies; other views at each step;
an image that starts from the one before.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contexts import X, Y, model, official
from small_pairs import WIDTH, pictures

from reprojax.recipes.prompt_tuning import tpt
from reprojax.recipes.prompt_tuning.tuning_at_test_time import (
    mean_entropy,
    surest,
    tuned,
    views,
)
from reprojax.testing import contract
from reprojax.training.losses import Seen

MODEL, SITE = model("a photo of a {}."), "text/embed:out"
PROGRAM, VIEWS = tpt(MODEL), pictures(40, 21)
START = PROGRAM.init(jax.random.key(0), MODEL.frozen, X)
WANTED = official()["tpt"]


def test_the_start_is_zero_shot_and_the_surest_views_are_the_official_ones():
    logits = PROGRAM.apply(START, MODEL.frozen, VIEWS)
    np.testing.assert_allclose(
        logits, MODEL.forward(MODEL.frozen, VIEWS), rtol=1e-4, atol=1e-5
    )
    chosen = surest(logits, 0.1)
    np.testing.assert_array_equal(chosen, WANTED["selected"])
    assert len(surest(logits[:5], 0.1)) == 1
    loss = mean_entropy(Seen({"output": logits[chosen]}, jnp.zeros(4, int)))
    np.testing.assert_allclose(loss, WANTED["one"]["losses"][0], rtol=1e-5)


def test_a_step_and_sixty_end_where_the_official_code_does():
    words = START.learnable[SITE]
    one = tuned(PROGRAM, START, MODEL.frozen, VIEWS)
    y = PROGRAM.apply(one, MODEL.frozen, VIEWS[:2])
    np.testing.assert_allclose(y, WANTED["one"]["logits"], rtol=1e-3, atol=2e-4)
    # the next image begins where this one did
    np.testing.assert_array_equal(START.learnable[SITE], words)
    fast = optax.adamw(0.05, weight_decay=0.01)
    many = tuned(PROGRAM, START, MODEL.frozen, VIEWS, steps=60, optimizer=fast)
    y = PROGRAM.apply(many, MODEL.frozen, VIEWS[:2])
    np.testing.assert_allclose(y, WANTED["sixty"]["logits"], rtol=1e-2, atol=1e-2)
    assert WANTED["sixty"]["losses"][-1] < 0.6 * WANTED["sixty"]["losses"][0]


@pytest.mark.parametrize("steps", [1, 20, 40])
def test_the_loss_of_a_step_is_the_official_one(steps):
    fast = optax.adamw(0.05, weight_decay=0.01)
    params = tuned(PROGRAM, START, MODEL.frozen, VIEWS, steps=steps, optimizer=fast)
    chosen = VIEWS[np.array(WANTED["selected"])]
    seen = Seen({"output": PROGRAM.apply(params, MODEL.frozen, chosen)}, jnp.zeros(4))
    wanted = WANTED["sixty"]["losses"][steps]
    np.testing.assert_allclose(mean_entropy(seen), wanted, rtol=2e-3)


def test_views_are_the_image_and_crops_of_it():
    rows, columns = np.mgrid[:20, :24] / 24
    image = np.stack([rows, columns, 0 * rows], -1).astype(np.float32)
    found = np.asarray(views(jax.random.key(3), image, 16, 200))
    assert found.shape == (200, 16, 16, 3)
    crops = found[1:]
    # down an axis pixels grow by a constant, as in the image; some are mirrored
    down = crops[:, 12, 8, 0] - crops[:, 4, 8, 0]
    across = crops[:, 8, 12, 1] - crops[:, 8, 4, 1]
    assert (down > 0).all() and 0.3 < (across < 0).mean() < 0.7
    np.testing.assert_allclose(
        crops[:, 8, 8, 0], crops[:, 4, 8, 0] + down / 2, atol=0.01
    )
    high, wide = down * 2 * 24, np.abs(across) * 2 * 24
    area = high * wide / (20 * 24)
    assert 0.06 < area.min() < 0.2 and 0.75 < area.max() < 1.05
    ratio = wide / high
    assert 0.7 < ratio.min() < 0.85 and 1.15 < ratio.max() < 1.45
    grey = views(jax.random.key(3), np.zeros((9, 9, 1), np.uint8), 16, 3)
    assert grey.shape == (3, 16, 16, 3)


def test_the_contract():
    found = contract(
        PROGRAM,
        MODEL.frozen,
        X[:4],
        jnp.asarray(Y[:4]),
        forward=MODEL.forward,
        shape=(4, 3),
        neutral=lambda params: params,
    )
    assert found.learnable == 4 * WIDTH
