"""What a map says, on tables with known answers."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from planted import SEEDS, control, job, run, table

from experiments import sweep
from experiments.map import (
    amounts,
    comparisons,
    rows,
    spread,
    survey,
    transfer,
    variance,
)
from experiments.map.reading import Config, lines, main
from experiments.map.rows import bootstrap, grid
from experiments.map.survey import KINDS
from reprojax.taxonomy import OMEGAS, Cell

CELL = Cell("learnable", "input", "additive", "rule")
NAME = f"figures/{'-'.join(CELL)}"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# -- rows


def test_a_row_holds_what_its_run_and_cell_do():
    costs = {"bare": 2.0, "program": 3.0}
    more = {"calibration error": 0.1, "shifted": {"noise": 0.3, "blur": 0.5}}
    value = {
        "runs": [run(2, 0.7, **more)],
        "prompt": 10,
        "alignment": 4,
        "operations": costs,
    }
    (row,) = rows.rows({NAME: job(NAME, value)}).rows
    assert row[:6] == ("figures", *CELL, 2)
    assert (row.accuracy, row.validation, row.calibration) == (0.7, 0.7, 0.1)
    assert (row.shifted, row.numbers, row.operations) == (0.4, 14, 1.5)
    assert np.isnan(row.latency)


def test_what_is_left_out_or_counts_as_nothing_is_counted():
    whole = table(lambda *_: 0.5, ["figures"]) | control("figures", "a", [1, np.nan, 0])
    whole[NAME].value["runs"][1]["test"] = float("nan")
    names = [name for name in whole if name.startswith("figures/fixed-hidden-add")]
    whole[names[0]] = job(names[0], None, "ValueError: no")
    whole[names[1]] = job(names[1], {"why_not": "It cannot."})
    found = rows.rows(whole)
    assert (found.diverged, found.failed, found.impossible) == (2, 1, 1)
    assert found.controls == {("figures", "a"): {2: 1, 3: 0, 4: 0}}
    assert len(found.rows) == 70 * len(SEEDS)
    assert [r.accuracy for r in found.rows if r[:5] == ("figures", *CELL)] == [
        0.5,
        0,
        0.5,
    ]


def test_only_the_benches_that_are_asked_for():
    whole = table(lambda *_: 0.5)
    whole |= control("digits", "a", [1, 1, 1]) | control("figures", "b", [0, 0, 0])
    found = rows.rows(whole, ["digits"])
    assert {row.bench for row in found.rows} == {"digits"}
    assert [*found.controls] == [("digits", "a")]


@pytest.mark.parametrize(
    "benches, name, message",
    [
        (["photos"], NAME, r"\['photos'\], expected some of \['figures'"),
        (["maps"], NAME, r"\['maps'\], expected some of those measured: \['figures'\]"),
        ([], "photos/control-a", r"\['photos'\], expected some of \['figures'"),
        ([], "figures/learnable-input", "expected a cell such as 'learnable-input-add"),
    ],
)
def test_names_that_are_none(benches, name, message):
    with pytest.raises(ValueError, match=message):
        rows.rows({name: job(name, {"runs": [run(2, 0.5)]})}, benches)


def test_cells_of_other_seeds_are_refused():
    whole = table(lambda *_: 0.5, ["figures"])
    whole[NAME].value["runs"].pop()
    with pytest.raises(
        ValueError, match=r"in one cell and .* expected the same in all"
    ):
        grid(rows.rows(whole).rows)


def test_a_grid_has_each_number_in_its_place():
    where = {}

    def score(bench, cell, seed):
        at = ["figures", "digits"].index(bench), KINDS.index(cell[:3])
        where[at + (OMEGAS.index(cell.omega), SEEDS.index(seed))] = len(where)
        return len(where) - 1

    array = grid(rows.rows(table(score, ["digits", "figures"])).rows)
    assert array.shape == (2, 18, 4, 3)
    assert all(array[at] == value for at, value in where.items())


# -- bootstrap


def test_an_interval_over_seeds_is_about_that_of_the_mean():
    values = normal(1, 40)
    own = bootstrap(lambda v: v.mean(), values, tasks=False)
    half = 1.96 * values.std() / 40**0.5
    assert own.value == values.mean()
    assert np.allclose([own.low, own.high], values.mean() + [-half, half], atol=0.04)
    assert own.said() == f"{own.value:+.3f} [{own.low:+.3f}, {own.high:+.3f}]"


def test_tasks_widen_it_only_where_they_are_drawn():
    values = np.arange(4.0)[:, None] + np.zeros(3)
    fixed, drawn = (bootstrap(np.mean, values, tasks=own) for own in (False, True))
    assert fixed.low == fixed.high == 1.5
    assert drawn.low < 0.8 and drawn.high > 2.2


def test_draws_without_a_value_do_not_count():
    low, high = rows.ends(np.array([[np.nan, 1.0], [np.nan, np.nan], [np.nan, 3.0]]))
    assert np.isnan(low[0]) and np.isnan(high[0])
    assert 1 < low[1] < high[1] < 3


# -- winners


def test_places_compare_tasks_of_other_sizes():
    scores = np.full((2, 4, 1), np.nan)
    scores[0, :, 0] = 0.4, 0.3, 0.2, 0.3
    scores[1, 1:3, 0] = 0.1, 0.9
    found = comparisons.beaten(scores)[:, :, 0]
    assert np.allclose(found[0], [0, 0.5, 1, 0.5])
    assert np.allclose(found[1, 1:3], [1, 0]) and np.isnan(found[1, [0, 3]]).all()
    accuracy = np.concatenate([scores, np.full_like(scores, np.nan)], 2)[..., None]
    assert np.allclose(comparisons.places(accuracy)[:, -1], [0, 0.75, 0.5, 0.5])
    assert comparisons.wins(accuracy).tolist() == [1, 0, 1, 0]


def test_a_prompt_that_dominates_by_construction():
    accuracy = 0.5 + 0.002 * normal(3, 4, 2, 5)
    accuracy[:, 0] += 0.1  # better than all on every task
    accuracy[:2, 1] += 0.05  # than two others on two tasks of three
    accuracy[2, 3] = np.nan  # which has no third task
    pairs, count, chance = comparisons.dominating(accuracy)
    assert {(p.better, p.worse, p.tasks) for p in pairs} == {
        (0, 1, 3),
        (0, 2, 3),
        (0, 3, 2),
        (1, 3, 2),
    }
    assert count == 6
    assert np.isclose(chance, 6 * 0.025**3 + 6 * 0.025**2)
    least = next(p.least for p in pairs if p.worse == 1)
    assert 0.04 < least.value < 0.06 and least.half < 0.01


def test_validation_chooses_the_prompt_that_stands_beside_no_prompt():
    accuracy, validation = normal(1, 3, 4, 5), np.zeros((1, 3, 4, 5))
    validation[0, 2] = 1
    accuracy[0, 0] += 10  # a spoilt test split
    controls = {("figures", "no-prompt-rule"): {s: 0.25 for s in range(5)}}
    control_of = comparisons.control_grid(controls, ["figures"], range(5))
    lead = comparisons.lead_over_control(accuracy, validation, control_of)
    assert np.allclose(lead[0, 1], accuracy[0, 2, 1] - 0.25)
    assert np.isnan(lead[0, [0, 2, 3]]).all()
    ((task, omega, difference),) = comparisons.each(lead)
    assert (task, omega) == (0, 1)
    assert np.isclose(difference.value, accuracy[0, 2, 1].mean() - 0.25)


def test_nothing_is_chosen_where_nothing_is():
    validation = np.full((1, 2, 1, 2), np.nan)
    chosen = comparisons.picked(validation)
    assert chosen.tolist() == [[-1]]
    assert np.isnan(comparisons.taken(np.zeros((1, 2, 1, 2)), chosen)).all()


# -- empty cells


def test_the_survey_fills_32_cells():
    assert survey.empty().sum() == 40 and survey.empty(as_listed=True).sum() == 37
    assert survey.PAPERS.shape == (18, 4)
    filled = [("fixed", "input", "concatenative"), ("learnable", "input", "additive")]
    assert not survey.empty()[KINDS.index(filled[0]), 0]
    assert not survey.empty()[KINDS.index(filled[1]), 2]
    assert survey.empty()[KINDS.index(("fixed", "hidden", "additive"))].all()


def test_the_gap_of_empty_cells_is_the_one_planted():
    empty = survey.empty()
    accuracy = 0.5 + 0.1 * normal(3, 1, 4, 1) + 0.01 * normal(3, 18, 4, 5, seed=1)
    accuracy += 0.07 * empty[None, :, :, None]
    own = bootstrap(lambda a: comparisons.gaps(a, empty), accuracy, draws=200)
    assert np.allclose(own.value[0], 0.07, atol=0.01)
    assert (own.low[0] < own.value[0]).all() and (own.value[0] < own.high[0]).all()
    assert (own.value[1] < -0.4).all()  # a better place
    lead = comparisons.lead_of_empty(accuracy, accuracy, empty)
    assert np.allclose(comparisons.over_tasks(lead), 0.07, atol=0.03)


def test_no_gap_where_all_are_filled_or_no_cell_stands():
    scores = np.zeros((1, 2, 2))
    scores[0, 0, 1] = np.nan
    assert np.isnan(comparisons.gap(scores, np.array([[0, 1], [0, 0]], bool))).all()


# -- transfer


def additive(tasks, seed=0):
    """The same effects of each level on all tasks, which differ in their mean."""
    rng, shape = np.random.default_rng(seed), (tasks, 2, 3, 3, 4)
    total = rng.normal(size=(tasks, 1, 1, 1, 1)) * 0.01 + np.zeros(shape)
    for axis in range(1, 5):
        size = [1] * 5
        size[axis] = shape[axis]
        total = total + rng.normal(size=size)
    return total.reshape(tasks, 18, 4, 1)


def test_coordinates_predict_a_task_that_has_the_same_effects():
    accuracy = additive(3)
    accuracy[1, :6] = np.nan  # a task where some cells have no program
    found = transfer.transfer(accuracy)
    assert found.shape == (2, 3, 4)
    assert (found[:, :2] > 0.99).all() and (found[:, 2] > 0.97).all()
    accuracy[2] += 5
    again = transfer.transfer(accuracy)
    assert (again[:, 0, 2] < 0.2).all()  # its level is unknown, its order is not
    assert (again[:, 1, 2] > 0.99).all()


def test_coordinates_do_not_predict_noise():
    accuracy = additive(3)
    accuracy[2] = normal(18, 4, 1)
    found = transfer.transfer(accuracy)
    assert (found[:, 1, 2] <= 0).all() and (np.abs(found[:, 2, 2]) < 0.3).all()
    found = transfer.transfer(normal(3, 18, 4, 2))
    assert (found[:, :2, -1] <= 0).all()


def test_pairs_of_levels_predict_what_single_ones_cannot():
    sign = np.where(np.arange(18) < 9, 1.0, -1.0)[:, None] * [1, -1, 1, -1]
    found = transfer.transfer(np.repeat(sign[None, :, :, None], 3, 0))
    assert (np.abs(found[0, 0]) < 0.05).all() and (found[1, 0] > 0.95).all()


def test_ranks_without_variation_have_no_correlation():
    assert np.isnan(transfer.ranks_agree(np.ones(3), np.arange(3.0)))
    assert np.isclose(
        transfer.ranks_agree(np.array([1, 5, 9]), np.array([3, 2, 1])), -1
    )


# -- variance without a model


def test_sums_of_squares_find_planted_shares():
    """Effects that are orthogonal by construction, of variances 4, 1 and .25."""
    accuracy = np.zeros((2, 2, 3, 3, 2, 4))
    accuracy += 2 * np.array([1, -1])[:, None, None, None, None]  # configuration
    by_task = np.array([[1, -1], [-1, 1]])
    accuracy += by_task[:, None, None, None, :, None]  # alignment, on a task
    accuracy += 0.5 * np.array([1, -1, 1, -1])  # seeds
    found = variance.squares(accuracy)
    assert found is not None and (found.tasks, found.prompts, found.seeds) == (2, 18, 4)
    wanted = {"configuration": 4, "alignment by task": 1, "seeds": 0.25}
    for name, share in found.shares.items():
        assert np.isclose(share, wanted.get(name, 0) / 5.25), name


def test_a_level_that_some_tasks_lack_is_left_out_of_them():
    accuracy = normal(4, 2, 3, 3, 1, 5)
    accuracy[2:, 0, 0] = accuracy[2:, 1, 0, 0] = np.nan  # as on ids
    found = variance.squares(accuracy)
    assert found is not None and (found.tasks, found.prompts) == (4, 12)
    assert np.isclose(sum(found.shares.values()), 1)
    assert variance.squares(np.full_like(accuracy, np.nan)) is None


# -- other measures


def test_correlation_with_a_cost_is_within_tasks():
    cost = np.exp(normal(3, 18, 4, 1))
    accuracy = 5.0 * np.arange(3)[:, None, None, None] - 0.1 * np.log(cost)
    accuracy[0, 0, 0] = np.nan
    cost[1, 2] = 0  # no learnable numbers
    assert np.isclose(spread.with_cost(accuracy, cost), -1)
    accuracy += 3 * np.arange(4)[:, None]
    assert spread.with_cost(accuracy, cost) > -0.5
    assert np.isclose(spread.with_cost(accuracy, cost, by_alignment=True), -1)
    assert np.isnan(spread.with_cost(accuracy, np.full_like(cost, np.nan)))


def test_levels_are_compared_within_what_else_is_equal():
    loss = np.zeros((2, 2, 3, 3, 4, 1)) + 0.3
    loss[:, :, 2] += 0.3  # hidden
    loss[1, :, 0] = np.nan  # the second task has no input
    loss[1] += 1
    found = spread.levels(loss.reshape(2, 18, 4, 1), "location")
    assert np.allclose(found[0], [0.3, 0.8, 1.1])
    assert np.allclose(found[1], [-0.1, -0.125, 0.175])
    assert spread.levels(loss.reshape(2, 18, 4, 1), "alignment").shape == (2, 4)


# -- numbers of examples


def test_an_order_that_turns_is_found():
    own = np.arange(4.0)[:, None] + 0.01 * normal(4, 5)
    other = own.copy()
    other[:2] = own[1::-1]  # the two worst change places
    assert amounts.turned(own, own) == (0, 6)
    assert amounts.turned(own, other) == (1, 6)
    whole = (np.pad(a, ((0, 68), (0, 0)), constant_values=np.nan) for a in (own, other))
    found = amounts.agreement(*(a.reshape(1, 18, 4, 5) for a in whole))
    assert np.isclose(found, 0.8)


def test_cells_on_other_numbers_of_examples_are_read_apart():
    whole = table(lambda *_: 0.5, ["figures"])
    cells = [name for name in whole if name.startswith("figures/learnable-hidden")]
    for i, name in enumerate(cells):
        for one, seed in zip(whole[name].value["runs"], SEEDS, strict=True):
            one |= {"test": 0.5 + 0.02 * i + 0.001 * seed}
    for number in ("1024", "16"):
        for i, name in enumerate(cells):
            more = name.replace("/", f"/examples-{number}/")
            tests = [0.4 - 0.02 * i + 0.001 * seed**2 for seed in SEEDS]
            runs = [run(*own) for own in zip(SEEDS, tests, strict=True)]
            whole[more] = job(more, {"runs": runs})
    assert len(rows.rows(whole).rows) == 72 * len(SEEDS)
    assert rows.numbers_of(whole) == ["16", "1024"]
    others = {n: rows.rows(whole, examples=n).rows for n in rows.numbers_of(whole)}
    read = [*amounts.on_other_numbers(rows.rows(whole).rows, others)]
    _, *lines = [line for line in read if line.startswith("| ")]
    lines, (names, *means) = lines[:2], lines[2:]
    assert [line.split(" | ")[:4] for line in lines] == [
        ["| figures", "16", "12", "3"],
        ["| figures", "1024", "12", "3"],
    ]
    assert "| learnable hidden additive identity | 0.410 ± " in lines[0]
    assert "| -1.000 [-1.000, -1.000] | 66 of 66 |" in lines[0]
    assert names == "| task | alignment | cells | 16 | 1024 | the map's own number |"
    # The cells 0, 4 and 8 are identity's: .4 - .02 * 4 + .001 * 29 / 3.
    assert means[0].startswith("| figures | identity | 3 | 0.330 ± ")
    # Each cell has .02 less than the one before, and linear's are three behind.
    assert means[4].startswith("| figures | identity less linear |  | +0.060 [+0.060, ")
    assert means[3].endswith(f" | {0.5 + 0.02 * 7 + 0.003:.3f} ± 0.002 |")
    (text,) = [*amounts.on_other_numbers(rows.rows(whole).rows, {})][1:]
    assert text == "No other number of examples has been measured yet."


# -- the page


def noisy(bench, cell, seed):
    """Learnable cells .2 better; an effect of the alignment; seeds of .01."""
    at = [["figures", "digits"].index(bench), KINDS.index(cell[:3]), seed]
    noise = np.random.default_rng([*at, OMEGAS.index(cell.omega)]).normal()
    level = 0.4 + 0.2 * (cell.format == "learnable") + 0.1 * (cell.omega == "linear")
    return level + 0.01 * noise


def page(whole, monkeypatch):
    monkeypatch.setattr(rows.bootstrap, "__kwdefaults__", {"draws": 20, "tasks": True})
    return "\n".join(lines(rows.rows(whole), draws=0))


def test_the_page_says_what_was_planted(monkeypatch):
    costs = {"bare": 1.0, "program": 1.1}
    whole = table(noisy, prompt=10, alignment=0, operations=costs, latency=costs)
    for outcome in whole.values():
        for one in outcome.value["runs"]:
            one |= {"calibration error": 0.05, "shifted": {"noise": one["test"] - 0.1}}
    whole |= control("figures", "no-prompt-rule", [0.5, 0.5, 0.51])
    text = page(whole, monkeypatch)
    assert text.startswith(
        "2 tasks (figures, digits), 3 seeds, 144 cells with a result"
    )
    assert "beats no prompt in 1 of 1 pairs" in text
    assert "| figures | rule | learnable" in text
    assert "40 of 72 cells are empty" in text and "37 of 72" in text
    assert "| location: input | 0.100 [0.100, 0.100] | +0.000" in text
    assert "| alignment: rule | 0.050 [0.050, 0.050] |" in text
    assert "| all | main effects | +0.9" in text
    assert "2 tasks, 3 seeds." in text


def test_the_page_of_one_task_says_what_it_cannot(monkeypatch):
    text = page(table(noisy, ["figures"]), monkeypatch)
    assert "No mixed model: got the tasks ['figures'], expected two or more" in text
    assert "Nothing to hold out: there is one task." in text
    assert "No control without a prompt has been measured yet." in text
    assert "No calibration error has been measured yet." in text


def test_the_page_of_a_map_that_has_just_begun(monkeypatch):
    whole = table(noisy)
    some = {name: whole[name] for name in [*whole][:3]}
    text = page(some, monkeypatch)
    assert text.startswith("1 tasks (figures), 3 seeds, 3 cells with a result")


def test_why_there_is_no_mixed_model():
    whole = rows.rows(table(noisy)).rows
    assert variance.why_not(whole) == ""
    assert "got 12 cells for " in variance.why_not(whole[::37])
    tied = [r for r in whole if (r.configuration == "fixed") == (r.alignment == "rule")]
    assert "got 72 cells for 9 effects" in variance.why_not(tied)


def test_the_mixed_model_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.formula", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ValueError, match=r"pip install 'reprojax\[map\]', or pass --no"
    ):
        variance.mixed(rows.rows(table(noisy)).rows)


def score(settings):
    return {"runs": [run(seed, 0.5 + 0.01 * seed) for seed in SEEDS]}


def test_the_command_reads_a_sweeps_folder(tmp_path, capsys):
    with ThreadPoolExecutor(1) as pool:
        for _ in sweep.run(score, {NAME: {}}, tmp_path, executor=pool, progress=False):
            pass
    main(Config(tmp_path, mixed=False))
    assert (
        "1 tasks (figures), 3 seeds, 1 cells with a result" in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="expected some of those measured"):
        main(Config(tmp_path, benches=("maps",), mixed=False))
    with pytest.raises(ValueError, match="got --draws 3, expected at least 20"):
        main(Config(tmp_path, mixed=False, draws=3))


def test_a_folder_without_a_result(tmp_path):
    with pytest.raises(ValueError, match="holds no sweep"):
        main(Config(tmp_path, mixed=False))
    with ThreadPoolExecutor(1) as pool:
        assert not [*sweep.run(score, {}, tmp_path, executor=pool, progress=False)]
    with pytest.raises(ValueError, match="holds no measured cell of these benches"):
        main(Config(tmp_path, mixed=False))
