"""BAR (arXiv 2007.08714): a frame, several classes a target, an estimated gradient.

The wrong variants: the mean of logits instead of probabilities; a probability that is
made to sum to one over the targets; interleaved label groups, as in the published code;
focal without its power; directions that are not on the sphere, or with another factor.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reprojax import Scope
from reprojax.alignments import mean_probability
from reprojax.recipes import adversarial_reprogramming, find_method
from reprojax.recipes import black_box_reprogramming as bar
from reprojax.recipes.model_reprogramming.black_box_reprogramming import one_sided
from reprojax.training.losses import Seen, balance, focal, mean_loss

BACKBONE, X = backbones.convolutional(), backbones.photos(3)


def softmax(a):
    a = np.exp(a - a.max(1, keepdims=True))
    return a / a.sum(1, keepdims=True)


def test_the_network_gets_the_frame_of_adversarial_reprogramming():
    program = bar(BACKBONE, targets=3, inner=7)
    params = by_hand.drawn(program.init(jax.random.key(0), BACKBONE.frozen, X))
    other = adversarial_reprogramming(BACKBONE, targets=3, inner=7)
    same = params._replace(fixed=params.fixed | {"output": ()})
    start = program.init(jax.random.key(0), BACKBONE.frozen, X)
    assert np.std(jax.tree.leaves(start.learnable)[0]) < 0.02  # near grey
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    frame, _ = by_hand.run(other, same, BACKBONE.frozen, X)
    np.testing.assert_array_equal(seen, frame)


def test_the_answer_is_the_mean_probability_of_the_most_frequent_classes():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    y = random.normal(size=(60, 7)) + 2 * (np.arange(7) % 3 == labels[:, None])
    align = mean_probability(3)
    params = align.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 7), "f4"), Scope())
    sums = align.observe(params, jnp.asarray(y, jnp.float32), jnp.asarray(labels))
    params = align.refresh(params, sums)

    table = np.zeros((7, 3))
    np.add.at(table, (y.argmax(1), labels), 1)
    groups, left = {t: [] for t in range(3)}, table.copy()
    for _ in range(6):  # two classes a target: seven are enough for no more
        s, t = np.unravel_index(left.argmax(), left.shape)
        groups[t].append(s)
        left[s] = -1
        if len(groups[t]) == 2:
            left[:, t] = -1
    wanted = np.stack([softmax(y)[:, groups[t]].mean(1) for t in range(3)], 1)
    given = jnp.asarray(y, jnp.float32)
    found = np.exp(np.asarray(align.apply(params, given, Scope())))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert not by_hand.close(found.sum(1), np.ones(60))  # other classes have a share
    of_logits = softmax(np.stack([y[:, groups[t]].mean(1) for t in range(3)], 1))
    assert not by_hand.close(found, of_logits)


def test_six_classes_a_target_where_there_are_enough():
    align = mean_probability(3)
    shape = jax.ShapeDtypeStruct((1, 40), "f4")
    params = align.init(jax.random.key(0), shape, Scope())
    y = jax.random.normal(jax.random.key(1), (50, 40))
    sums = align.observe(params, y, jnp.arange(50) % 3)
    fixed = np.asarray(align.refresh(params, sums).fixed)
    np.testing.assert_array_equal((fixed > 0).sum(0), [6, 6, 6])
    np.testing.assert_allclose(fixed.sum(0), 1, rtol=1e-6)
    assert (fixed > 0).sum(1).max() == 1
    with pytest.raises(ValueError, match="maps 3 target classes, and the model has 2"):
        align.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 2), "f4"), Scope())


def test_the_focal_loss_weighs_rare_classes_more():
    labels = np.array([0, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(balance(labels, 3), [6 / 15, 6 / 3, 0])
    h = np.array([[0.5, 0.2], [0.3, 0.4], [0.9, 0.05]])
    right, weight = np.array([0.5, 0.4]), np.array([0.4, 2.0])
    wanted = np.mean(-weight * (1 - right) ** 2 * np.log(right))
    seen = {"output": jnp.log(jnp.asarray(h, jnp.float32))}
    loss, rows = find_method("bar").preset.loss(labels, 3), jnp.array([0, 1, -1])
    found = mean_loss(loss(Seen(seen, rows)), rows)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_focal_loss(power):
    h = np.array([[0.6, 0.1], [0.3, 0.2], [0.9, 0.05]])
    labels = np.array([0, 1, 1])
    right = np.array([0.6, 0.2, 0.05])
    wanted = -((1 - right) ** power) * np.log(right)
    seen = {"output": jnp.log(jnp.asarray(h, jnp.float32))}
    found = focal(power)(Seen(seen, jnp.asarray(labels)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_estimate_is_one_sided_on_the_sphere_with_its_dimension():
    search, start = one_sided(), jnp.asarray(np.linspace(-1, 1, 40), jnp.float32)
    state = search.init(jax.random.key(0), start)
    points = search.ask(jax.random.key(1), state)
    away = np.asarray(points - start, np.float64)
    assert points.shape == (26, 40)  # 25 directions and the middle
    np.testing.assert_allclose(away[25], 0, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(away[:25], axis=1), 0.1, rtol=1e-4)
    values = np.asarray(jnp.sin(3 * points).sum(1), np.float64)
    unit, radius, size = away[:25] / 0.1, 0.1, 40
    gradient = np.mean(
        size / radius * (values[:25] - values[25])[:, None] * unit, axis=0
    )
    adam = optax.adam(0.05)
    update, _ = adam.update(jnp.asarray(gradient, jnp.float32), adam.init(start))
    found = search.tell(state, points, jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(found.mean, start + update, atol=1e-5)
    moment = np.asarray(found.opt[0].mu) / 0.1
    np.testing.assert_allclose(moment, gradient, rtol=1e-2, atol=1e-2)


def test_the_rate_falls_every_two_epochs():
    search = one_sided(0.05, steps=2)
    state = search.init(jax.random.key(0), jnp.zeros(1))
    means = [0.0]
    for key in jax.random.split(jax.random.key(1), 10):
        points = search.ask(key, state)
        # A slope of 1 in one dimension: the estimate is it, and Adam moves by its rate.
        state = search.tell(state, points, points[:, 0])
        means.append(float(search.read(state)[0]))
    wanted = [0.05] * 4 + [0.05 * 0.96] * 4 + [0.05 * 0.96**2] * 2
    np.testing.assert_allclose(-np.diff(means), wanted, rtol=1e-3)
