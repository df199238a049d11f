"""The loop against a second one, written by hand without any of the library's parts."""

import logging
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from fitting import FROZEN, PROGRAM, TASK, bits, normalized, outcome, train
from jax.nn.initializers import zeros

import reprojax.training.loop as loop
from reprojax import reprogram
from reprojax.alignments import bayesian, linear, one_to_one
from reprojax.core import Manipulation, Params, chain
from reprojax.data import Split
from reprojax.formats import fixed, learnable
from reprojax.models import Model, Pixels
from reprojax.operators import add, dropout
from reprojax.recipes import map_only, sample_specific_masks
from reprojax.saving.checkpoints import Checkpoints
from reprojax.training import compilation, steps
from reprojax.training.compilation import Compiled
from reprojax.training.losses import Seen, cross_entropy

CARD = Model("net", fitting.FORWARD, FROZEN, Pixels(8, (), ()), {}, tuple("vwxyz"))

# -- a second implementation


class ByHand(NamedTuple):
    """After each epoch."""

    prompts: list[np.ndarray]
    maps: list[np.ndarray]
    losses: list[float]
    accuracy: list[float]


def logits(prompt: Any, x: np.ndarray) -> jax.Array:
    """Of the source classes."""
    return fitting.Net().apply(FROZEN, normalized(x) + prompt)


def counted(answers: list[np.ndarray], labels: list[np.ndarray]) -> np.ndarray:
    """[S T], one row at a time."""
    counts = np.zeros((fitting.SOURCES, fitting.TARGETS))
    for y, label in zip(np.concatenate(answers), np.concatenate(labels), strict=True):
        counts[np.argmax(y), label] += 1
    return counts


def bayesian_by_hand(counts: np.ndarray) -> np.ndarray:
    """p(target | source) with one added to each row's sum, then columns to one."""
    weight = counts / (counts.sum(1, keepdims=True) + 1)
    return (weight / weight.sum(0)).astype(np.float32)


def by_hand(refresh: str, optimizer: Any, epochs: int = 3, seed: int = 0) -> ByHand:
    """Batches of the real rows alone: the last of an epoch has two."""
    x, y, _ = TASK.train
    prompt = np.zeros((8, 8, 3), np.float32)
    table = bayesian_by_hand(counted([logits(prompt, x)], [y]))
    opt, out = optimizer.init(prompt), ByHand([], [], [], [])

    def cost(prompt: Any, table: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
        raw = logits(prompt, x[rows])
        chosen = jax.nn.log_softmax(raw @ table)[np.arange(len(rows)), y[rows]]
        return -chosen.mean(), raw

    pull = jax.value_and_grad(cost, has_aux=True)
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(y))
        seen, losses = [], []
        for rows in (order[:4], order[4:8], order[8:]):
            (loss, raw), slope = pull(prompt, table, rows)
            updates, opt = optimizer.update(slope, opt, prompt)
            prompt = optax.apply_updates(prompt, updates)
            seen.append(raw)
            losses.append(float(loss))
        if refresh == "epoch":
            table = bayesian_by_hand(counted(seen, [y[order]]))
        elif refresh == "exact":
            table = bayesian_by_hand(counted([logits(prompt, x)], [y]))
        answers = (logits(prompt, TASK.validation.x) @ table).argmax(1)
        out.prompts.append(np.asarray(prompt))
        out.maps.append(table)
        out.losses.append(np.mean(losses))
        out.accuracy.append(float(np.mean(answers == TASK.validation.y)))
    return out


def near(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("refresh", ["epoch", "exact", "once"])
def test_three_epochs_equal_a_loop_by_hand(refresh):
    fitted, expected = train(refresh=refresh), by_hand(refresh, fitting.SGD)
    near(fitted.last.learnable["normalized"], expected.prompts[-1])
    near(fitted.last.fixed["output"], expected.maps[-1])
    near(fitted.curves[:, 0], expected.losses)
    near(fitted.curves[:, 1], expected.accuracy)
    chosen = int(np.argmax(expected.accuracy))  # the first of equals
    near(fitted.params.learnable["normalized"], expected.prompts[chosen])
    near(fitted.params.fixed["output"], expected.maps[chosen])


def test_the_three_refreshes_differ_and_once_never_changes():
    once, epoch, exact = (by_hand(r, fitting.SGD) for r in ("once", "epoch", "exact"))
    assert np.array_equal(once.maps[0], once.maps[2])
    for other in (epoch, exact):
        assert np.abs(np.stack(other.maps) - once.maps[0]).max() > 0.01
    assert np.abs(epoch.maps[0] - exact.maps[0]).max() > 0.01
    assert len({*epoch.accuracy}) > 1 and epoch.accuracy.count(max(epoch.accuracy)) > 1


def test_optimisers_with_a_memory_and_other_seeds_equal_the_loop_by_hand():
    adam = optax.adamw(0.05, weight_decay=0.1)
    fitted = train(optimizer=adam, seed=7)
    expected = by_hand("epoch", adam, seed=7)
    near(fitted.last.learnable["normalized"], expected.prompts[-1], 1e-5)
    near(fitted.last.fixed["output"], expected.maps[-1])


def test_filling_with_zero_weight_is_what_keeps_the_last_batch_fair():
    """What the comparison above would notice: a filled batch whose filling counts."""
    order = np.random.default_rng((0, 0)).permutation(10)
    filled = np.concatenate([order[8:], order[:2]])
    fair = logits(np.zeros((8, 8, 3)), TASK.train.x[order[8:]])
    unfair = logits(np.zeros((8, 8, 3)), TASK.train.x[filled])
    fair_loss, unfair_loss = (
        cross_entropy(
            Seen({"output": raw[:, :3]}, jnp.asarray(TASK.train.y[rows]))
        ).mean()
        for raw, rows in ((fair, order[8:]), (unfair, filled))
    )
    assert abs(fair_loss - unfair_loss) > 1e-3


# -- what moves, and what does not


def test_learnable_params_move_and_nothing_else():
    given = jax.tree.map(jnp.asarray, FROZEN)
    before = bits(given)
    program = reprogram(
        fitting.FORWARD,
        {
            "normalized": chain(
                shift=add(fixed(np.full((8, 8, 3), 0.1, np.float32))),
                prompt=add(learnable(zeros)),
            ),
            "conv:out": add(learnable(zeros)),
            "output": linear(3),
        },
    )
    start = program.init(jax.random.key(0), given, TASK.train.x[:4])
    fitted = train(program=program, frozen=given)
    assert bits(given) == before
    assert bits(fitted.last.fixed) == bits(start.fixed)
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), fitted.last.learnable, start.learnable
    )
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_the_gradient_is_of_the_learnable_params_alone(monkeypatch):
    asked = []
    value_and_grad = jax.value_and_grad

    def spy(function: Callable, **options: Any) -> Callable:
        def run(learnable: Any) -> Any:
            asked.append(jax.tree.map(lambda a: a.shape, learnable))
            return value_and_grad(function, **options)(learnable)

        return run

    program = reprogram(fitting.FORWARD, dict((s[0], m) for s, m in PROGRAM.at))
    monkeypatch.setattr(jax, "value_and_grad", spy)
    train(program=program, epochs=1)
    assert asked == [{"normalized": (8, 8, 3), "output": ()}]


def test_the_arrays_given_to_formats_survive():
    start = jnp.full((8, 8, 3), 0.1)
    steady = jnp.ones((8, 8, 3))
    parts = chain(a=add(fixed(steady)), b=add(learnable(start)))
    program = reprogram(fitting.FORWARD, {"normalized": parts, "output": linear(3)})
    assert outcome(train(program=program)) == outcome(train(program=program))
    near(start, 0.1)
    near(steady, 1.0)


def test_a_start_of_a_weak_type_compiles_the_step_once(caplog):
    start = jnp.full((8, 8, 3), 0.1)
    assert start.weak_type
    at = {"normalized": add(learnable(start)), "output": linear(3)}
    own = {"optimizer": optax.sgd(4.75)}  # no other test has compiled this step
    run = lambda: train(program=reprogram(fitting.FORWARD, at), epochs=1, **own)
    assert compiled(caplog, run).count("jit(train_step)") == 1


def test_optimisers_that_keep_the_params_in_their_state():
    fitted = train(optimizer=optax.contrib.schedule_free_sgd(0.1))
    assert np.isfinite(fitted.curves).all()


def test_a_program_without_learnable_params_is_only_estimated():
    fitted = train(program=map_only(CARD, targets=3), refresh="once")
    near(fitted.last.fixed["output"], by_hand("once", fitting.SGD).maps[0])
    assert jax.tree.leaves(fitted.last.learnable) == []


# -- selection and the splits


def test_the_first_of_the_best_epochs_is_selected(monkeypatch):
    shown = []

    def scripted(program, params, *_, **__):
        shown.append(bits(params))
        return {"accuracy": [0.2, 0.7, 0.7, 0.4, 0.25, 0.75][len(shown) - 1]}

    monkeypatch.setattr("reprojax.training.loop.measure", scripted)
    fitted = train(epochs=4)
    assert bits(fitted.params) == shown[1] == shown[5] != shown[2]
    assert bits(fitted.last) == shown[3] == shown[4]
    near(fitted.curves[:, 1], [0.2, 0.7, 0.7, 0.4])
    expected = {"validation": 0.7, "test": 0.75, "last": 0.25}
    assert fitted.score == pytest.approx(expected)


def test_a_last_epoch_that_is_the_best_is_tested_once(monkeypatch):
    scores = iter([0.2, 0.7, 0.6])  # a fourth reading would end the test
    scripted = lambda *a, **k: {"accuracy": next(scores)}
    monkeypatch.setattr("reprojax.training.loop.measure", scripted)
    fitted = train(epochs=2)
    assert bits(fitted.params) == bits(fitted.last)
    expected = {"validation": 0.7, "test": 0.6, "last": 0.6}
    assert fitted.score == pytest.approx(expected)


class Watched(np.ndarray):
    """Images that write down who was read."""

    reads: list[str]
    name: str

    def __getitem__(self, rows):
        self.reads.append(self.name)
        return np.asarray(self)[rows]


def watched(split: Split, name: str, reads: list[str]) -> Split:
    x = split.x.view(Watched)
    x.reads, x.name = reads, name
    return split._replace(x=x)


def test_the_test_split_is_read_when_training_is_over():
    reads = []
    names = ("train", "validation", "test")
    splits = {name: watched(getattr(TASK, name), name, reads) for name in names}
    fitted = train(task=TASK._replace(**splits), epochs=2)
    first = ["train"] * 3  # of the map
    epoch = ["train"] * 3 + ["validation"] * 2
    assert reads == first + epoch * 2 + ["test"] * 2 * 2  # selected and last
    assert outcome(fitted) == outcome(train(epochs=2))


def test_accuracy_is_of_the_real_rows():
    fitted = train()
    for params, split, name in (
        (fitted.params, TASK.validation, "validation"),
        (fitted.params, TASK.test, "test"),
        (fitted.last, TASK.test, "last"),
    ):
        raw = logits(params.learnable["normalized"], split.x)
        answers = (raw @ params.fixed["output"]).argmax(1)
        assert fitted.score[name] == pytest.approx(np.mean(answers == split.y))


def test_a_batch_larger_than_the_split_is_the_split():
    assert outcome(train(batch=64)) == outcome(train(batch=10))


def test_a_class_that_a_batch_and_the_other_splits_lack_breaks_nothing():
    y = np.sort(TASK.train.y)  # and the order of a run is drawn, so look at ones
    rare = Split(TASK.train.x, np.where(np.arange(10) == 9, 2, y % 2).astype(np.int32))
    other = Split(TASK.test.x, TASK.test.y % 2)
    task = TASK._replace(train=rare, validation=other, test=other)
    for align in (bayesian(3), one_to_one(3)):
        at = {"normalized": add(learnable(zeros)), "output": align}
        fitted = train(task=task, program=reprogram(fitting.FORWARD, at))
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(fitted.last))
        near(fitted.last.fixed["output"].sum(0), 1.0)


# -- randomness


def random_program() -> Any:
    """With random first params, and dropout."""
    prompt = learnable(jax.nn.initializers.normal(0.1))
    parts = chain(prompt=add(prompt), drop=dropout(0.3))
    return reprogram(fitting.FORWARD, {"normalized": parts, "output": linear(3)})


def test_a_seed_decides_all_bits():
    program = random_program()
    first, again, other = (train(program=program, seed=s) for s in (3, 3, 4))
    assert outcome(first) == outcome(again)
    assert outcome(first) != outcome(other)


def test_a_seed_decides_the_order_of_images():
    assert outcome(train(seed=0)) != outcome(train(seed=1))  # the prompt starts at zero


def noisy(noise: Callable[[jax.Array], Any]) -> Any:
    """A program whose value has noise(key) in training, and nothing in evaluation."""

    def apply(params, value, scope):
        return value if scope.key is None else value + noise(scope.key)

    shake = Manipulation(lambda *given: Params(), apply)
    return reprogram(fitting.FORWARD, {"normalized": shake, "output": bayesian(3)})


def test_randomness_is_new_in_every_step():
    def loss(seen):  # of all images, so the same but for the noise
        return seen.recorded["normalized"].mean()

    program = noisy(lambda key: jax.random.normal(key, ()))
    settings = {"program": program, "batch": 10, "epochs": 4, "loss": loss}
    losses = train(**settings, record_sites=("normalized",)).curves[:, 0]
    noise = losses - normalized(TASK.train.x).mean()
    assert min(abs(a - b) for i, a in enumerate(noise) for b in noise[:i]) > 1e-3


def test_evaluation_has_no_randomness():
    # Its first map is what evaluation must see; the noise would leave no answer whole.
    program = noisy(lambda key: 1e6)
    nothing = lambda seen: jnp.zeros(seen.labels.shape)
    fitted = train(program=program, loss=nothing, refresh="exact")
    still = reprogram(fitting.FORWARD, {"output": bayesian(3)})
    expected = train(program=still, refresh="once")
    near(fitted.last.fixed["output"], expected.last.fixed["output"])
    assert fitted.score == expected.score


# -- losses


def test_a_loss_sees_the_batch_its_step_and_a_key_of_its_own():
    def loss(seen):
        pixels = seen.x.astype(jnp.float32).mean((1, 2, 3))
        return pixels + 1000 * (seen.step + jax.random.uniform(seen.key))

    curves = [
        train(batch=10, epochs=3, loss=loss, **how).curves[:, 0]
        for how in ({}, {"accumulate": 1}, {"seed": 1})
    ]
    mean = TASK.train.x.astype(np.float64).mean()
    drawn = (curves[0] - mean) / 1000 - np.arange(3)
    assert ((drawn > 0) & (drawn < 1)).all() and len({*drawn.round(4)}) == 3
    np.testing.assert_array_equal(curves[0], curves[1])
    assert abs(curves[0] - curves[2]).min() > 1e-3  # another seed draws other numbers


def test_a_loss_of_ones_own_on_a_recorded_value():
    def loss(seen):
        head, pixels = seen.recorded["head:in"], seen.recorded["input"]
        pull = jnp.square(head - 1).mean() + jnp.abs(pixels).mean()
        return cross_entropy(seen) + 3 * pull

    def cost(prompt):
        hidden = fitting.Net().apply(
            FROZEN, normalized(x) + prompt, capture_intermediates=True
        )[1]["intermediates"]["conv"]["__call__"][0]
        features = jax.nn.relu(hidden)
        raw = fitting.Net().apply(FROZEN, normalized(x) + prompt) @ table
        entropy = -jax.nn.log_softmax(raw)[np.arange(10), y].mean()
        pull = jnp.square(features - 1).mean() + x.astype(np.float32).mean()
        return entropy + 3 * pull

    x, y, _ = TASK.train
    table = bayesian_by_hand(counted([logits(np.zeros((8, 8, 3)), x)], [y]))
    value, slope = jax.value_and_grad(cost)(jnp.zeros((8, 8, 3)))
    sites = ("head:in", "input")
    fitted = train(batch=10, epochs=1, loss=loss, record_sites=sites)
    near(fitted.last.learnable["normalized"], -5 * slope, 1e-5)
    near(fitted.curves[0, 0], value, 1e-5)
    plain = train(batch=10, epochs=1)
    assert np.abs(fitted.last.learnable["normalized"] - slope).max() > 1e-3
    assert outcome(plain) != outcome(fitted)


# -- stopping


def broken_from(step: int) -> optax.GradientTransformation:
    """SGD whose updates are NaN from a step on, counted from 0."""
    return optax.sgd(lambda count: jnp.where(count < step, 0.5, jnp.nan))


def test_a_diverged_loss_says_what_to_lower_and_keeps_what_was_saved(tmp_path):
    with pytest.raises(ValueError, match=r"in epoch 2 .*lower the learning rate"):
        train(optimizer=broken_from(4), out=tmp_path)
    saved = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert saved == ["3"]
    with pytest.raises(ValueError, match="another run:\n  optimizer: got"):
        train(optimizer=broken_from(10**6), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="in epoch 2"):
        train(optimizer=broken_from(4), out=tmp_path, resume=True)


def test_params_that_the_very_last_step_broke_are_noticed():
    with pytest.raises(ValueError, match=r"in epoch 3 \(by step 9\)"):
        train(optimizer=broken_from(8))


def test_nothing_is_saved_of_a_diverged_epoch_that_a_signal_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "due", lambda self, step: True)
    with pytest.raises(ValueError, match="in epoch 2"):
        train(optimizer=broken_from(4), out=tmp_path)
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert saved == [3, 4]  # all before the step that broke it


# -- bad input


def compiled(caplog: Any, run: Callable[[], Any]) -> list[str]:
    """What was compiled meanwhile, as JAX logs it."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run()
    lines = [record.getMessage() for record in caplog.records]
    return [line.split()[1] for line in lines if line.startswith("Compiling ")]


def forget() -> None:
    """What other tests have compiled."""
    compilation._executables.clear()
    compilation._shared.cache_clear()


def test_fewer_source_than_target_classes_are_refused_before_compilation(caplog):
    task = fitting.TASK._replace(classes=tuple("abcdef"))
    splits = {n: fitting.split(12, 1, 6) for n in ("train", "validation", "test")}
    at = {"normalized": add(learnable(zeros)), "output": one_to_one(6)}
    program = reprogram(fitting.FORWARD, at)

    def refused() -> None:
        with pytest.raises(ValueError, match="maps 6 target classes.* the model has 5"):
            train(program=program, task=task._replace(**splits))

    assert compiled(caplog, refused) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"program": reprogram(fitting.FORWARD, {"output": bayesian(4)})},
            r"answers \(4, 4\) to a batch of 4, expected \(4, 3\) for the 3 classes of "
            r'toy; give "output" an alignment',
        ),
        ({"epochs": 0}, "epochs=0, expected a whole number of at least 1"),
        ({"batch": 0}, "batch=0, expected a whole number of at least 1"),
        ({"record_sites": ("head_in",)}, r"no such site: \['head_in'\], expected"),
        (
            {"task": TASK._replace(train=Split(TASK.train.x[:0], TASK.train.y[:0]))},
            "the train split is empty",
        ),
        (
            {"task": TASK._replace(validation=TASK.validation._replace(y=TASK.test.y))},
            "7 images and 5 labels",
        ),
    ],
)
def test_bad_input_is_refused_before_compilation(caplog, changes, message):
    def refused() -> None:
        with pytest.raises(ValueError, match=message):
            train(**changes)

    assert compiled(caplog, refused) == []


def test_an_unknown_refresh_is_refused():
    with pytest.raises(ValueError, match=r"refresh='often', expected \('epoch', 'ex"):
        loop.checks.check_settings(1, 1, "often")  # where types are not checked


# -- compilation and time


def test_nothing_compiles_after_the_first_epoch_nor_for_another_seed(
    caplog, monkeypatch
):
    end, ends = loop._end_epoch, []

    def spy(*args: Any) -> Any:
        state = end(*args)
        ends.append(len(caplog.records))
        return state

    monkeypatch.setattr("reprojax.training.loop._end_epoch", spy)
    forget()
    program = random_program()
    names = compiled(caplog, lambda: train(program=program))
    assert names.count("jit(train_step)") == 1 and len(ends) == 3
    later = caplog.records[ends[0] :]
    assert not [r.getMessage() for r in later if "Compiling" in r.getMessage()]
    assert compiled(caplog, lambda: train(program=program, seed=1)) == []
    assert compiled(caplog, lambda: train(program=program, seed=2)) == []


def test_label_maps_of_every_refresh_compile_once(caplog):
    at = {"normalized": add(learnable(zeros)), "output": one_to_one(3)}
    program = reprogram(fitting.FORWARD, at)
    forget()
    names = []
    for refresh in ("epoch", "exact", "once"):
        run = partial(train, program=program, refresh=refresh)
        names += compiled(caplog, run)
    assert names.count("jit(train_step)") == names.count("jit(observe_batch)") == 1


def test_images_go_to_the_step_as_bytes(monkeypatch):
    seen, call = [], Compiled.__call__

    def spy(self: Compiled, *args: Any) -> Any:
        if self._name == "train_step":
            seen.append((args[2].dtype, args[2].shape))
        return call(self, *args)

    monkeypatch.setattr(Compiled, "__call__", spy)
    train(epochs=1)
    assert seen == [(np.uint8, (4, 8, 8, 3))] * 3


def test_the_clock_counts_neither_compilation_nor_evaluation(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = steps.Clock()
    assert np.isnan(clock.seconds_per_step())
    for step in range(6):
        clock.start()
        now[0] += 1.5 if step else 60.0
        clock.tick(jnp.zeros(()), stop=step % 3 == 2)
        if step % 3 == 2:
            now[0] += 30.0
    assert clock.seconds_per_step() == pytest.approx(1.5)


def test_the_clock_of_epochs_of_one_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = steps.Clock()
    for step in range(3):
        clock.start()
        now[0] += 2.0 if step else 60.0
        clock.tick(jnp.zeros(()), stop=True)
        now[0] += 30.0
    assert clock.seconds_per_step() == pytest.approx(2.0)


# -- running statistics


def test_running_statistics_end_up_in_fixed_by_their_own_arithmetic():
    program = sample_specific_masks(CARD, targets=3)
    start = program.init(jax.random.key(0), FROZEN, TASK.train.x[:4])
    at = lambda params: params.fixed["normalized"]["mask"]["batch_stats"]
    assert {a.shape for a in jax.tree.leaves(at(start))} == {(8,), (16,), (32,), (64,)}
    # A rate of zero, so that the first convolution stays as it is.
    fitted = train(program=program, optimizer=optax.sgd(0.0), epochs=2, refresh="once")
    conv = start.learnable["normalized"]["mask"]["Conv_0"]
    mean, var = np.zeros(8), np.ones(8)
    for epoch in range(2):
        order = np.random.default_rng((0, epoch)).permutation(10)
        filled = np.concatenate([order, order[:2]])  # of images it has had
        for rows in filled.reshape(3, 4):
            hidden = convolved(normalized(TASK.train.x[rows]), conv).reshape(-1, 8)
            mean = 0.9 * mean + 0.1 * hidden.mean(0)
            var = 0.9 * var + 0.1 * hidden.var(0)
    assert hidden.shape == (4 * 8 * 8, 8)
    near(at(fitted.last)["BatchNorm_0"]["mean"], mean, 1e-5)
    near(at(fitted.last)["BatchNorm_0"]["var"], var, 1e-5)
    for name in ("BatchNorm_1", "BatchNorm_2", "BatchNorm_3"):
        assert np.abs(at(fitted.last)[name]["mean"]).max() > 1e-4
    assert jax.tree.structure(fitted.last) == jax.tree.structure(start)


def convolved(x: np.ndarray, conv: dict[str, Any]) -> np.ndarray:
    """A 3 x 3 convolution with one zero around, as nine products."""
    kernel, wide = (
        np.asarray(conv["kernel"]),
        np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]),
    )
    out = np.broadcast_to(np.asarray(conv["bias"]), (*x.shape[:3], kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            out = out + wide[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
    return out
