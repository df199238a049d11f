"""Voice2Series beside a second implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import voice2series
from small_models import WAVE, wave_logits
from walk import descend, walk

from reprojax import data

LENGTH, EACH = 12, 3
DRAW = np.random.default_rng(2)
Y = np.arange(30) % 3
X = (
    DRAW.normal(size=(30, LENGTH, 1))
    + np.sin(np.arange(LENGTH) * (1 + Y[:, None]))[..., None]
)
TASK = data.from_arrays(X.astype(np.float32), Y, list("abc"), holds="series")
ARGUMENTS = {"length": LENGTH, "each": EACH, "rate": 0.0}


def by_hand(theta, x, masked=True):
    """log of mean probabilities [B 3]: Pad(x) + M theta, M where no series is."""
    rows = []
    for row in x:
        wave = jnp.zeros((32, 1)).at[:LENGTH].set(row)
        free = jnp.arange(32)[:, None] >= LENGTH if masked else 1
        rows.append(wave + free * theta)
    p = jax.nn.softmax(wave_logits(jnp.stack(rows)))
    label = [p[:, EACH * t : EACH * (t + 1)].sum(1) / EACH for t in range(3)]
    return jnp.log(jnp.stack(label, 1))


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    x, y, _ = TASK.train
    settings = {"optimizer": optax.sgd(0.5), "epochs": 50, "batch": len(y)}
    program, _, fitted = walk(
        voice2series.METHOD,
        WAVE,
        TASK,
        tmp_path,
        "learnable input concatenative -> rule",
        arguments=ARGUMENTS,
        **settings,
    )
    params = program.init(jax.random.key(0), WAVE.frozen, x)
    (theta,) = jax.tree.leaves(params.learnable)
    theta = theta + 0.5
    params = jax.tree.map(lambda a: a + 0.5, params)
    found = jax.jit(program.apply)(params, WAVE.frozen, x)
    np.testing.assert_allclose(found, by_hand(theta, x), rtol=1e-4, atol=1e-5)
    # the likeliest mistake, which the published code makes: a prompt on the series
    assert not np.allclose(found, by_hand(theta, x, masked=False), atol=1e-3)

    def cost(theta):
        logits = jax.nn.log_softmax(by_hand(theta, x))
        entropy = -logits[jnp.arange(len(y)), y].mean()
        return entropy + 0.05 * (theta**2).sum()

    losses, last = descend(cost, theta - 0.5, 0.5)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-4)
    (learned,) = jax.tree.leaves(fitted.last.learnable)
    np.testing.assert_allclose(learned, last, rtol=1e-3, atol=1e-5)
    assert losses[-1] < losses[0]
