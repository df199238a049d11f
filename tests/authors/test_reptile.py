"""Reptile beside a loop by hand on a second implementation of the prompt."""

import jax
import jax.numpy as jnp
import numpy as np
from fitting import MEAN, STD, TASK, split
from reptile import METHOD, border, few_steps, reptile
from small_models import NET, net_logits
from walk import walk

from reprojax.data import order

TURNED = TASK._replace(train=TASK.train._replace(y=(TASK.train.y + 1) % 3))
TASKS, SIZES = [TASK, TURNED], {"rounds": 6, "steps": 3, "batch": 4}
PROGRAM = border(NET, targets=3, width=2)
RING = np.ones((8, 8, 1), np.float32)
RING[2:-2, 2:-2] = 0


@jax.jit
def slope(learnable, x, y):
    def cost(own):
        x_in = (x / 255 - MEAN) / STD + RING * own["normalized"]
        out = net_logits(x_in) @ own["output"]["kernel"] + own["output"]["bias"]
        right = jax.nn.log_softmax(out)[jnp.arange(len(y)), y]
        return -(right * (y >= 0)).sum() / (y >= 0).sum()

    return jax.grad(cost)(learnable)


def descended(own, task, turn, last=False):
    """After the steps of a round; or the first params and the last step alone."""
    first = own
    for step in range(SIZES["steps"]):
        x, y, _ = order.batch(task.train, SIZES["batch"], turn, step)
        down = slope(own, jnp.float32(x), y)
        base = first if last else own
        moved = jax.tree.map(lambda a, g: a - 0.1 * g, base, down)
        own = jax.tree.map(lambda a, g: a - 0.1 * g, own, down)
    return moved


def by_hand(own, still=False, last=False):
    for turn in range(SIZES["rounds"]):
        end = descended(own, TASKS[turn % 2], turn, last)
        share = 1 if still else 1 - turn / SIZES["rounds"]
        own = jax.tree.map(lambda a, b, s=share: (1 - s) * a + s * b, own, end)
    return own


def near(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in pairs)


def test_rounds_are_those_of_a_loop_by_hand():
    first = PROGRAM.init(jax.random.key(0), NET.frozen, TASK.train.x[:4]).learnable
    found = reptile(PROGRAM, NET.frozen, TASKS, **SIZES).params.learnable
    assert near(found, by_hand(first))
    assert not near(found, by_hand(first, still=True))  # a share that does not fall
    assert not near(found, by_hand(first, last=True))  # the last step's slope alone
    assert np.abs(found["normalized"]).max() > 1e-3


def test_a_task_to_come_is_learned_faster():
    to_come = TASK._replace(train=split(9, 11))
    x, y, _ = to_come.train
    state = reptile(PROGRAM, NET.frozen, [TASK], rounds=60, steps=5, batch=5)
    plain = state._replace(
        params=PROGRAM.init(jax.random.key(0), NET.frozen, TASK.train.x[:5])
    )

    def cost(state):
        end = few_steps(PROGRAM, NET.frozen, to_come, state, 3, 5, 0)
        out = PROGRAM.apply(end.params, NET.frozen, x)
        return -jax.nn.log_softmax(out)[jnp.arange(len(y)), y].mean()

    assert cost(state) < 0.9 * cost(plain)


def test_the_way(tmp_path):
    train = lambda program: reptile(program, NET.frozen, TASKS, **SIZES).params
    says = "learnable input additive -> linear"
    walk(METHOD, NET, TASK, tmp_path, says, arguments={"width": 2}, train=train)
