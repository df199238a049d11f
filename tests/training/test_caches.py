"""A run on cached values is the run on images, and a wrong cache is never used."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import backbones
import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import bits
from jax.nn.initializers import normal

from reprojax import recipes, record, reprogram, stateless
from reprojax.alignments import bayesian, linear
from reprojax.core import Params, Program, Scope, chain
from reprojax.data import Split, Task
from reprojax.formats import learnable
from reprojax.operators import add, dropout, insert, resize
from reprojax.saving.folders import only_writer
from reprojax.testing.compiled import operations
from reprojax.training import caches, steps
from reprojax.training.caches import cached
from reprojax.training.loop import fit

CARD = backbones.transformer()
PROMPT = learnable(normal(0.1))
BLOCKS = CARD.roles["blocks"]


def split(count: int, seed: int) -> Split:
    y = np.random.default_rng(seed).permutation(np.arange(count) % 3)
    return Split(backbones.photos(count, 10, seed=seed), y.astype(np.int32))


TASK = Task("photos", split(11, 1), split(7, 2), split(5, 3), ("a", "b", "c"))
RUN: dict[str, Any] = {"epochs": 3, "batch": 4, "progress": False}
RUN |= {"optimizer": optax.sgd(0.05)}


def program_at(site: str, part: Any = None, align: Any = None) -> Program:
    part = insert(PROMPT, 2, at=1) if part is None else part
    align = linear(3, standardised=True) if align is None else align
    return reprogram(CARD.forward, {"input": resize(16), site: part, "output": align})


def kept(program: Program, **changes: Any) -> tuple[Program, Task]:
    given = {"frozen": CARD.frozen, "task": TASK, "batch": 4, "progress": False}
    above, _, task = cached(program, **(given | changes))
    return above, task


def values(task: Task) -> list[np.ndarray]:
    return [split.x for split in (task.train, task.validation, task.test)]


CASES = {
    "tokens at a block": program_at(BLOCKS[1]),
    "a prompt on keys": program_at(CARD.roles["keys"][1], add(PROMPT)),
    "dropout and a prompt": program_at(
        BLOCKS[1], chain(drop=dropout(0.2), mark=add(PROMPT))
    ),
    "a head on features": recipes.linear_probe(CARD, targets=3),
    "a label map": reprogram(
        CARD.forward, {"input": resize(16), "output": bayesian(3)}
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_values_is_the_run_on_images(case):
    program = CASES[case]
    above, task = kept(program)
    one = fit(program, CARD.frozen, TASK, **RUN)
    two = fit(above, CARD.frozen, task, **RUN)
    assert one.score == two.score
    for a, b in zip(*(map(jax.tree.leaves, (one[:2], two[:2]))), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    # and the params are the first program's own
    accuracy = steps.evaluate(program, two.params, CARD.frozen, TASK.test, 4)
    assert accuracy == two.score["test"]


def test_values_are_those_at_the_site_row_by_row():
    above, task = kept(program_at(BLOCKS[1]))
    assert task.holds == f"{BLOCKS[1]}/raw"
    x = resize(16).apply(Params(), TASK.train.x, Scope())
    _, seen = record(CARD.forward, [BLOCKS[1]])(CARD.frozen, x)
    assert task.train.x.shape == (11, 5, 16)
    np.testing.assert_allclose(task.train.x, seen[BLOCKS[1]], atol=1e-5)
    assert [len(s.y) for s in task[1:4]] == [11, 7, 5]


def test_what_lies_below_is_not_in_the_compiled_step():
    program = program_at(BLOCKS[1])
    above, task = kept(program)
    params = program.init(jax.random.key(0), CARD.frozen, TASK.train.x)

    def cost(apply: Any) -> Any:
        def total(learnable: Any, frozen: Any, params: Any, x: Any) -> jax.Array:
            return apply(params._replace(learnable=learnable), frozen, x).sum()

        return jax.jit(jax.grad(total))

    given = params.learnable, CARD.frozen, params
    whole = operations(cost(program.apply), *given, TASK.train.x)
    rest = operations(cost(above.apply), *given, task.train.x)
    assert rest < 0.7 * whole
    held = lambda f, x: cost(f).lower(*given, x).compile().as_text()
    kernel = "f32[8,8,3,16]"  # of the patches
    assert kernel in held(program.apply, TASK.train.x)
    assert kernel not in held(above.apply, task.train.x)


def test_outer_edits_see_what_the_cache_has_and_no_more():
    above, task = kept(program_at(BLOCKS[1]))
    params = above.init(jax.random.key(0), CARD.frozen, task.train.x)
    seen: list[str] = []

    def spy(site: str, value: Any) -> Any:
        seen.append(site)
        return value

    above.apply(params, CARD.frozen, task.train.x, edit=spy)
    assert seen[:2] == [f"{BLOCKS[1]}/raw", BLOCKS[1]]
    assert seen[-2:] == ["output/raw", "output"]
    with pytest.raises(ValueError, match=r"no such site: \['normalized'\]"):
        record(above.apply, ["normalized"])(params, CARD.frozen, task.train.x)


def test_seeds_share_what_is_compiled():
    program = program_at(BLOCKS[1])
    assert kept(program)[0] is kept(program)[0]


def test_images_that_are_augmented_are_refused_before_anything_is_computed():
    program = program_at("normalized", dropout(0.1))
    with pytest.raises(ValueError, match="augmented: the value at 'normalized'"):
        kept(program)


# -- on disk: a net that traces faster

NET = reprogram(fitting.FORWARD, {"conv:out": add(PROMPT), "output": linear(3)})


def small(program: Program = NET, **changes: Any) -> tuple[Program, Task]:
    return kept(program, **({"frozen": fitting.FROZEN, "task": fitting.TASK} | changes))


def test_a_folder_is_used_again(tmp_path, monkeypatch):
    first = small(folder=tmp_path / "new" / "values")[1]
    assert isinstance(first.train.x, np.memmap)
    monkeypatch.setattr(caches, "_fill", None)  # would be called
    again = small(folder=tmp_path / "new" / "values")[1]
    for a, b in zip(values(again), values(first), strict=True):
        assert not a.flags.writeable and np.array_equal(a, b)
    names = {path.name for path in (tmp_path / "new" / "values").iterdir()}
    files = {"train.npy", "validation.npy", "test.npy", "cache.json"}
    assert names == files | {"lock"}


def test_memory_and_disk_hold_the_same(tmp_path):
    assert bits(values(small()[1])) == bits(values(small(folder=tmp_path)[1]))


def test_bfloat16_comes_back_from_disk(tmp_path):
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), fitting.FROZEN)
    on_disk = small(frozen=half, folder=tmp_path)[1].train.x
    in_memory = small(frozen=half)[1].train.x
    assert on_disk.dtype == in_memory.dtype == jnp.bfloat16
    assert on_disk.tobytes() == in_memory.tobytes()
    small(frozen=half, folder=tmp_path)
    above, task = small(frozen=half, folder=tmp_path)
    fit(above, half, task, **RUN)


def other_backbone() -> dict[str, Any]:
    frozen = jax.tree.map(np.copy, fitting.FROZEN)
    frozen["params"]["head"]["bias"][0] += 1
    return {"frozen": frozen}


def other_images() -> dict[str, Any]:
    test = fitting.TASK.test
    x = test.x.copy()
    x[2, 3, 4, 1] ^= 1
    return {"task": fitting.TASK._replace(test=test._replace(x=x))}


def other_site() -> dict[str, Any]:
    return {"program": reprogram(fitting.FORWARD, {"output": linear(3)})}


def other_preprocessing() -> dict[str, Any]:
    flip = stateless(lambda x: x[:, ::-1])
    at = {"input": flip, "conv:out": add(PROMPT), "output": linear(3)}
    return {"program": reprogram(fitting.FORWARD, at)}


OTHERS = {
    "backbone: got": other_backbone,
    "data: got": other_images,
    "site: got output/raw, expected conv:out/raw": other_site,
    "preprocessing below that site changed": other_preprocessing,
}


@pytest.mark.parametrize("message", OTHERS)
def test_another_cache_is_refused_and_left_as_it_is(tmp_path, message):
    small(folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        small(**OTHERS[message](), folder=tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["cache.json", "train.npy", "test.npy"])
def test_a_torn_file_is_told(tmp_path, name):
    small(folder=tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) - 30])
    with pytest.raises(ValueError, match=rf"{name} is damaged .*remove the folder"):
        small(folder=tmp_path)


def test_a_cache_of_another_kind_of_json_is_told(tmp_path):
    small(folder=tmp_path)
    for text in ("", "[]", "null", "3", "{}", '{"versions": {}, "site": NaN}'):
        (tmp_path / "cache.json").write_text(text)
        with pytest.raises(ValueError, match="cache.json is damaged"):
            small(folder=tmp_path)


def test_what_was_interrupted_begins_anew(tmp_path, monkeypatch):
    expected = small()[1]
    fill = caches._fill

    def half(plan: Any, task: Task, arrays: Any) -> None:
        calls = []

        def values(*given: Any) -> Any:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return plan.values(*given)

        fill(plan._replace(values=values), task, arrays)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(caches, "_fill", half)
        small(folder=tmp_path)
    assert not (tmp_path / "cache.json").exists()
    (tmp_path / "train.npy").write_bytes(b"of a kill between two renames")
    task = small(folder=tmp_path)[1]
    assert np.array_equal(task.test.x, expected.test.x)
    assert np.array_equal(task.train.x, expected.train.x)


def test_values_that_are_not_finite_are_not_kept():
    frozen = jax.tree.map(lambda a: a * jnp.nan, CARD.frozen)
    with pytest.raises(ValueError, match="NaN or infinity at '.*' for train rows"):
        kept(CASES["tokens at a block"], frozen=frozen)


def test_two_writers_on_one_folder(tmp_path):
    with only_writer(tmp_path), pytest.raises(ValueError, match="another run is writ"):
        small(folder=tmp_path)
    small(folder=tmp_path)
    with only_writer(tmp_path):  # readers need no lock
        small(folder=tmp_path)


def test_what_does_not_fit_is_told_before_it_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "_fill", None)
    monkeypatch.setattr(caches, "_memory", lambda: 7000)
    size = r"take 8.45 kB, and memory has 7 kB left.*folder=\.\.\. to keep"
    with pytest.raises(ValueError, match=size):  # 22 rows of 4 x 4 x 6 floats
        small()
    usage = lambda folder: shutil_usage(free=100)
    monkeypatch.setattr(caches.shutil, "disk_usage", usage)
    with pytest.raises(ValueError, match=r"and .* has 100 bytes left.*another folder"):
        small(folder=tmp_path)
    assert not (tmp_path / "cache.json").exists()


def shutil_usage(free: int) -> Any:
    return type("Usage", (), {"free": free})


def test_memory_is_known():
    assert 1e8 < caches._memory() < 1e15


KILLED = """
import sys, time
sys.path[:0] = {tests!r}
import test_caches as here
from reprojax.training import caches
fill = caches._fill
def slow(plan, task, arrays):
    def values(*given):
        print("one more", flush=True)
        time.sleep(.2)
        return plan.values(*given)
    fill(plan._replace(values=values), task, arrays)
caches._fill = slow
here.small(folder={folder!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 3, 5])
def test_kill_while_values_are_written(tmp_path, batches):
    here = Path(__file__).parent
    paths = [str(here), str(here.parent)]
    code = KILLED.format(tests=paths, folder=str(tmp_path))
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None
        for _ in range(batches):
            assert child.stdout.readline()
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    assert not (tmp_path / "cache.json").exists()
    task = small(folder=tmp_path)[1]
    expected = small()[1]
    assert bits(values(task)) == bits(values(expected))
    there = json.loads((tmp_path / "cache.json").read_text())
    assert there["versions"]["jax"] == jax.__version__
