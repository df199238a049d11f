"""(IA)^3 on several labels at once, some of them unknown, beside a loop by hand."""

import ia3
import jax
import jax.numpy as jnp
import molecules
import numpy as np
import optax
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from small_models import INNER
from walk import descend, walk

from reprojax import data
from reprojax.training import metrics

DRAW = np.random.default_rng(3)
X = DRAW.normal(size=(60, 5)).astype(np.float32)
Y = (X[:, :3] * X[:, 1:4] + X[:, 2:] > 0).astype(float)
Y[DRAW.uniform(size=Y.shape) < 0.3] = np.nan
TASK = data.from_arrays(X, Y, list("abc"), holds="numbers", answers="labels")
SAYS = "learnable hidden parametric -> linear"


def logits(learnable, x, statistics):
    own, head = learnable["inner"], learnable["output"]
    h = jnp.tanh(jnp.tanh(x @ INNER.frozen["in"]) * own @ INNER.frozen["out"])
    return (h - statistics[0]) / statistics[1] @ head["kernel"] + head["bias"]


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    x, y, _ = TASK.train
    settings = {"optimizer": optax.sgd(0.5), "epochs": 50, "batch": len(y)}
    walked = walk(ia3.METHOD, INNER, TASK, tmp_path, SAYS, **settings)
    program, params, fitted = walked
    first = program.init(jax.random.key(0), INNER.frozen, x).learnable
    plain = jnp.tanh(jnp.tanh(x @ INNER.frozen["in"]) @ INNER.frozen["out"])
    known = np.argwhere(y >= 0)
    plain = plain[np.unique(known[:, 0])]  # a row of which nothing is known is none
    statistics = plain.mean(0), plain.std(0)

    def cost(learnable, known=known):
        p = jax.nn.sigmoid(logits(learnable, x, statistics))
        said = jnp.stack([p[i, t] if y[i, t] == 1 else 1 - p[i, t] for i, t in known])
        return -jnp.log(said).mean()

    losses, last = descend(cost, first, 0.5)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-4)
    np.testing.assert_allclose(
        fitted.last.learnable["inner"], last["inner"], rtol=1e-3, atol=1e-5
    )
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(first["inner"], 1)  # nothing is edited at first
    # the likeliest mistake: an unknown label is a 0
    assert abs(cost(first, np.argwhere(y > -2)) - losses[0]) > 1e-3
    assert list(fitted.metrics) == ["ROC-AUC"]
    x, y, _ = TASK.test
    said = np.asarray(logits(params.learnable, x, statistics))
    areas = [roc_auc_score(y[y[:, t] >= 0, t], said[y[:, t] >= 0, t]) for t in range(3)]
    np.testing.assert_allclose(fitted.score["test"], np.mean(areas), atol=1e-6)


@pytest.mark.verify
def test_toxicity_of_tox21(tmp_path):
    task = molecules.tox21()
    more = {"metrics": (metrics.f1,)}
    fitted = walk(ia3.METHOD, molecules.CARD, task, tmp_path, SAYS, **more)[2]
    y, known = task.test.y, task.test.y >= 0
    ridge = Ridge(100.0).fit(
        molecules.features(task.train), np.maximum(task.train.y, 0)
    )
    said = ridge.predict(molecules.features(task.test))
    probe = [roc_auc_score(y[known[:, t], t], said[known[:, t], t]) for t in range(12)]
    assert fitted.score["test"] > max(0.75, np.mean(probe)), np.mean(probe)
