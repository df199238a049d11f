"""AutoPrompt: trigger words by the gradient, and by what they then do.

Shin et al., arXiv 2010.15980. The triggers stand in front; a masked model answers at
its mask, another one behind the end.
"""

import jax
import jax.numpy as jnp
import numpy as np

from reprojax import Format, Params, chain, record, reprogram
from reprojax.alignments import at_mask, last
from reprojax.core import stateless, tokens
from reprojax.data import order
from reprojax.models import role
from reprojax.models.language import Words
from reprojax.operators import insert
from reprojax.recipes import Method, needs
from reprojax.training.steps import evaluate


def words(start):
    """Learned ids [P], all of them `start` at first."""
    init = lambda key, shape, scope: Params(jnp.full(shape, start, jnp.int32))
    return Format(init, lambda params, value, scope: params.learnable)


@needs(Words, "embedding")
def autoprompt(model, align=None, *, sets=(), length=3, start=None):
    """So many triggers; a class is the words of its set, by the sum of their
    probabilities.

    Args:
        start: the first id of all triggers, by default the mask, or 0.
    """
    mask = model.input.special.mask
    there = {} if mask is None else {"mask": at_mask(mask)}
    of_sets = lambda y: jnp.stack([y[:, list(ids)] for ids in sets], 1)
    log_sums = lambda y: jax.nn.logsumexp(of_sets(jax.nn.log_softmax(y)), -1)
    align = align or chain(**there, last=last(), sets=stateless(log_sums))
    start = (mask or 0) if start is None else start
    return reprogram(model.forward, {"input": insert(words(start), length)}, align)


def search(program, model, task, steps, batch, most=100, gather=30, banned=(), seed=0):
    """180 rounds in the paper: one trigger at random, its `most` candidates by the
    gradient of `gather` batches, the best of them if it is better on as many new ones.

    Yields:
        the params of each round; validation chooses, as `best` does.
    """
    (site,) = role(model, "embedding")
    every = jnp.arange(model.input.vocabulary)
    look = record(model.forward, [site])
    table = look(model.frozen, tokens(every[:, None]))[1][site].value[:, 0]
    params = program.init(jax.random.key(seed), model.frozen, task.train.x)
    put = lambda ids: params._replace(learnable=params.learnable | {"input": ids})
    draw = np.random.default_rng(seed)

    def loss(ids, x, y, moved=None):
        def edit(name, v):
            if name != site or moved is None:
                return v
            return v._replace(value=v.value.at[:, : len(ids)].add(moved))

        found = program.apply(put(ids), model.frozen, x, edit=edit)
        return -(found[jnp.arange(len(y)), y] * (y >= 0)).sum()

    @jax.jit
    def slope(ids, x, y):
        return jax.grad(loss, 3)(ids, x, y, jnp.zeros((len(ids), table.shape[1])))

    losses = jax.jit(jax.vmap(loss, (0, None, None)))
    for turn in range(steps):
        ids = params.learnable["input"]
        rows = [order.batch(task.train, batch, turn, k)[:2] for k in range(2 * gather)]
        place = int(draw.integers(len(ids)))
        down = -table @ sum(slope(ids, *row)[place] for row in rows[:gather])
        down = down.at[jnp.array([*banned], jnp.int32)].set(-jnp.inf)
        candidates = jax.lax.top_k(down, min(most, len(table) - len(banned)))[1]
        tried = jnp.tile(ids, (len(candidates) + 1, 1))
        tried = tried.at[1:, place].set(candidates)
        found = sum(losses(tried, *row) for row in rows[gather:])
        params = put(tried[found.argmin()])
        yield params


def best(program, model, task, batch, rounds):
    """Of the params of all rounds those of the highest validation accuracy."""
    score = lambda p: evaluate(program, p, model.frozen, task.validation, batch)
    return max(rounds, key=score)


METHOD = Method(
    "autoprompt",
    autoprompt,
    source="arXiv 2010.15980, ucinlp/autoprompt",
    enters="in front of the words",
)
