"""The protocol of the map: who chooses, what is reported, and by which numbers."""

import json
from dataclasses import asdict, replace

import jax
import numpy as np
import optax
import pytest

from experiments import taxonomy_map
from experiments.map import protocol, tasks
from experiments.map.cells import CELLS, entries
from experiments.map.controls import CONTROLS
from experiments.map.protocol import choose, measured, place_of
from experiments.sweep import Outcome
from reprojax.training import fit, metrics
from reprojax.training.caches import cached

SMALL = {"train": 20, "validation": 10, "test": 12}
QUICK = {"rates": [0.01, 0.1], "epochs": 1, "batch": 10, "sizes": SMALL}
QUICK |= {"choosing": [0], "reported": [1, 2]}
PROTOCOL = place_of({"bench": "figures", "cell": CELLS[0], "protocol": QUICK}).protocol
LEARNED = ["learnable", "input", "additive", "statistical"]
FIXED = ["fixed", "input", "parametric", "identity"]


def two_candidates(*given):
    """Of each cell: to compile all eight takes long."""
    few = lambda entry: dict([*entry.programs.items()][:2])
    found = entries(*given).items()
    return {cell: entry._replace(programs=few(entry)) for cell, entry in found}


def settings(cell, **more):
    return {"bench": "figures", "cell": cell, "protocol": QUICK | more}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(tasks, "POOL", 120)
    monkeypatch.setattr(protocol, "entries", two_candidates)
    for made in (protocol._bench, protocol._prompts, protocol._made):
        made.cache_clear()


def test_reported_numbers_are_those_of_plain_fits():
    """By `fit` with a plain optimiser, for the rate that was chosen."""
    found = json.loads(json.dumps(measured(settings(LEARNED))))
    assert found["rate"] in QUICK["rates"] and len(found["validation"]) == 2
    for run, seed in zip(found["runs"], (1, 2), strict=True):
        bench, entry = place_of(settings(LEARNED)).at(seed)
        (program,) = entry.programs.values()
        plain = fit(
            program,
            bench.model.frozen,
            entry.task,
            optimizer=optax.adam(found["rate"]),
            epochs=1,
            batch=10,
            seed=seed,
            metrics=(metrics.calibration_error,),
            progress=False,
        )
        assert run["seed"] == seed
        assert (run["test"], run["validation"]) == (
            plain.score["test"],
            plain.score["validation"],
        )
        wanted = plain.metrics["calibration error"]
        assert run["calibration error"] == pytest.approx(wanted, abs=1e-4)
    params = plain.params
    assert found["prompt"] == sum(a.size for a in jax.tree.leaves(params.learnable))
    assert found["alignment"] == 0
    assert found["bytes"] == sum(a.nbytes for a in jax.tree.leaves(params))


@pytest.mark.parametrize("cell", ["learnable hidden additive linear", "fixed input"])
def test_a_slow_model_computes_what_lies_below_a_prompt_once(cell, monkeypatch):
    """And its numbers are those that it has without."""
    cell = cell.split() if cell != "fixed input" else [*FIXED[:3], "linear"]
    one = settings(cell, choosing=[0], reported=[1], rates=[0.03])
    kept = []
    monkeypatch.setattr(
        protocol, "cached", lambda *own, **how: kept.append(own) or cached(*own, **how)
    )
    plain = measured(one)
    assert not kept
    monkeypatch.setattr(protocol, "SLOW", ("figures",))
    found = measured(one)
    assert kept and found["candidate"] == plain["candidate"]
    assert found["validation"] == pytest.approx(plain["validation"], abs=1e-6)
    for name in ("test", "validation", "calibration error"):
        wanted = plain["runs"][0][name]
        assert found["runs"][0][name] == pytest.approx(wanted, abs=1e-4), name


def test_of_a_slow_model_the_controls_and_the_cells_above_a_cache_are_first():
    given = [*taxonomy_map.jobs(["clothing"], PROTOCOL)]
    assert given[0].startswith("clothing/control") and "fine-tuning" in given[-1]
    cells = [name for name in given if "control" not in name]
    order = [name.split("-")[1] for name in cells]
    assert order == ["hidden"] * 24 + ["embedding"] * 24 + ["input"] * 24
    own = [*taxonomy_map.jobs(["figures"], PROTOCOL)]
    assert own[:72] == [f"figures/{'-'.join(cell)}" for cell in CELLS]


def test_the_test_split_does_not_choose(monkeypatch):
    place = place_of(settings(FIXED))
    name, rate, compared = choose(place)
    assert rate is None and len(compared) == 2
    assert compared[name] == max(compared.values())
    whole = tasks.BENCHES["figures"]

    def spoilt(**given):
        bench = whole(**given)
        test = bench.task.test
        wrong = test._replace(y=(test.y + 1) % len(bench.task.classes))
        return bench._replace(task=bench.task._replace(test=wrong))

    monkeypatch.setitem(tasks.BENCHES, "figures", spoilt)
    for made in (protocol._bench, protocol._prompts, protocol._made):
        made.cache_clear()
    assert choose(place) == (name, rate, compared)


def test_the_test_examples_are_those_of_all_seeds():
    place = place_of(settings(FIXED))
    (a, _), (b, _) = place.at(0), place.at(1)
    assert np.array_equal(a.task.test.x, b.task.test.x)
    assert not np.array_equal(a.task.train.x, b.task.train.x)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"bench": "nothing"}, "got the bench 'nothing', expected one of"),
        ({"cell": ["fixed", "input", "additive", "map"]}, "expected one of the 72"),
        (
            {"protocol": {"steps": 3}},
            "got \\['steps'\\] in the protocol, expected some",
        ),
        ({"protocol": {"reported": [0, 2]}}, "got the seeds \\[0\\] to choose by and"),
        ({"protocol": {"rates": []}}, "expected rates, and seeds of both kinds"),
    ],
)
def test_wrong_settings(changed, message):
    with pytest.raises(ValueError, match=message):
        measured(settings(LEARNED) | changed)


def test_a_cell_without_a_program_says_why():
    own = settings(["fixed", "input", "additive", "identity"]) | {"bench": "digits"}
    assert measured(own)["why_not"].startswith("The task's classes are none of the")


def test_a_wrong_control():
    own = {"bench": "figures", "control": "luck", "protocol": QUICK}
    with pytest.raises(ValueError, match="got luck, expected one of the controls"):
        measured(own)


# -- all cells


def test_every_cell_is_a_job_and_a_place_in_the_table():
    given = taxonomy_map.jobs(["figures", "maps"], PROTOCOL)
    assert len(given) == 2 * (72 + len(CONTROLS))
    names = list(given)
    done = {"candidate": "a", "runs": [{"test": 0.5}, {"test": 0.7}]}
    values = [(done, None), ({"why_not": "No."}, None), (None, "ValueError: no")]
    found = {
        name: Outcome(name, given[name], value, error, [], 1.0)
        for name, (value, error) in zip(names, values, strict=False)
    }
    first, second = (
        "\n".join(taxonomy_map.table(b, found)) for b in ("figures", "maps")
    )
    assert "| learnable input additive | 0.600 ± 1.271 | — | failed | … |" in first
    assert first.count("\n| ") == 18 + len(CONTROLS) + 2 and "\n—: No." in first
    assert "| fine-tuning | … |" in first
    assert "±" not in second


def learned(bench, cell, accuracy):
    own = {
        "bench": bench,
        "cell": list(cell),
        "protocol": asdict(PROTOCOL),
    }
    value = {"validation": {"a": accuracy / 2, "b": accuracy}, "runs": []}
    return Outcome(f"{bench}/{'-'.join(cell)}", own, value, None, [], 1.0)


def test_the_best_cells_get_other_numbers_of_examples_and_as_many_steps():
    cells = [cell for cell in CELLS if cell.format == "learnable"][:4]
    found = [learned("figures", c, a) for c, a in zip(cells, (1, 3, 2, 0), strict=True)]
    found += [learned("figures", CELLS[-1], 9), learned("maps", cells[0], 0)]
    given = taxonomy_map.on_examples({o.name: o for o in found}, (5, 40), 2)
    names = [
        f"figures/examples-{n}/{'-'.join(cells[i])}" for n in (5, 40) for i in (1, 2)
    ]
    names += [f"maps/examples-{n}/{'-'.join(cells[0])}" for n in (5, 40)]
    assert sorted(given) == sorted(names)
    few, many = (given[names[i]]["protocol"] for i in (0, 3))
    assert few["sizes"] == SMALL | {"train": 5, "validation": 5}
    assert (few["batch"], few["epochs"]) == (5, 2), "two steps, as 20 examples by 10"
    assert many["sizes"] == SMALL | {"train": 40, "validation": 10}
    assert (many["batch"], many["epochs"]) == (10, 1), "at least one epoch"


def test_cells_are_run_kept_and_shown(tmp_path, monkeypatch, capsys):
    """In this process: another one would draw the whole pool."""
    from concurrent.futures import ThreadPoolExecutor

    few = [cell for cell in CELLS if [*cell] in (LEARNED, FIXED)]
    monkeypatch.setattr(taxonomy_map, "CELLS", few)
    controls = ["no-prompt-rule", "nearest-input"]
    monkeypatch.setattr(taxonomy_map, "CONTROLS", controls)
    monkeypatch.setattr(taxonomy_map.sweep, "processes", ThreadPoolExecutor)
    config = taxonomy_map.Config(("figures",), PROTOCOL, workers=1, out=tmp_path)
    found = taxonomy_map.main(config)
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out and text.count("| …") == 18 * 4 - 2
    assert all(f"| {name} | 0" in text for name in controls)
    assert taxonomy_map.main(config) == found, "nothing is run again"
    with pytest.raises(ValueError, match="another run(?s:.*)epochs: got 2, expected 1"):
        taxonomy_map.main(replace(config, protocol=replace(PROTOCOL, epochs=2)))


@pytest.mark.parametrize("wrong", [{"best": 0}, {"examples": (16, 1)}])
def test_wrong_numbers_of_examples(wrong, tmp_path):
    config = taxonomy_map.Config(("figures",), PROTOCOL, out=tmp_path / "map", **wrong)
    with pytest.raises(ValueError, match="expected at least one cell, and at least tw"):
        taxonomy_map.main(config)
    assert not (tmp_path / "map").exists()
