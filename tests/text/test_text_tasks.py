"""Texts as Tokens, and `fit` on them.

The wrong variants: a label read off the wrong place, targets one word off, padding that
counts, the filling of a short batch that counts.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_texts import CARD, LETTERS, TOKENIZER

from reprojax.alignments import at_words, bayesian, label_words, last
from reprojax.core import Params, chain
from reprojax.data import Questions, Split, digest, from_texts, order
from reprojax.models.language import Special
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning
from reprojax.text.tasks import encoded, written
from reprojax.training.loop import fit
from reprojax.training.losses import Seen, cross_entropy, mean_loss
from reprojax.training.metrics import accuracy
from reprojax.training.steps import evaluate, observe_scores

TEMPLATE, LABELS = "ill {text}.{label}", ("a", "b")
END = LETTERS.index("\n")
WRITER = CARD._replace(special=Special(eos=(END,)))


def words(count, seed):
    """Words of letters, in two classes."""
    draw = np.random.default_rng(seed)
    y = draw.permutation(np.arange(count) % 2)
    size = lambda: draw.integers(2, 6)
    return ["".join(draw.choice([*("cde", "fgh")[c]], size())) for c in y], y.tolist()


PARTS = {"train": words(37, 0), "validation": words(12, 1), "test": words(12, 2)}
TASK = from_texts(PARTS, ("low", "high"), name="letters")
ENCODED = encoded(CARD, TASK, TEMPLATE, LABELS)
PROGRAM = prompt_tuning(CARD, label_words(ENCODED.words), length=3)
ROWS = tuple({"question": q, "answer": q[0]} for q in PARTS["train"][0][:10])
QUESTIONS = Questions("first letters", ROWS[:6], ROWS[6:8], ROWS[8:])
trained = partial(fit, optimizer=optax.adam(0.1), batch=8, progress=False)


# -- what is read


@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_are_the_templates(side):
    task, found = encoded(CARD, TASK, TEMPLATE, LABELS, side=side)
    assert found == (LETTERS.index("a"), LETTERS.index("b"))
    assert task.holds == "tokens" and task.classes == ("low", "high")
    for name in ("train", "validation", "test"):
        x, y, _ = getattr(task, name)
        plain = getattr(TASK, name)
        np.testing.assert_array_equal(y, plain.y)
        assert x.value.shape == x.weight.shape == (len(y), 10)
        for i, text in enumerate(plain.x):
            real = x.weight[i] > 0
            assert TOKENIZER.decode(x.value[i][real]) == f"ill {text}."
            assert real[-1 if side == "left" else 0]


def test_a_head_reads_a_text_alone():
    found = encoded(CARD, TASK, "{text}", length=7)
    assert found.words == () and found.task.train.x.value.shape[1] == 7


def test_a_masked_model_answers_in_the_masks_place():
    ids = {"[M]": 2, "good": 3, "bad": 4}
    words = lambda text: text.replace("[M]", " [M]").split()
    tokenizer = TOKENIZER._replace(
        encode=lambda text, special=True: [
            *((1,) if special else ()),
            *(ids.get(word, 5) for word in words(text)),
        ],
        token=lambda i: "[M]",
    )
    special = Special(mask=2)
    card = CARD._replace(kind="masked", tokenizer=tokenizer, special=special)
    task, found = encoded(card, TASK, "{text} was {mask}", ("good", "bad"))
    assert found == (3, 4)
    assert task.train.x.value[0].tolist() == [1, 5, 5, 2]
    train = TASK.train._replace(x=np.array([*TASK.train.x[:-1], "a [M] of it"]))
    row = len(train.x) - 1
    with pytest.raises(ValueError, match=f"row {row} of train has 2 mask tokens"):
        encoded(card, TASK._replace(train=train), "{text} was {mask}", ("good", "bad"))


# -- training


def by_hand(program, task, epochs):
    """The same training without `fit`: rows one by one, without padding or filling."""
    params = program.init(jax.random.key(0), CARD.frozen, task.train.x)
    optimizer, learnable = optax.adam(0.1), params.learnable
    opt = optimizer.init(learnable)

    def cost(learnable, x, label):
        y = program.apply(params._replace(learnable=learnable), CARD.frozen, x)
        return -jax.nn.log_softmax(y[0])[label]

    slope = jax.jit(jax.grad(cost))
    for step in range(epochs * order.steps(task.train, 8)):
        x, y, _ = order.batch(task.train, 8, 0, step)
        row = lambda i, x=x: jax.tree.map(lambda a: a[i : i + 1], x)
        real = [i for i in range(len(y)) if y[i] >= 0]
        grads = [slope(learnable, row(i), y[i]) for i in real]
        mean = jax.tree.map(lambda *g: sum(g) / len(g), *grads)
        updates, opt = optimizer.update(mean, opt)
        learnable = optax.apply_updates(learnable, updates)
    return learnable


def test_fit_is_the_plain_loop():
    fitted = trained(PROGRAM, CARD.frozen, ENCODED.task, epochs=2)
    expected = by_hand(PROGRAM, ENCODED.task, 2)
    for a, b in zip(
        jax.tree.leaves(fitted.last.learnable), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_fit_learns_on_either_side_of_padding():
    program = prompt_tuning(CARD, label_words(ENCODED.words), length=8)
    found = []
    for side in ("left", "right"):
        task = encoded(CARD, TASK, TEMPLATE, LABELS, side=side).task
        fitted = trained(program, CARD.frozen, task, epochs=35)
        found.append(fitted.curves)
        assert fitted.curves[-5:, 0].mean() < 0.5 * fitted.curves[0, 0]
        assert fitted.score["validation"] >= 0.75
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-3)


def test_parts_of_a_batch_give_its_gradient():
    whole = trained(PROGRAM, CARD.frozen, ENCODED.task, epochs=2)
    parts = trained(PROGRAM, CARD.frozen, ENCODED.task, epochs=2, accumulate=3)
    leaves = map(jax.tree.leaves, (whole.last.learnable, parts.last.learnable))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_label_map_over_the_vocabulary():
    align = chain(last=last(), map=bayesian(2))
    program = prompt_tuning(CARD, align, length=3)
    fitted = trained(program, CARD.frozen, ENCODED.task, epochs=2, refresh="exact")
    x, y, _ = ENCODED.task.train
    shown = prompt_tuning(CARD, last(), length=3)
    params = shown.init(jax.random.key(0), CARD.frozen, x)
    prompt = {site: fitted.last.learnable[site] for site in params.learnable}
    prompt["output"] = params.learnable["output"]
    logits = shown.apply(params._replace(learnable=prompt), CARD.frozen, x)
    counts = np.zeros((len(LETTERS), 2))
    np.add.at(counts, (np.asarray(logits).argmax(1), y), 1)
    weight = counts / (counts.sum(1, keepdims=True) + 1)
    (found,) = jax.tree.leaves(fitted.last.fixed["output"])
    np.testing.assert_allclose(found, weight / weight.sum(0), atol=1e-5)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    whole = trained(PROGRAM, CARD.frozen, ENCODED.task, epochs=2, out=tmp_path / "a")
    again = partial(trained, PROGRAM, CARD.frozen, ENCODED.task, epochs=2)
    resumed = again(out=tmp_path / "a", resume=True)
    for a, b in zip(
        jax.tree.leaves(whole.last), jax.tree.leaves(resumed.last), strict=True
    ):
        np.testing.assert_array_equal(a, b)


# -- words that are to be written


@pytest.mark.parametrize("side", ["left", "right"])
def test_targets_are_the_words_that_follow(side):
    task = written(WRITER, QUESTIONS, "do {question}. {answer}", side=side)
    assert task.classes == () and task.train.y.shape == task.train.x.value.shape
    x, targets, _ = task.train
    rows = zip(QUESTIONS.train, x.value, x.weight, targets, strict=True)
    for row, ids, real, y in rows:
        read = f"do {row['question']}."
        assert TOKENIZER.decode(ids[real > 0]) == f"{read} {row['answer']}\n"
        assert TOKENIZER.decode(y[y >= 0]) == f" {row['answer']}\n"
        for place in np.flatnonzero(y >= 0):
            assert ids[place + 1] == y[place]
        first = int(np.flatnonzero(real)[0]) + len(read) - 1
        assert np.flatnonzero(y >= 0)[0] == first


@pytest.mark.parametrize("recipe", [prompt_tuning, prefix_tuning])
def test_the_loss_is_the_mean_over_the_answers_words(recipe):
    task = written(WRITER, QUESTIONS, "do {question}. {answer}")
    program = recipe(WRITER, at_words(), length=3)
    x, y, _ = task.train
    params = program.init(jax.random.key(0), CARD.frozen, x)
    output = program.apply(params, CARD.frozen, x)
    y = jnp.asarray(y)
    found = mean_loss(cross_entropy(Seen({"output": output}, y)), y)
    bare = recipe(WRITER, length=3)
    costs = []
    for i in range(len(y)):
        n = int(x.weight[i].sum())
        row = jax.tree.map(lambda a, i=i, n=n: a[i : i + 1, :n], x)
        logits = np.asarray(bare.apply(params, CARD.frozen, row).value[0], np.float64)
        logits = logits[-n:]
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        costs += [-logp[j, y[i, j]] for j in np.flatnonzero(y[i] >= 0)]
    assert len(costs) == 3 * len(y)  # the blank, the letter, the end
    np.testing.assert_allclose(found, np.mean(costs), rtol=1e-4)


def test_fit_learns_to_write():
    rows = tuple({**row, "answer": "mn"} for row in ROWS)
    questions = Questions("one answer", rows[:6], rows[6:8], rows[8:])
    task = written(WRITER, questions, "do {question}. {answer}")
    program = prompt_tuning(WRITER, at_words(), length=4)
    fitted = trained(program, CARD.frozen, task, epochs=60)
    assert fitted.curves[-1, 0] < 0.5 * fitted.curves[0, 0]
    got = fitted.score["test"]
    assert got == evaluate(program, fitted.params, CARD.frozen, task.test, 2)


def test_a_row_is_right_if_all_of_its_words_are():
    y = jnp.array([[-1, 3, 4], [-1, 3, 4], [-1, -1, 4], [-1, -1, -1]])
    said = jnp.array([[0, 3, 4], [0, 3, 5], [9, 9, 4], [1, 1, 1]])
    answer = lambda *given, **how: jax.nn.one_hot(said, 10)
    program = PROGRAM._replace(apply=answer)
    given = program, (accuracy,), (), Params(), (), jnp.zeros(4), y
    ((hits, _),) = observe_scores(*given)
    assert int(hits) == 2


# -- bad input


def refused(match, *args, **kw):
    with pytest.raises(ValueError, match=match):
        encoded(*args, **kw)


def test_bad_templates():
    refused("expected {text} among them", CARD, TASK, "ill {txt}.{label}")
    refused("at the end", CARD, TASK, "{label} {text}{text}{label}")
    refused("expected a masked one", CARD, TASK, "{text} was {mask}")
    masked = CARD._replace(kind="masked")
    refused("write {mask} in its place", masked, TASK, TEMPLATE, LABELS)


def test_bad_labels():
    refused("of several tokens", CARD, TASK, TEMPLATE, ("ab", "c"))
    refused("begin with one token", CARD, TASK, TEMPLATE, ("ab", "ac"))
    refused("3 labels for the 2 classes", CARD, TASK, TEMPLATE, ("a", "b", "c"))


def test_texts_are_never_cut():
    refused(
        r"expected at most 6 .* nothing is cut", CARD, TASK, TEMPLATE, LABELS, length=6
    )
    small = CARD._replace(positions=8)
    refused("has 8 positions", small, TASK, TEMPLATE, LABELS)


def test_other_bad_tasks():
    refused("holds tokens, expected texts", CARD, ENCODED.task, TEMPLATE, LABELS)
    refused("without a tokeniser", CARD._replace(tokenizer=None), TASK, TEMPLATE)
    with pytest.raises(ValueError, match="expected a causal one that has an end"):
        written(CARD, QUESTIONS, "do {question}. {answer}")
    task = written(WRITER, QUESTIONS, "do {question}. {answer}")
    with pytest.raises(ValueError, match=r"give \"output\" alignments.at_words\(\)"):
        trained(PROGRAM, CARD.frozen, task, epochs=1)
    none = task.train._replace(y=np.full_like(task.train.y, -1))
    with pytest.raises(ValueError, match="no word counts in 6 of 6 rows"):
        trained(PROGRAM, CARD.frozen, task._replace(train=none), epochs=1)
    short = jax.tree.map(lambda a: a[:, :5], ENCODED.task.test.x)
    odd = ENCODED.task._replace(test=Split(short, ENCODED.task.test.y))
    with pytest.raises(ValueError, match="pad them to one length"):
        trained(PROGRAM, CARD.frozen, odd, epochs=1)


def test_a_digest_sees_every_array():
    x, y, _ = ENCODED.task.train
    moved = x._replace(weight=x.weight * 0.5)
    other = ENCODED.task._replace(train=Split(moved, y))
    assert digest(other) != digest(ENCODED.task)
