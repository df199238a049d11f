"""The table of one accelerator is whole, within its time, and counts what was done."""

import json
import time
from math import inf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import accelerator, accelerator_torch
from experiments.benchmarks.accelerator import Bench, Case, Report, Row, cases, run
from experiments.benchmarks.limits import product_operations
from experiments.benchmarks.workloads import KINDS, TINY, of_images, of_words
from reprojax.testing.compiled import operations


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(rows, text of the table, JSON) of a run."""
    out = tmp_path_factory.mktemp("accelerator")
    given = ["--tiny", "--no-torch", "--dtypes", "float32", "--limit", "100000"]
    report = accelerator.main([*given, "--out", str(out)])
    written = json.loads((out / "results.json").read_text())
    return report.rows, (out / "table.md").read_text(), written


def test_every_case_has_a_row_with_numbers(found):
    rows, table, written = found
    names = [(case.model, case.name) for case in all_cases(["float32"], torch=False)]
    assert len(names) == 11 and [(row.model, row.case) for row in rows] == names
    device = jax.devices()[0].device_kind
    assert written["device"] == device and f"jax {jax.__version__}" in table
    assert [Row(**each) for each in written["rows"]] == rows
    assert table.count("\n| ") == len(rows) + 1
    for row in rows:
        assert row.seconds > 0 and row.share > 0 and "failed" not in row.note
    for row in rows[1:]:
        assert row.memory > 0 and row.compiling > 0
    over = [row.over for row in rows if row.model and "K =" not in row.case]
    assert len(over) == 6 and min(over) > 0 and over[0] == over[3] == 1


def test_the_numbers_of_a_row_agree(found):
    rows, _, _ = found
    limit = 2 * TINY.matrix**3 / rows[0].seconds
    counts = {"ViT-B/16": TINY.images, "SmolLM2-135M": TINY.texts * TINY.length}
    done = {"ViT-B/16": floor_of_vit(), "SmolLM2-135M": floor_of_llama()}
    for row in (row for row in rows if row.case == "floor"):
        assert row.rate * row.seconds == pytest.approx(counts[row.model])
        assert row.share * limit * row.seconds == pytest.approx(done[row.model])
    (many,) = (row for row in rows if row.case == "padding, K = 3")
    assert many.rate * many.seconds == pytest.approx(3 * TINY.each[0])
    assert "a program" in many.note


def all_cases(dtypes, torch):
    return cases(Bench(TINY, lambda: inf), dtypes, torch)


def test_cases_stand_for_both_types_and_for_pytorch():
    assert len(all_cases(accelerator.DTYPES, torch=False)) == 22
    torch = [c for c in all_cases(accelerator.DTYPES, torch=True) if "Py" in c.name]
    assert len(torch) == 4 and {case.model for case in torch} == set(KINDS)


# -- operations


def count(function, *args):
    return product_operations(jax.make_jaxpr(function)(*args).jaxpr)


def test_operations_of_a_product():
    a, b = jnp.ones((5, 7)), jnp.ones((7, 11))
    assert count(jnp.matmul, a, b) == 2 * 5 * 7 * 11 == operations(jnp.matmul, a, b)
    batched = jax.vmap(jnp.matmul, (0, None))
    assert count(batched, jnp.ones((3, 5, 7)), b) == 3 * 2 * 5 * 7 * 11
    square = jnp.ones((4, 4))
    again = lambda a: jax.lax.scan(lambda x, _: (x @ a, None), a, length=6)[0]
    assert count(again, square) == 6 * 2 * 4**3
    unused = lambda a: (a @ a @ a, a + 1)[1]
    assert count(unused, square) == 0
    assert count(jax.jit(unused), square) == 0


def products_of_vit():
    """(by weights, of values with values), of one image, forward."""
    of, patches = TINY.vit, (TINY.pixels // TINY.vit.patch) ** 2
    length, width = patches + 1, of.width
    block = 4 * width**2 + 2 * width * of.hidden
    weights = patches * 3 * of.patch**2 * width + of.depth * length * block
    return weights + width * of.classes, of.depth * 2 * length**2 * width


def products_of_llama():
    """(by weights, of values with values), of a text, forward; the last word's head."""
    of, length = TINY.llama, TINY.length
    width, depth = of["hidden_size"], of["num_hidden_layers"]
    groups = of["num_key_value_heads"] / of["num_attention_heads"]
    block = width**2 * (2 + 2 * groups) + 3 * width * of["intermediate_size"]
    weights = depth * length * block + width * of["vocab_size"]
    return weights, depth * 2 * length**2 * width


def floor_of_vit():
    """A product by weights has one gradient that is wanted, one of values has two."""
    weights, values = products_of_vit()
    return 2 * TINY.images * (2 * weights + 3 * values)


def floor_of_llama():
    weights, values = products_of_llama()
    return 2 * TINY.texts * (2 * weights + 3 * values)


@pytest.mark.parametrize("dtype", accelerator.DTYPES)
@pytest.mark.parametrize(
    "make, expected", [(of_images, floor_of_vit), (of_words, floor_of_llama)]
)
def test_operations_of_a_floor_are_those_of_its_layers(make, expected, dtype):
    its = make(TINY, dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(its.frozen)} == {jnp.dtype(dtype)}
    assert count(its.floor, *its.given) == expected()


# -- time


def quick(monkeypatch):
    monkeypatch.setattr(accelerator, "FIRST", {"step": 0.0})


def case(name, run):
    return Case("step", name, "float32", "padding", run)


def test_what_would_not_fit_is_skipped(tmp_path):
    out = ["--out", str(tmp_path), "--limit", "25", "--tiny"]
    start = time.monotonic()
    rows = accelerator.main(out).rows
    assert time.monotonic() - start < 10
    assert len(rows) == 26 and all("s left, about" in row.note for row in rows)
    assert (tmp_path / "table.md").read_text().count("skipped") == 26


def test_a_limit_without_room_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        accelerator.main(["--out", str(tmp_path), "--limit", "15"])
    assert "got --limit 15, expected more than 15 s" in capsys.readouterr().err


def test_the_limit_cuts_off_what_runs(tmp_path, monkeypatch):
    quick(monkeypatch)
    ended = []
    monkeypatch.setattr(accelerator.os, "_exit", ended.append)
    report = Report(tmp_path, {"machine": "here"})

    def slow():
        end = time.monotonic() + 20
        while not ended and time.monotonic() < end:
            time.sleep(0.01)
        return Row("a", "float32", "padding")

    todo = [case(name, slow) for name in "ab"]
    run(todo, report, lambda: 0.1)
    assert ended == [0]
    notes = [row.note for row in report.rows[:2]]
    assert notes == ["cut off at the limit", "skipped"]
    assert "cut off" in (tmp_path / "table.md").read_text()


def test_a_case_that_fails_leaves_the_others(tmp_path, monkeypatch):
    quick(monkeypatch)

    def broken(error):
        raise error

    bad = [ValueError("no | such\nthing"), RuntimeError("RESOURCE_EXHAUSTED: of it")]
    todo = [case(str(i), lambda e=e: broken(e)) for i, e in enumerate(bad)]
    todo.append(case("2", lambda: Row("2", "float32", "padding", 1.0)))
    report = Report(tmp_path, {"machine": "here"})
    assert not run(todo, report, lambda: 1e3)
    notes = ["failed: ValueError: no / such", "more memory than there is", ""]
    assert [row.note for row in report.rows] == notes
    assert run(todo[1:], report, lambda: 1e3)


# -- PyTorch


def test_pytorch_may_be_absent(monkeypatch):
    find = accelerator_torch.importlib.util.find_spec
    there = lambda name: None if name == "torch" else find(name)
    monkeypatch.setattr(accelerator_torch.importlib.util, "find_spec", there)
    found = accelerator_torch.ask("ViT-B/16", "float32", True, 10.0)
    assert found == {"absent": "absent: torch is not installed"}
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    found = accelerator_torch.ask("ViT-B/16", "float32", True, 10.0)
    assert "does not run on a tpu" in found["absent"]


@pytest.mark.verify
@pytest.mark.parametrize("model", KINDS)
def test_pytorch_steps_and_learns(model):
    import torch

    found = accelerator_torch.measure(model, "float32", TINY, "cpu", compiled=False)
    assert found["seconds"] > 0 and found["form"] == "eager"
    make = {"ViT-B/16": accelerator_torch.image_loss}
    make["SmolLM2-135M"] = accelerator_torch.word_loss
    prompt, loss = make[model](TINY, torch.float32, torch.device("cpu"))
    step, first = accelerator_torch.stepper(prompt, loss), prompt.detach().clone()
    losses = [float(step()) for _ in range(20)]
    assert losses[-1] < losses[0] and not torch.equal(prompt, first)
    assert np.isfinite(losses).all()
