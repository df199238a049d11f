"""Adapters on a task of numbers, some of them unknown, beside a loop by hand."""

import adapter
import jax
import jax.numpy as jnp
import molecules
import numpy as np
import optax
import pytest
from sklearn.linear_model import Ridge
from small_models import INNER
from walk import descend, walk

from reprojax import data
from reprojax.training import metrics

DRAW = np.random.default_rng(6)
X = DRAW.normal(size=(60, 5)).astype(np.float32)
Y = np.stack([X[:, 0] * X[:, 1], np.abs(X[:, 2])], 1)
Y[DRAW.uniform(size=Y.shape) < 0.2] = np.nan
TASK = data.from_arrays(X, Y, ["product", "size"], holds="numbers", answers="numbers")
SAYS = "learnable hidden parametric -> linear"


def answers(learnable, x, statistics, last=0.0):
    own, head = learnable["inner"], learnable["output"]
    h = jnp.tanh(x @ INNER.frozen["in"])
    down = h @ own["down"]["kernel"] + own["down"]["bias"]
    half = down * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (down + 0.044715 * down**3))) / 2
    h = (1 - last) * h + half @ own["up"]["kernel"] + own["up"]["bias"]
    h = (jnp.tanh(h @ INNER.frozen["out"]) - statistics[0]) / statistics[1]
    return h @ head["kernel"] + head["bias"]


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    x, y, _ = TASK.train
    settings = {"optimizer": optax.sgd(0.1), "epochs": 50, "batch": len(y)}
    settings |= {"arguments": {"width": 3}, "metrics": (metrics.r2,)}
    walked = walk(adapter.METHOD, INNER, TASK, tmp_path, SAYS, **settings)
    program, params, fitted = walked
    first = program.init(jax.random.key(0), INNER.frozen, x)
    middle = params.fixed["output"]
    statistics = middle["mean"], middle["deviation"]
    known = ~np.isnan(y)

    def cost(learnable, last=0.0):
        error = jnp.where(known, answers(learnable, x, statistics, last) - y, 0)
        return (jnp.where(known, error, 0) ** 2).sum() / known.sum()

    y = np.where(known, y, 0)
    losses, last = descend(cost, first.learnable, 0.1)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-4)
    learned, wanted = fitted.last.learnable["inner"], last["inner"]
    np.testing.assert_allclose(
        learned["up"]["kernel"], wanted["up"]["kernel"], rtol=1e-2, atol=1e-5
    )
    assert losses[-1] < 0.9 * losses[0]
    # the likeliest mistake: an adapter without the value that passes it by
    assert abs(cost(first.learnable, last=1.0) - losses[0]) > 0.01
    # validation selects by the squared error, which is lower where it is better
    assert [*fitted.metrics] == ["mean squared error", "R2"]
    assert fitted.score["validation"] == fitted.curves[:, 1].min()
    x, y, _ = TASK.test
    error = answers(params.learnable, x, statistics) - y
    found = fitted.score["test"]
    np.testing.assert_allclose(found, np.nanmean(np.square(error)), rtol=1e-4)


@pytest.mark.verify
def test_solubility_of_esol(tmp_path):
    task = molecules.esol()
    fitted = walk(adapter.METHOD, molecules.CARD, task, tmp_path, SAYS)[2]
    train, test = task.train.y[:, 0], task.test.y[:, 0]
    mean = np.square(test - train.mean()).mean()
    ridge = Ridge(10.0).fit(molecules.features(task.train), train)
    probe = np.square(ridge.predict(molecules.features(task.test)) - test).mean()
    assert fitted.score["test"] < min(0.3 * mean, 1.15 * probe), (mean, probe)
