"""Programs of a frozen encoder start where their controls ended; runs are resumed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripted import Scripted

from experiments.frozen_encoder import __main__ as experiment
from experiments.frozen_encoder import controls, in_words, prompts
from experiments.frozen_encoder.__main__ import (
    Bench,
    Config,
    Problem,
    main,
    shortened,
    tune,
)
from experiments.frozen_encoder.controls import Seen
from experiments.frozen_encoder.prompts import HEAD, PROMPTS, Training
from experiments.shared import assets
from reprojax import data
from reprojax.core import tokens
from reprojax.models import Model
from reprojax.models.language import Tokenizer, Words, texts
from reprojax.models.language.bert import Bert
from reprojax.models.language.card import roles
from reprojax.models.language.layers import Heads
from reprojax.training import losses
from reprojax.training.losses import mean_loss

WORDS = "ant bee cow dog elk fox gnu hen ibis jay 12345 67".split()
IDS = {word: i + 1 for i, word in enumerate(WORDS)}
TOKENIZER = Tokenizer(
    lambda text, special=True: [0, *(IDS.get(word, 0) for word in text.split())],
    lambda ids: " ".join(WORDS[i - 1] for i in ids if i),
    IDS.get,
    lambda i: WORDS[i - 1],
    5000,
)
MODULE = Bert(5000, 24, 8, 2, 12, Heads(2, 2, 4, causal=False), headless=True)
HOW = Training(rate=1e-2, epochs=2, length=3, batch=8)


def encoder():
    x = tokens(jnp.zeros((1, 1), int))
    leaves, tree = jax.tree.flatten(jax.eval_shape(MODULE.init, jax.random.key(0), x))
    draw = np.random.default_rng(0)
    value = lambda s: 0.5 * draw.standard_normal(s.shape) + (len(s.shape) == 1)
    frozen = tree.unflatten([jnp.asarray(value(s), jnp.float32) for s in leaves])
    reads = Words("bare", 5000, 24, TOKENIZER)
    return Model("tiny", texts(MODULE), frozen, reads, roles(2))


def messages(seed):
    """Those of class 1 hold digits; one in four does."""
    draw, x, y = np.random.default_rng(seed), [], []
    for i in range(80):
        words = draw.choice(WORDS[:10], 3).tolist()
        words[1:1] = ["12345"] * (i % 4 == 0)
        x.append(" ".join([*words, str(i)]))
        y.append(int(i % 4 == 0))
    parts = {"train": (x, y)}
    sizes = {"train": 24, "validation": 16, "test": 20}
    return data.from_texts(parts, ("ham", "spam"), sizes=sizes, seed=seed)


@pytest.fixture
def bench(monkeypatch):
    found = {"encoder": encoder(), "loads": 0}

    def load(name, dtype=None):
        found["loads"] += 1
        return found["encoder"]

    problem = experiment.PROBLEMS["sms-spam"]._replace(
        draw=messages,
        tokens=8,
        names=("ant", "12345"),
        training=dict.fromkeys((HEAD, *PROMPTS), HOW),
    )
    monkeypatch.setattr(assets, "load_language", load)
    monkeypatch.setitem(experiment.PROBLEMS, "sms-spam", problem)
    return Bench(Config("sms-spam"))


@pytest.mark.parametrize(
    "name, start",
    [
        ("added at each block", "centroids"),
        (HEAD, "probe"),
    ],
)
def test_an_untrained_program_is_the_control_that_its_head_came_from(
    bench, name, start
):
    read, seen = bench.draw(0)
    how = HOW._replace(start=start, scale=7.0)
    program = bench.program(name, 2, how)
    frozen = {
        "model": bench.encoder.frozen,
        "head": prompts.first_head(seen, how),
    }
    x = read.test.x if name != HEAD else seen.vectors["test"]
    params = program.init(jax.random.key(0), frozen, x)
    split = data.Split(x, read.test.y)
    found = prompts.answers(program, params, frozen, split, batch=8)
    rule = {"probe": controls.probe, "centroids": controls.nearest_centroid}
    assert found.tolist() == rule[start](seen).test.tolist()


QUICK = ("soft tokens", "added at each block")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in PROMPTS],
)
def test_prompt_and_head_are_learned_and_the_prompt_is_not_pooled(bench, name):
    read, seen = bench.draw(0)
    program = bench.program(name, 2, HOW)
    frozen = {"model": bench.encoder.frozen, "head": prompts.first_head(seen, HOW)}
    x = read.train.x
    params = program.init(jax.random.key(0), frozen, x)

    @jax.jit
    def call(learnable, x):
        seen = {}
        own = params._replace(learnable=learnable)
        y = program.apply(own, frozen, x, edit=lambda s, v: seen.setdefault(s, v))
        return (y**2).sum(), (y, seen["output/raw"])

    slopes, (y, raw) = jax.grad(call, has_aux=True)(params.learnable, x)
    for leaf in jax.tree.leaves(slopes):
        assert np.abs(leaf).max() > 0
    length = HOW.length if name.startswith("soft") else 0
    real = np.asarray(raw.weight)[:, length:, None]  # padding is on the right
    vectors = (np.asarray(raw.value)[:, length:] * real).sum(1)
    vectors *= HOW.scale / np.linalg.norm(vectors, axis=1, keepdims=True)
    head = frozen["head"]
    wanted = vectors @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-3)


def test_validation_rows_are_repeated_so_that_accuracy_is_balanced(bench):
    read, _ = bench.draw(0)
    own = prompts.repeated(read.validation, read.train.y)
    assert np.bincount(own.y).tolist() == [12, 12]
    ids = {row.tobytes() for row in np.asarray(read.validation.x.value)}
    assert ids == {row.tobytes() for row in np.asarray(own.x.value)}
    assert prompts.repeated(read.validation, np.array([0, 1])) is read.validation


def test_classes_weigh_alike_in_the_loss():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)
    labels = jnp.asarray([0, 0, 0, 1, -1])
    loss = prompts.alike(np.array([0, 0, 0, 1]), 2)
    each = -jax.nn.log_softmax(logits)[jnp.arange(4), labels[:4]]
    wanted = (each[:3].mean() + each[3]) / 2
    found = mean_loss(loss(losses.Seen({"output": logits}, labels)), labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_measures_against_scikit_learn():
    from sklearn import metrics

    draw = np.random.default_rng(0)
    a, y = draw.integers(0, 2, 40), draw.integers(0, 2, 40)
    assert controls.f1(a, y) == pytest.approx(metrics.f1_score(y, a))
    wanted = metrics.balanced_accuracy_score(y, a)
    assert controls.balanced(a, y) == pytest.approx(wanted)


def test_more_than_four_digits(bench):
    found = controls.many_digits(bench.draw(0)[1])
    assert found.test.tolist() == bench.draw(0)[0].test.y.tolist()
    task = messages(0)._replace(
        test=data.Split(np.array(["1234", "12 345"]), np.array([0, 1]))
    )
    assert controls.many_digits(Seen(task, {}, np.zeros(0))).test.tolist() == [
        0,
        1,
    ]


def test_words_at_the_end_are_left_out():
    task = messages(0)
    short = shortened(task, TOKENIZER, 4)
    for before, after in zip(task.test.x, short.test.x, strict=True):
        assert before.startswith(after) and before != after and after
        assert set(after.split()) <= set(before.split())
        assert len(TOKENIZER.encode(after)) <= 4
    assert shortened(task, TOKENIZER, 9).train.x.tolist() == task.train.x.tolist()


def test_a_run_goes_on_where_it_stopped(bench, tmp_path, monkeypatch, capsys):
    names = ("linear probe", "added to the words", "more than four digits")
    config = Config("sms-spam", draws=2, methods=names, out=tmp_path)
    first = main(config)
    assert first["scores"]["more than four digits"]["F1"] == [1.0, 1.0]
    assert "over more than four digits" in capsys.readouterr().out
    (tmp_path / "sms-spam" / "linear_probe-1.json").unlink()
    monkeypatch.setattr(prompts, "train", None)  # a second training would raise
    assert main(config) == first
    results = json.loads((tmp_path / "sms-spam" / "results.json").read_text())
    assert results["scores"] == first["scores"]
    other = dict.fromkeys((HEAD, *PROMPTS), HOW._replace(rate=1.0))
    problem: Problem = experiment.PROBLEMS["sms-spam"]._replace(training=other)
    monkeypatch.setitem(experiment.PROBLEMS, "sms-spam", problem)
    with pytest.raises(ValueError, match="other settings:\n  how: got"):
        main(config)


def test_tuning_reads_no_test_text(bench, monkeypatch):
    monkeypatch.setattr(prompts, "answers", None)
    config = Config("sms-spam", methods=(HEAD,), tune=True, rate=1e-3)
    assert 0 <= tune(config)[HEAD] <= 1


def test_an_unknown_method_is_named(bench):
    with pytest.raises(ValueError, match=r"no methods \['bee'\], expected some of"):
        main(Config("sms-spam", methods=("bee",)))


def test_in_words(bench):
    """A language that sees digits says so; sixteen of the training messages are shown,
    eight of each class, under their own labels."""
    task = messages(0)
    rows = in_words.demonstrations(task, 0)
    label = dict(zip(task.train.x, task.train.y, strict=True))
    assert sorted(r["label"] for r in rows).count("spam") == 6  # all that there are
    assert all(in_words.LABELS[label[r["text"]]] == r["label"] for r in rows)

    def score(item):
        asked = item.prompt.rsplit("Message:", 1)[-1]
        if not any(word in asked for word in WORDS):  # without content
            return -1.0
        return 0.0 if ("12345" in asked) == ("spam" in item.text) else -1.0

    scripted = Scripted(score=score)
    language = in_words.remembering(scripted.language)
    for name in in_words.WORDS:
        found = in_words.in_words(language, name, task, 0)
        assert found.tolist() == task.test.y.tolist()
    assert len(set(scripted.items)) == len(scripted.items) == 2 * 2 * (20 + 3)
