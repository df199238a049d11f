"""K programs are each of them alone, in both forms."""

import logging
from typing import Any

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import FROZEN, TASK, bits, outcome, split
from jax.nn.initializers import normal, zeros

from reprojax import reprogram
from reprojax.alignments import bayesian, linear
from reprojax.core import Manipulation, Params, chain
from reprojax.data import Shared, Split, Task, order
from reprojax.data.order import outline
from reprojax.data.task import SPLITS
from reprojax.formats import learnable
from reprojax.operators import add, dropout
from reprojax.testing.compiled import operations
from reprojax.training import compilation, members, population
from reprojax.training.caches import cached
from reprojax.training.loop import Fitted, fit
from reprojax.training.losses import cross_entropy
from reprojax.training.members import Members
from reprojax.training.population import Cost, costs, fastest, fit_population
from reprojax.training.runs import Run

PARTS = chain(prompt=add(learnable(normal(0.1))), drop=dropout(0.3))
PROGRAM = reprogram(fitting.FORWARD, {"normalized": PARTS, "output": bayesian(3)})
HEAD = reprogram(fitting.FORWARD, {"output": linear(3, standardised=True)})
FORMS = ("loop", "vmap")
RATES = (0.5, 1.0, 5.0)
SETTINGS = [{"learning_rate": rate} for rate in RATES]
RUN: dict[str, Any] = {"epochs": 3, "batch": 4, "progress": False}


def sgd(rate: float = 1.0) -> optax.GradientTransformation:
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate)


ONE = sgd()


def many(program: Any = PROGRAM, how: str = "loop", **changes: Any) -> list[Fitted]:
    given = {"task": TASK, "optimizer": ONE, "seeds": [0, 1, 2], "how": how}
    return fit_population(program, FROZEN, **(RUN | given | changes))


def alone(program: Any = PROGRAM, rate: float = 1.0, **changes: Any) -> Fitted:
    given = {"task": TASK, "optimizer": sgd(rate)}
    return fit(program, FROZEN, **(RUN | given | changes))


def near(found: Fitted, expected: Fitted) -> None:
    assert found.score == expected.score
    pairs = zip(*map(jax.tree.leaves, (found[:2], expected[:2])), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.curves, expected.curves, rtol=1e-5)


@pytest.fixture(scope="module")
def singles() -> list[Fitted]:
    return [alone(rate=rate, seed=seed) for seed, rate in enumerate(RATES)]


@pytest.mark.parametrize("how", FORMS)
def test_a_member_is_the_program_alone(how, singles):
    found = many(how=how, settings=SETTINGS)
    for a, b in zip(found, singles, strict=True):
        near(a, b)
    learned = [fitted.last.learnable["normalized"]["prompt"] for fitted in found]
    assert min(np.abs(learned[0] - other).max() for other in learned[1:]) > 0.05


def test_the_loop_gives_the_very_bits(singles):
    found = many(settings=SETTINGS)
    assert [outcome(a) for a in found] == [outcome(b) for b in singles]


@pytest.mark.parametrize("refresh", ["exact", "once"])
def test_maps_are_refreshed_as_in_fit(refresh):
    found = many(how="vmap", refresh=refresh, seeds=[3, 4])
    for seed, fitted in zip((3, 4), found, strict=True):
        near(fitted, alone(seed=seed, refresh=refresh))


def test_other_first_params():
    at = {"normalized": add(learnable(zeros)), "output": bayesian(3)}
    from_zero = reprogram(fitting.FORWARD, at)
    at = {"normalized": add(learnable(normal(1.0))), "output": bayesian(3)}
    drawn = reprogram(fitting.FORWARD, at)
    found = many(from_zero, "vmap", seeds=[0, 0], inits=[from_zero.init, drawn.init])
    near(found[0], alone(from_zero))
    near(found[1], alone(drawn))


# -- tasks


def relabelled(task: Task, shift: int) -> Task:
    """The same images, other labels."""
    parts = {n: getattr(task, n) for n in ("train", "validation", "test")}
    return task._replace(**{n: Split(s.x, (s.y + shift) % 3) for n, s in parts.items()})


@pytest.mark.parametrize(
    "how, order", [("loop", "own"), ("vmap", "own"), ("vmap", "shared")]
)
def test_tasks_of_their_own(how, order):
    splits = {
        n: split(c, 9) for n, c in zip(Task._fields[1:4], (10, 7, 5), strict=True)
    }
    tasks = [TASK, relabelled(TASK, 1), TASK._replace(**splits)]
    found = many(HEAD, how, task=tasks, seeds=[2, 2, 2], order=order)
    for task, fitted in zip(tasks, found, strict=True):
        near(fitted, alone(HEAD, task=task, seed=2))


def shown_all() -> Manipulation:
    """Adds a learned number, which begins as the context's largest."""

    def init(key: Any, spec: Any, scope: Any) -> Params:
        return Params(jnp.zeros(3) + scope.context.max())

    def apply(params: Params, value: Any, scope: Any) -> Any:
        return value + params.learnable + scope.context.mean()

    return Manipulation(init, apply)


def for_all(value: Any) -> Task:
    parts = {n: getattr(TASK, n)._replace(context=Shared(value)) for n in SPLITS}
    return TASK._replace(**parts)


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize("length", [3, 2000])  # NumPy's texts leave long ones out
def test_a_context_for_all_rows_is_the_members_own(how, length):
    program = reprogram(
        fitting.FORWARD, {"normalized": shown_all(), "output": linear(3)}
    )
    values = np.zeros((2, length), np.float32)
    values[1, length // 2] = 5.0
    tasks = [*map(for_all, values)]
    found = many(program, how, task=tasks, seeds=[1, 1], epochs=1)
    for task, fitted in zip(tasks, found, strict=True):
        near(fitted, alone(program, task=task, seed=1, epochs=1))
    with pytest.raises(ValueError, match=r"train.context: got Shared\(.*float32\[4\]"):
        many(
            program,
            how,
            task=[tasks[0], for_all(np.zeros(4, np.float32))],
            seeds=[1, 1],
        )


def numbers(missing: float) -> Task:
    """As many rows a split as a batch has."""
    y = np.array([[1.0], [2.0], [missing], [0.0]], np.float32)
    rows = Split(split(4, 1).x, y)
    return Task("numbers", rows, rows, rows, (), answers="numbers")


@pytest.mark.parametrize("how", FORMS)
def test_a_loss_of_one_number_suits_each_task(how):
    program = reprogram(fitting.FORWARD, {"output": linear(1)})
    given = {"loss": lambda seen: jnp.square(seen.output - seen.labels).mean()}
    given |= {"seeds": [1, 1], "epochs": 1}
    assert len(many(program, how, task=[numbers(3.0)] * 2, **given)) == 2
    for missing in ((3.0, np.nan), (np.nan, 3.0)):
        with pytest.raises(ValueError, match=r"gave one number, .*\(a label is -1\)"):
            many(program, how, task=[*map(numbers, missing)], **given)


def test_tasks_are_of_one_type():
    """Stacked, uint8 would be float32 for the member of uint8 too."""
    bytes_ = TASK._replace(holds="pixels")
    parts = {n: getattr(TASK, n) for n in SPLITS}
    parts = {n: s._replace(x=s.x.astype(np.float32)) for n, s in parts.items()}
    line = r"train.x: got float32\[10,8,8,3\], expected uint8\[10,8,8,3\]"
    with pytest.raises(ValueError, match=line):
        many(task=[bytes_, bytes_._replace(**parts)], seeds=[0, 1])
    wide = {n: s._replace(y=s.y.astype(np.int64)) for n, s in parts.items()}
    wide = {n: s._replace(x=getattr(TASK, n).x) for n, s in wide.items()}
    population._check_alike([TASK, TASK._replace(**wide)])


def test_heads_on_cached_features():
    above, _, values = cached(HEAD, FROZEN, TASK, progress=False)
    found, expected = many(above, "vmap", task=values), many(HEAD)
    for a, b in zip(found, expected, strict=True):
        near(a, b)


def test_a_shared_order_is_that_of_the_first_seed():
    found = many(HEAD, "vmap", order="shared")
    near(found[0], alone(HEAD, seed=0))
    assert np.abs(found[1].curves - alone(HEAD, seed=1).curves).max() > 1e-3


# -- one forward


def work(program: Any, count: int, together: bool) -> float:
    """Operations of the vmapped step of so many members."""
    big = TASK._replace(train=split(64, 1))
    run = Run(program, ONE, cross_entropy, (), FROZEN, outline(big, 64))
    run = Members(run, [big] * count, [*range(count)], together)
    states = members.grouped(members.first_states(run, 1))
    *rows, axis = members.rows(run, 0)
    given = states, FROZEN, *rows
    return operations(members.stepper(run.run, axis).bound(*given), *given)


def test_heads_share_the_forward_below_them():
    """The convolution is most of it, and eight heads add little."""
    one, eight = (work(HEAD, count, True) for count in (1, 8))
    own = work(HEAD, 8, False)
    print(
        f"eight heads: {eight / one:.2f} of one, {own / one:.2f} on rows of their own"
    )
    assert own > 7 * one
    assert eight < 1.2 * one


# -- which form


def test_both_forms_are_measured_and_one_is_recommended():
    given = {"optimizer": ONE, "batch": 4, "seeds": range(3), "rounds": 2}
    found = costs(HEAD, FROZEN, TASK, **given)
    assert set(found) == {*FORMS}
    assert all(0 < cost.seconds < 1 and cost.bytes > 1000 for cost in found.values())
    assert found["loop"].bytes < found["vmap"].bytes
    tight = costs(HEAD, FROZEN, TASK, memory=1.0, **given)
    assert np.isnan(tight["vmap"].seconds) and not np.isnan(tight["loop"].seconds)
    assert fastest(tight, float("inf")) == "loop"  # it was not tried
    table = {"loop": Cost(1.0, 10)}
    assert fastest(table | {"vmap": Cost(0.98, 10)}) == "loop"  # noise
    assert fastest(table | {"vmap": Cost(0.7, 15)}) == "vmap"
    assert fastest(table | {"vmap": Cost(0.7, 16)}) == "loop"
    assert fastest(table | {"vmap": Cost(0.7, 16)}, 2.0) == "vmap"


def test_what_is_measured_is_what_runs():
    compilation._shared.cache_clear()
    for how in FORMS:
        many(HEAD, how, loss=cross_entropy)
    run = {*compilation._executables}
    costs(HEAD, FROZEN, TASK, optimizer=ONE, batch=4, seeds=range(3), rounds=1)
    assert {*compilation._executables} <= run


def test_another_population_compiles_nothing(caplog):
    for how in FORMS:
        many(how=how, seeds=[5, 6, 7])
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            many(how=how, seeds=[8, 9, 10])
        lines = [record.getMessage() for record in caplog.records]
        assert not [line for line in lines if line.startswith("Compiling ")]


# -- what goes wrong


@pytest.mark.parametrize("how", FORMS)
def test_a_member_that_diverges_leaves_the_others_alone(how, singles):
    rates = [*RATES[:2], float("inf")]
    found = many(how=how, settings=[{"learning_rate": rate} for rate in rates])
    near(found[0], singles[0])
    near(found[1], singles[1])
    assert all(np.isnan(value) for value in found[2].score.values())


CALLED = {"loop": (order, "batch"), "vmap": (members, "rows")}


@pytest.mark.parametrize("how", FORMS)
def test_an_interrupted_run_is_resumed(tmp_path, monkeypatch, how):
    expected = many(how=how, settings=SETTINGS)
    owner, name = CALLED[how]
    original, calls = getattr(owner, name), []

    def until_some_have_come(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == {"loop": 15, "vmap": 5}[how]:
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, until_some_have_come)
        many(how=how, settings=SETTINGS, out=tmp_path)
    with pytest.raises(ValueError, match="settings: got"):
        many(how=how, settings=SETTINGS[::-1], out=tmp_path, resume=True)
    other = FORMS[how == "loop"]
    with pytest.raises(ValueError, match=f"form: got {other}, expected {how}"):
        many(settings=SETTINGS, out=tmp_path, resume=True, how=other)
    found = many(how=how, settings=SETTINGS, out=tmp_path, resume=True)
    assert [outcome(a) for a in found] == [outcome(b) for b in expected]
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"optimizer": optax.inject_hyperparams(optax.adam)(0.1)}, "optimizer"),
        ({"task": [TASK, TASK, relabelled(TASK, 1)]}, "data"),
        ({"inits": [PROGRAM.init] * 3}, "inits"),
    )
    for changes, what in cases:
        given: dict[str, Any] = {"how": how, "settings": SETTINGS, "out": tmp_path}
        given["resume"] = True
        with pytest.raises(ValueError, match=f"another run:(.|\n)*{what}: got"):
            many(**given | changes)


SHORT = TASK._replace(test=split(6, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "expected one of each a member, and at least one member"),
        ({"settings": SETTINGS[:2]}, r"got {'tasks': 3, 'seeds': 3, 'settings': 2}"),
        ({"task": [TASK] * 2}, r"got {'tasks': 2, 'seeds': 3}"),
        (
            {"task": [TASK, TASK, SHORT]},
            r"tasks differ:\n  test.x: got uint8\[6,8,8,3\], ",
        ),
        ({"epochs": 0}, "got epochs=0, expected a whole number of at least 1"),
        (
            {"settings": [{"momentum": 0.9}] * 3},
            r"got settings for \['momentum'\].*\(\['learning_rate'\]\)",
        ),
        (
            {"settings": SETTINGS, "optimizer": optax.sgd(1.0)},
            r"\(it has none\); make it by optax.inject_hyperparams",
        ),
        (
            {
                "settings": SETTINGS,
                "optimizer": optax.inject_hyperparams(optax.sgd)(
                    learning_rate=optax.linear_schedule(1.0, 0.0, 9)
                ),
            },
            r"got settings for \['learning_rate'\], expected .*it has none",
        ),
        ({"program": reprogram(fitting.FORWARD, {"output": bayesian(4)})}, "answers"),
    ],
)
def test_bad_input_is_refused_before_compilation(caplog, changes, message):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        with pytest.raises(ValueError, match=message):
            many(**changes)
    lines = [record.getMessage() for record in caplog.records]
    assert not [line for line in lines if "train_step" in line]


@pytest.mark.usefixtures("unchecked")
def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="got how='pmap' and order='own', expected"):
        population._check([TASK], [0], None, None, "pmap", "own")
    with pytest.raises(ValueError, match="expected how='vmap', where they share a"):
        population._check([TASK] * 2, [0, 1], None, None, "loop", "shared")


def test_states_that_are_stacked_come_apart_again():
    run = Run(PROGRAM, ONE, cross_entropy, (), FROZEN, outline(TASK, 4))
    run = Members(run, [TASK] * 2, [0, 1], True)
    states = members.first_states(run, 2)
    back = members.apart(members.grouped(states))
    keys = [jax.random.key_data(state.key) for state in back]
    assert bits([jnp.asarray(k) for k in keys]) == bits(
        [jax.random.key_data(state.key) for state in states]
    )
    assert bits([s.params for s in back]) == bits([s.params for s in states])
