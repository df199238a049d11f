"""AutoPrompt beside a second implementation, a candidate at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from autoprompt import METHOD, autoprompt, best, search
from small_words import WORDS, states, texts
from walk import walk

from reprojax.data import order
from reprojax.models.language import Special, Words

SETS = [[1, 5, 9], [2, 6, 10]]
TASK = texts(tasks=1)
BANNED = [i for ids in SETS for i in ids]
SETTINGS = {"steps": 9, "batch": 8, "most": 2, "gather": 1, "banned": BANNED}
PROGRAM = autoprompt(WORDS, sets=SETS, length=2, start=3)
EMBED = np.asarray(WORDS.frozen["embed"])


def surprise(vectors, ids, label):
    """-log of the label's words' probability, with triggers of these vectors [P D]."""
    h = states(jnp.concatenate([vectors, jnp.asarray(EMBED)[ids]]))[-1]
    odds = jnp.exp(h @ EMBED.T)
    return -jnp.log(odds[jnp.array(SETS)[label]].sum() / odds.sum())


MEAN = jax.jit(
    lambda vectors, ids, y: jax.vmap(surprise, (None, 0, 0))(vectors, ids, y).mean()
)
SLOPE = jax.jit(jax.grad(MEAN))


def real(turn, step):
    """Ids and labels of a batch, without what fills it."""
    x, y, _ = order.batch(TASK.train, SETTINGS["batch"], turn, step)
    return x.value[y >= 0], y[y >= 0]


def by_hand(sign=-1, always=False):
    """The triggers of each round, and the losses that chose them."""
    trigger, draw, found = np.array([3, 3]), np.random.default_rng(0), []
    for turn in range(SETTINGS["steps"]):
        (x, y), (x2, y2) = (real(turn, k) for k in (0, 1))
        place = draw.integers(2)
        gain = sign * EMBED @ np.asarray(SLOPE(EMBED[trigger], x, y))[place]
        gain[BANNED] = -np.inf
        scores = {}
        if not always:
            scores[tuple(trigger)] = MEAN(EMBED[trigger], x2, y2)
        for word in np.argsort(-gain)[: SETTINGS["most"]]:
            other = trigger.copy()
            other[place] = word
            scores[tuple(other)] = MEAN(EMBED[other], x2, y2)
        trigger = np.array(min(scores, key=scores.get))
        found.append(trigger)
    return np.stack(found)


def test_each_round_takes_the_best_candidate_on_new_rows():
    rounds = list(search(PROGRAM, WORDS, TASK, **SETTINGS))
    found = np.stack([params.learnable["input"] for params in rounds])
    np.testing.assert_array_equal(found, by_hand())
    assert not np.array_equal(found, by_hand(sign=1))  # uphill
    assert not np.array_equal(found, by_hand(always=True))  # the old one never stays
    x, y, _ = TASK.train
    fell = [MEAN(EMBED[ids], x.value, y) for ids in (np.array([3, 3]), found[-1])]
    assert fell[1] < fell[0] - 0.1
    chosen = best(PROGRAM, WORDS, TASK, 8, rounds)
    x, y, _ = TASK.validation
    right = [np.mean(answers(ids, x.value) == y) for ids in found]
    np.testing.assert_array_equal(
        chosen.learnable["input"], found[int(np.argmax(right))]
    )


def answers(trigger, ids):
    label = jnp.arange(2)
    both = jax.vmap(surprise, (None, None, 0))
    each = jax.vmap(lambda row: both(EMBED[trigger], row, label))
    return np.asarray(each(jnp.asarray(ids))).argmin(1)


def test_a_masked_model_answers_at_its_mask():
    special = Special(mask=29)
    masked = WORDS._replace(input=Words("masked", 30, 64, special=special))
    program = autoprompt(masked, sets=SETS, length=2)
    ids = np.minimum(TASK.train.x.value, 28)
    ids[:, 3] = 29
    x = TASK.train.x._replace(value=ids)
    params = program.init(jax.random.key(0), WORDS.frozen, x)
    np.testing.assert_array_equal(params.learnable["input"], [29, 29])
    found = program.apply(params, WORDS.frozen, x)
    until = [surprise(EMBED[[29, 29]], ids[0, :4], label) for label in (0, 1)]
    np.testing.assert_allclose(-found[0], until, rtol=1e-4)


def test_the_way(tmp_path):
    def train(program):
        return best(program, WORDS, TASK, 8, search(program, WORDS, TASK, **SETTINGS))

    says = "learnable input concatenative -> rule"
    arguments = {"sets": SETS, "length": 2, "start": 3}
    walk(METHOD, WORDS, TASK, tmp_path, says, arguments=arguments, train=train)
