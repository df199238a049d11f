"""Graph prompts beside a second implementation, of all graphs in one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from gpf import METHOD
from small_models import GIN
from walk import descend, walk

from reprojax import data

DRAW = np.random.default_rng(4)


def graphs(count=20, most=6, width=4):
    """Rings and stars of 3 to 6 nodes, with room for 6."""
    x = {"nodes": np.zeros((count, most, width), np.float32)}
    x |= {"edges": np.zeros((count, most, most), np.float32)}
    x |= {"real": np.zeros((count, most), np.float32)}
    y = np.arange(count) % 2
    for i in range(count):
        n = int(DRAW.integers(4, most + 1))
        x["nodes"][i, :n] = DRAW.normal(size=(n, width))
        x["real"][i, :n] = 1
        for a in range(n):
            b = (a + 1) % n if y[i] else 0
            x["edges"][i, a, b] = x["edges"][i, b, a] = a != b
    return data.from_arrays(x, y, ["star", "ring"], holds="graphs")


TASK = graphs()


def every(learnable, x, over=1):
    """Logits [B 2]: all graphs as one of many parts, without room in any."""
    own, head = learnable["nodes"], learnable["output"]
    graph, node = np.nonzero(x["real"])
    nodes, same = x["nodes"][graph, node], graph[:, None] == graph
    edges = x["edges"][graph[:, None], node[:, None], node] * same
    score = jnp.stack([(nodes * b).sum(1) for b in own["a"]], 1)
    share = jnp.exp(score) / jnp.exp(score).sum(over, keepdims=True)
    h = nodes
    for weight, prompt in zip(share.T, own["prompts"], strict=True):
        h = h + weight[:, None] * prompt
    for layer in ("first", "second"):
        h = jax.nn.relu((edges + 1.1 * np.eye(len(h))) @ h @ GIN.frozen[layer])
    total = (graph == np.arange(len(x["real"]))[:, None]).astype(np.float32) @ h
    return total @ head["kernel"] + head["bias"]


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    x, y, _ = TASK.train
    settings = {"optimizer": optax.sgd(0.005), "epochs": 50, "batch": len(y)}
    says = "learnable hidden parametric -> linear"
    settings |= {"arguments": {"count": 3}}
    program, _, fitted = walk(METHOD, GIN, TASK, tmp_path, says, **settings)
    first = program.init(jax.random.key(0), GIN.frozen, x)
    wide = jax.tree.map(lambda a: a * 3 + 0.1, first)
    found = jax.jit(program.apply)(wide, GIN.frozen, x)
    np.testing.assert_allclose(found, every(wide.learnable, x), rtol=1e-4, atol=1e-5)
    # the likeliest mistake: a softmax over the nodes
    wrong = every(wide.learnable, x, over=0)
    assert not np.allclose(found, wrong, atol=0.01)

    def cost(learnable):
        logits = jax.nn.log_softmax(every(learnable, x))
        return -logits[jnp.arange(len(y)), y].mean()

    losses, last = descend(cost, first.learnable, 0.005)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-3)
    learned, wanted = fitted.last.learnable["nodes"], last["nodes"]
    np.testing.assert_allclose(learned["prompts"], wanted["prompts"], atol=2e-3)
    assert losses[-1] < 0.8 * losses[0]
