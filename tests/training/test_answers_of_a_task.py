"""Tasks of each kind of answers through `fit`, against loops by hand."""

from functools import partial
from typing import Any

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import FROZEN, TASK, outcome, train

from reprojax import data, reprogram
from reprojax.alignments import bayesian, centred, linear, mean_probability, one_to_one
from reprojax.core import Params
from reprojax.data import Split, Task
from reprojax.formats import learnable
from reprojax.operators import add
from reprojax.training import checks, losses, metrics, parallel
from reprojax.training.losses import Seen
from reprojax.training.population import fit_population

DRAW = np.random.default_rng(3)
SIZES = {"train": 22, "validation": 9, "test": 8}
X = {name: fitting.split(n, i).x for i, (name, n) in enumerate(SIZES.items())}


def head(targets: int) -> Any:
    at = {"normalized": add(learnable(jnp.zeros((8, 8, 3)))), "output": linear(targets)}
    return reprogram(fitting.FORWARD, at)


def task(answers: Any, labels: Any, classes: tuple[str, ...] = ()) -> Task:
    """labels: of x [N 8 8 3]."""
    splits = {name: Split(x, labels(x)) for name, x in X.items()}
    return Task("toy", **splits, classes=classes, answers=answers)


def several(x: np.ndarray) -> np.ndarray:
    """Which channels are bright, and of a third of the rows nobody knows the first."""
    y = (x.mean((1, 2)) > 100).astype(np.int32)
    y[::3, 0] = -1
    return y


def numbers(x: np.ndarray) -> np.ndarray:
    y = (x.mean((1, 2)) / 50).astype(np.float32)[:, :2] - 2
    y[1::4, 1] = np.nan
    return y


SEVERAL = task("labels", several, ("red", "green", "blue"))
NUMBERS = task("numbers", numbers)
NONE = task("none", lambda x: np.zeros(len(x), np.int32))


def mean_over_known(each: Any, known: Any) -> Any:
    return jnp.where(known, each, 0).sum() / known.sum()


def by_hand(kind: Task, cost: Any, count: int = 40) -> list[float]:
    """The losses of whole batches, without the library's loop."""
    targets = kind.train.y.shape[1]
    pixels, y = fitting.normalized(kind.train.x), jnp.asarray(kind.train.y)
    params = {"prompt": np.zeros((8, 8, 3)), "kernel": None, "bias": np.zeros(targets)}
    begun = head(targets).init(jax.random.key(0), FROZEN, kind.train.x).learnable
    params["kernel"] = begun["output"]["kernel"]

    @jax.jit
    @jax.value_and_grad
    def slope(params: Any) -> Any:
        raw = fitting.Net().apply(FROZEN, pixels + params["prompt"])
        return cost(raw @ params["kernel"] + params["bias"], y)

    found = []
    for _ in range(count):
        value, grads = slope(params)
        params = jax.tree.map(lambda a, g: a - 0.02 * g, params, grads)
        found.append(float(value))
    return found


def binary(out: Any, y: Any) -> Any:
    p = jax.nn.sigmoid(out)
    each = -jnp.where(y == 1, jnp.log(p), jnp.log1p(-p))
    return mean_over_known(each, y >= 0)


def squares(out: Any, y: Any) -> Any:
    known = ~jnp.isnan(y)
    return mean_over_known((out - jnp.where(known, y, 0)) ** 2, known)


CASES = {"several labels": (SEVERAL, binary), "numbers": (NUMBERS, squares)}


@pytest.mark.parametrize("name", CASES)
def test_missing_labels_count_for_nothing(name):
    kind, cost = CASES[name]
    program = head(kind.train.y.shape[1])
    settings = {"program": program, "task": kind, "optimizer": optax.sgd(0.02)}
    fitted = train(**settings, epochs=40, batch=22)
    np.testing.assert_allclose(fitted.curves[:, 0], by_hand(kind, cost), rtol=1e-4)
    assert fitted.curves[-1, 0] < 0.9 * fitted.curves[0, 0]
    short = {"epochs": 2, "batch": 8}
    one = train(**settings, **short)
    mesh = parallel.mesh(devices=jax.devices()[:2])
    many = partial(
        fit_population,
        program,
        FROZEN,
        kind,
        optimizer=optax.sgd(0.02),
        seeds=[0, 0],
        progress=False,
        **short,
    )
    others = [
        train(**settings, **short, mesh=mesh),
        train(**settings, **short, accumulate=2),
        train(**settings, **short, accumulate=2, mesh=mesh),
        *many(how="vmap"),
        *many(how="loop"),
    ]
    for other in others:
        np.testing.assert_allclose(other.curves, one.curves, rtol=1e-4)
        assert other.score == pytest.approx(one.score, rel=1e-4)


def test_the_metric_selects_and_knows_which_way_is_better():
    settings = {"program": head(2), "task": NUMBERS, "optimizer": optax.sgd(0.4)}
    settings |= {"epochs": 8, "batch": 22}
    asked = (metrics.mean_absolute_error, metrics.r2)
    fitted = train(**settings, metrics=asked)
    scores = fitted.curves[:, 1]
    assert fitted.score["validation"] == pytest.approx(scores.min())
    assert {*fitted.metrics} == {"mean squared error", *(m.name for m in asked)}
    assert fitted.metrics["mean squared error"] == fitted.score["test"]
    chosen = train(**settings, metric=metrics.r2)
    assert chosen.score["validation"] == pytest.approx(chosen.curves[:, 1].max())
    assert chosen.score["test"] == chosen.metrics["R2"]


def test_without_labels_the_loss_selects_and_distillation_learns():
    """The teacher's answers are the context; no label is read."""
    teacher = np.asarray(DRAW.normal(size=(5, 3)), np.float32)

    def answers(x: Any) -> np.ndarray:
        raw = fitting.Net().apply(FROZEN, fitting.normalized(x))
        return np.asarray(jax.nn.softmax(raw @ teacher))

    splits = {n: Split(x, NONE.train.y[: len(x)], answers(x)) for n, x in X.items()}

    def distilled(seen: Seen) -> Any:
        return optax.softmax_cross_entropy(seen.output, seen.context)

    def agrees(seen: Seen) -> Any:
        same = seen.output.argmax(-1) == seen.context.argmax(-1)
        return (same & seen.real).sum(), seen.real.sum()

    agreement = metrics.Metric("agreement", agrees, lambda sums: sums[0] / sums[1])
    kind = NONE._replace(**splits)
    settings = {"program": head(3), "task": kind, "optimizer": optax.adam(0.05)}
    settings |= {"loss": distilled, "epochs": 25, "batch": 8}
    fitted = train(**settings)
    assert fitted.score["validation"] == pytest.approx(fitted.curves[:, 1].min())
    assert fitted.curves[-1, 0] < 0.6 * fitted.curves[0, 0]
    own = train(**settings, metric=agreement)
    assert own.score["validation"] == own.curves[:, 1].max() > own.curves[0, 1]
    with pytest.raises(ValueError, match="no labels.*give loss="):
        train(**settings | {"loss": None})


# -- params to start from


def test_a_run_from_given_params_goes_on_with_them():
    settings = {"program": head(3), "batch": 10, "optimizer": optax.sgd(0.1)}
    whole = train(**settings, epochs=4)
    half = train(**settings, epochs=2)
    start = jax.tree.map(np.asarray, half.last)
    rest = train(**settings, epochs=2, params=start)
    np.testing.assert_allclose(rest.curves[:, :4], whole.curves[2:, :4], rtol=1e-5)
    assert start.learnable["output"]["kernel"].any()  # nor were they given away


def test_params_of_another_program_are_refused(tmp_path):
    settings = {"program": head(3), "epochs": 1}
    start = train(**settings).last
    with pytest.raises(ValueError, match=r"output/bias: got float32\[3\], .*\[2\]"):
        train(program=head(2), task=NUMBERS, params=start)
    with pytest.raises(ValueError, match="expected the Params"):
        checks.check_start(start.learnable, start)
    broken = jax.tree.map(lambda a: a * np.nan, start)
    with pytest.raises(ValueError, match="not finite"):
        train(**settings, params=broken)
    first = train(**settings, params=start, out=tmp_path / "run")
    again = train(**settings, params=start, out=tmp_path / "run", resume=True)
    assert outcome(again) == outcome(first)
    other = Params(jax.tree.map(lambda a: a + 1, start.learnable), start.fixed)
    with pytest.raises(ValueError, match="another run:\\s+params"):
        train(**settings, params=other, out=tmp_path / "run", resume=True)


# -- bad input

BAD = {
    "answers='both', expected": TASK._replace(answers="both"),
    r"labels of int32\[22\] for 3 at once.*\[N 3\]": SEVERAL._replace(
        train=Split(X["train"], SEVERAL.train.y[:, 0])
    ),
    "labels hold 2, expected 1, 0": SEVERAL._replace(
        train=Split(X["train"], np.abs(SEVERAL.train.y) * 2)
    ),
    "label 1 is unknown in every row": SEVERAL._replace(
        test=Split(X["test"], np.int32([[0, -1, 1]] * 8))
    ),
    r"numbers of float32\[22\].*y\[:, None\]": NUMBERS._replace(
        train=Split(X["train"], NUMBERS.train.y[:, 0])
    ),
    "expected zeros": NONE._replace(train=TASK.train),
}


@pytest.mark.parametrize("words", BAD)
def test_labels_that_are_none_are_refused(words):
    with pytest.raises(ValueError, match=words):
        data.check(BAD[words])


def test_a_loss_or_metric_of_other_answers_is_refused():
    with pytest.raises(ValueError, match="the loss .*cross_entropy"):
        train(program=head(2), task=NUMBERS, loss=losses.cross_entropy)
    with pytest.raises(
        ValueError, match=r"answers \(4, 3\).*expected \(4, 2\).*numbers"
    ):
        train(program=head(3), task=NUMBERS)
    with pytest.raises(ValueError, match=r"answers \(4, 2\).*expected \(4, 3\)"):
        train(program=head(2), task=SEVERAL)


@pytest.mark.parametrize(
    "align",
    [bayesian, one_to_one, mean_probability, lambda n: centred(bayesian(n))],
)
@pytest.mark.parametrize("which", [SEVERAL, NUMBERS, NONE])
def test_a_map_that_counts_classes_is_refused_where_there_are_none(align, which):
    count = which.train.y.shape[1] if which.train.y.ndim > 1 else 3
    at = {"normalized": add(learnable(jnp.zeros((8, 8, 3))))}
    program = reprogram(fitting.FORWARD, at, align(count))
    given = {"loss": lambda seen: seen.output.mean(1)} if which is NONE else {}
    with pytest.raises(ValueError, match=f"'output' counts classes, .*{which.answers}"):
        train(program=program, task=which, epochs=1, **given)


def test_what_is_estimated_without_classes_is_not():
    at = {"normalized": add(learnable(jnp.zeros((8, 8, 3))))}
    program = reprogram(fitting.FORWARD, at, linear(3, standardised=True))
    fitted = train(program=program, task=SEVERAL, epochs=1)
    assert float(fitted.params.fixed["output"]["deviation"].std()) > 0


def test_shots_are_of_classes():
    with pytest.raises(ValueError, match="has labels, expected a class for each row"):
        data.splits.shots(SEVERAL, 2, seed=0)


def test_digests_differ_by_the_kind_of_answers():
    zeros = TASK._replace(answers="none")
    assert data.digest(zeros) != data.digest(TASK)
