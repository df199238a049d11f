"""What a run refuses, and what it takes, before it is wrong in silence."""

from typing import Any

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from fitting import FROZEN, PROGRAM, TASK, outcome, split, train

from reprojax import reprogram, stateless
from reprojax.alignments import bayesian
from reprojax.core import chain
from reprojax.data import Split
from reprojax.data.checks import whole, whole_seed
from reprojax.data.order import outline
from reprojax.formats import learnable
from reprojax.operators import add
from reprojax.training import metrics, steps
from reprojax.training.losses import Rows, Seen
from reprojax.training.population import fit_population

LONG = TASK._replace(train=split(36, 4))


def own(seen: Seen) -> Any:
    """As a user writes it, who knows of no fillers."""
    return optax.softmax_cross_entropy_with_integer_labels(seen.output, seen.labels)


def averaged(seen: Seen) -> Any:
    return own(seen).mean()


def weighed(seen: Seen) -> Rows:
    return Rows(own(seen), jnp.array([1.0, 5.0, 0.2])[seen.labels])


@pytest.mark.parametrize("batch", [20, 25])
def test_a_loss_of_ones_own_does_not_train_on_fillers(batch):
    given = {"task": LONG, "batch": batch, "epochs": 1}
    assert outcome(train(**given, loss=own)) == outcome(train(**given))
    with pytest.raises(ValueError, match=r"one number.*of 2\d\).*without .mean"):
        train(**given, loss=averaged)


def test_a_single_number_is_allowed_where_nothing_fills():
    given = {"task": LONG, "batch": 18, "epochs": 1}
    found, expected = train(**given, loss=averaged), train(**given, loss=own)
    np.testing.assert_allclose(found.curves, expected.curves, rtol=1e-6)
    with pytest.raises(ValueError, match="accumulate=2 cuts a batch"):
        train(**given, loss=averaged, accumulate=2)


def test_class_weights_in_parts_are_those_of_the_whole_batch():
    given = {"task": LONG, "batch": 25, "loss": weighed}
    whole, parts = train(**given), train(**given, accumulate=3)
    np.testing.assert_allclose(
        whole.last.learnable["normalized"],
        parts.last.learnable["normalized"],
        atol=1e-5 * np.abs(whole.last.learnable["normalized"]).max(),
    )


# -- optimisers


PLATEAU = optax.chain(optax.sgd(5.0), optax.contrib.reduce_on_plateau(patience=1))


@pytest.mark.parametrize("optimizer", [PLATEAU, optax.lbfgs()])
def test_optimisers_that_want_the_loss_get_it(optimizer):
    curve = train(optimizer=optimizer, batch=10, epochs=4, refresh="once").curves[:, 0]
    assert curve[-1] < curve[0]


def test_what_an_optimiser_cannot_have_is_refused():
    with pytest.raises(ValueError, match=r"pair, take an average of params.*evaluated"):
        train(optimizer=optax.lookahead(optax.sgd(0.1), 2, 0.5))
    with pytest.raises(ValueError, match="line search and got accumulate=2"):
        train(optimizer=optax.lbfgs(), accumulate=2)


def test_the_params_that_are_named_are_evaluated_and_selected():
    free = optax.contrib.schedule_free_sgd(0.5, b1=0.5)
    named = {"optimizer": free, "evaluated": optax.contrib.schedule_free_eval_params}
    found, plain = train(**named), train(optimizer=free)
    near = found.last.learnable["normalized"]
    assert np.abs(near - plain.last.learnable["normalized"]).max() > 1e-4
    reached = steps.evaluate(PROGRAM, found.last, FROZEN, TASK.test, 4)
    assert found.score["last"] == reached
    one = fit_population(
        *(PROGRAM, FROZEN, TASK),
        **{"epochs": 3, "batch": 4, "seeds": [0], "how": "loop", "progress": False},
        **named,
    )
    np.testing.assert_array_equal(one[0].last.learnable["normalized"], near)
    with pytest.raises(ValueError, match="evaluated gives"):
        train(optimizer=free, evaluated=lambda state, learnable: state)


# -- numbers


def test_a_search_for_nan_stops_no_healthy_run():
    with jax.debug_nans(True):
        train(epochs=2)
        given = {"epochs": 2, "batch": 4, "seeds": [0, 1], "progress": False}
        fits = fit_population(PROGRAM, FROZEN, TASK, optimizer=fitting.SGD, **given)
    assert all(np.isfinite(fitted.curves).all() for fitted in fits)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_frozen_weights_that_are_not_finite_are_named(bad):
    kernel = np.full((96, fitting.SOURCES), bad, np.float32)
    head = FROZEN["params"]["head"] | {"kernel": kernel}
    frozen = {"params": FROZEN["params"] | {"head": head}}
    with pytest.raises(ValueError, match="frozen weights.*'params/head/kernel'"):
        train(frozen=frozen)


def test_first_params_that_are_not_finite_are_named():
    prompt = add(learnable(jnp.full((8, 8, 3), jnp.nan)))
    at = {"normalized": chain(prompt=prompt), "output": bayesian(3)}
    with pytest.raises(ValueError, match="params of the program.*normalized/prompt"):
        train(program=reprogram(fitting.FORWARD, at))


def test_answers_and_losses_that_are_not_finite_are_not_the_learning_rates_fault():
    broken = {"head:out": stateless(lambda y: y * jnp.nan), "output": bayesian(3)}
    with pytest.raises(ValueError, match="statistics of the training images.*output"):
        train(program=reprogram(fitting.FORWARD, broken))
    infinite = lambda seen: jnp.inf * seen.output.sum(-1)
    with pytest.raises(ValueError, match="the learning rate is not the cause"):
        train(loss=infinite)


def test_rows_of_data_that_are_not_finite_are_named():
    values = np.zeros((10, 2), np.float32)
    values[7, 1] = np.nan
    task = TASK._replace(train=Split(values, TASK.train.y), holds="hidden")
    with pytest.raises(ValueError, match="train: row 7 holds NaN"):
        outline(task, 1)


def test_an_answer_of_nan_is_no_class():
    rows = jnp.array([[1.0, 2], [jnp.nan, 0], [jnp.inf, 0], [-jnp.inf, 0]])
    np.testing.assert_array_equal(metrics.chosen(rows), [1, -2, -2, 1])


# -- settings


@pytest.mark.usefixtures("unchecked")
def test_settings_of_numpy_are_numbers():
    given = {"epochs": np.float32(1), "batch": np.int64(4), "seed": np.int64(3)}
    found = train(**given, accumulate=np.int32(1))
    assert outcome(found) == outcome(train(epochs=1, batch=4, seed=3))


@pytest.mark.parametrize("value", [1.5, "20", True, -1, float("nan"), None, 0])
def test_what_is_no_setting_is_refused_by_name(value):
    with pytest.raises(ValueError, match="got epochs="):
        whole("epochs", value, least=1)


def test_a_seed_that_jax_would_cut_is_refused():
    assert whole_seed(np.uint32(2**32 - 1)) == 2**32 - 1
    for seed in (-1, 2**32):  # the key of 2**32 is that of 0
        with pytest.raises(ValueError, match="got seed="):
            whole_seed(seed)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda seen: seen.output.argmax(-1) != seen.labels,
            "type bool.*no gra",
        ),
        (lambda seen: own(seen) + 0j, "type complex64"),
        (
            lambda seen: seen.recorded["conv:out"],
            r"asks for 'conv:out'.*record_sites=\('conv:out',\)",
        ),
        (
            lambda seen: Rows(own(seen), -(seen.labels + 1.0)),
            "negative",
        ),
    ],
)
def test_losses_that_have_no_gradient_no_value_or_no_mean_are_refused(loss, said):
    with pytest.raises(ValueError, match=said):
        train(epochs=1, loss=loss)
