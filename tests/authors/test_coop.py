"""CoOp beside a second implementation, a name at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from coop import METHOD, coop
from small_towers import NAMES, PAIR, embedded, placed, seen, shapes, through
from walk import descend, walk

TASK = shapes()
X, Y, _ = TASK.train
SITE, LENGTH = "text/embed:out", 2
SHAPES = {False: (LENGTH, 8), True: (NAMES, LENGTH, 8)}


def texts(prompt, at=1):
    """The unit vectors of all names [T F]."""
    rows = jnp.broadcast_to(prompt, (NAMES, LENGTH, 8))
    join = lambda name, p: jnp.concatenate([name[:at], p, name[at:]])
    each = lambda *row: through(placed(join(*row)), "text")
    return jax.vmap(each)(embedded(), rows)


def logits(prompt, x=X, at=1):
    image = jax.vmap(lambda x: through(seen(x), "image"))(jnp.asarray(x))
    return 5 * image @ texts(prompt, at).T


@pytest.mark.parametrize("each", [False, True])
def test_the_words_stand_behind_the_first_and_before_the_name(each):
    program = coop(PAIR, targets=NAMES, length=LENGTH, each=each)
    params = program.init(jax.random.key(0), PAIR.frozen, X)
    assert params.learnable[SITE].shape == SHAPES[each]
    draw = np.random.default_rng(4).normal(size=SHAPES[each])
    prompt = jnp.asarray(draw, jnp.float32)
    params = params._replace(learnable={SITE: prompt})
    found = jax.jit(program.apply)(params, PAIR.frozen, X)
    np.testing.assert_allclose(found, jax.jit(logits)(prompt), atol=2e-5)
    for wrong in (0, 3):  # in front of all; behind the name
        other = jax.jit(logits, static_argnums=2)(prompt, X, wrong)
        assert not np.allclose(found, other, atol=0.01)


@pytest.mark.parametrize("each", [False, True])
def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path, each):
    program = coop(PAIR, targets=NAMES, length=LENGTH, each=each)
    first = program.init(jax.random.key(0), PAIR.frozen, X)

    def cost(learnable):
        y = jax.nn.log_softmax(logits(learnable[SITE]))
        return -y[jnp.arange(len(Y)), Y].mean()

    settings = {"optimizer": optax.sgd(0.2), "epochs": 50, "batch": len(Y)}
    settings |= {"params": first, "arguments": {"length": LENGTH, "each": each}}
    says = "learnable embedding concatenative -> identity"
    fitted = walk(METHOD, PAIR, TASK, tmp_path, says, **settings)[2]
    losses, last = descend(cost, first.learnable, 0.2)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-3)
    found = fitted.last.learnable[SITE]
    np.testing.assert_allclose(found, last[SITE], rtol=1e-2, atol=1e-3)
    assert losses[-1] < 0.95 * losses[0]


def test_the_first_epoch_is_slow():
    optimizer = METHOD.preset.optimizer(0.5, 3, 2)
    state, moved = optimizer.init(jnp.zeros(())), []
    for _ in range(4):
        step, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        moved.append(float(-step))
    np.testing.assert_allclose(moved[:3], [1e-5, 1.9e-5, 2.71e-5], rtol=1e-5)
    assert moved[3] > 0.5
