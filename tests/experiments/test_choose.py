"""The choice: validation alone chooses, a killed run goes on to the same choice, and
the winner is a file that answers."""

import errno
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache, partial

import backbones
import jax
import numpy as np
import pytest

from experiments import choose
from experiments.choosing import candidates, jobs, resplits, run, schedule
from experiments.choosing.candidates import Candidate
from experiments.choosing.result import finalists, read_by_the_test
from experiments.choosing.run import Entry
from experiments.choosing.schedule import Book, Cost, Finals, halved
from experiments.choosing.settings import Config, training
from experiments.choosing.sizes import Sizes, drawn, numbers, resized
from experiments.choosing.words import (
    Row,
    less,
    more_images,
    sentences,
    trained_on,
)
from reprojax import data, recipes
from reprojax.commands import predict
from reprojax.saving import programs
from reprojax.training.loop import Fitted

CLASSES = ("dark", "bright")
BACKBONE = backbones.convolutional()
SIZES = {"train": 24, "validation": 16, "test": 20}


class Units:
    """A budget of epochs, whatever they take."""

    margin, real = 0.0, False

    def __init__(self, overhead=0.0):
        self.epochs, self.overhead = 0, overhead

    def spent(self):
        return self.epochs

    def tell(self, value):
        self.epochs += value.get("epochs", 0)

    def cost(self, value):
        return Cost(self.overhead, 1.0)


class Slow(Units):
    """A budget of epochs of all images; one of fewer takes a share."""

    def __init__(self, epoch=1.0):
        super().__init__()
        self.epoch = epoch

    def tell(self, value):
        self.epochs += self.epoch * value.get("epochs", 0) * value.get("share", 1)

    def cost(self, value):
        return Cost(0.0, self.epoch * value.get("share", 1))


@cache
def images(count=60):
    """Noise that is darker in one class; some labels are wrong."""
    x, y = backbones.photos(count, side=12), np.arange(count) % 2
    x = (x * np.where(y, 1.0, 0.7)[:, None, None, None]).astype(np.uint8)
    return x, np.where(np.arange(count) % 7 == 0, 1 - y, y)


def load_task(name, spoilt=False, **given):
    task = data.from_arrays(*images(), CLASSES, **given | SIZES)
    test = task.test._replace(y=1 - task.test.y) if spoilt else task.test
    return task._replace(test=test)


def load_backbone(name, **given):
    if name != "tiny":
        raise ValueError(f"no model {name!r}, expected tiny")
    return BACKBONE


def config(folder, **given):
    own = {"backbone": "tiny", "minutes": 24 / 60, "finals": 2, "batch": 12}
    return Config(out=folder, **own | {"workers": 1} | given)


def chosen(config, clock=None, **given):
    """A run in one thread, its budget in epochs."""
    own = {"load_backbone": load_backbone, "load_task": load_task} | given
    with ThreadPoolExecutor(1) as pool:
        return choose.main(config, clock=clock or Units(), pool=pool, **own)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Two methods, two rates: fewer programs to compile."""
    fit = {n: recipes.METHODS[n] for n in ("watermark", "padding", "bar", "map-only")}
    monkeypatch.setattr(candidates.recipes, "methods", lambda _: fit)
    monkeypatch.setattr(candidates, "FACTORS", (1.0, 3.0))


# -- jobs whose results are known


SCORES = {"watermark": 0.8, "padding": 0.7}


def told(place, settings, scores=SCORES):
    """What a job would find: the method decides, then the map, then the rate."""
    kind, seed = settings["kind"], settings["seed"] if "seed" in settings else 0
    if kind == "controls":
        n = len(settings["seeds"])
        probe = [0.7, 0.71, 0.7][:n]
        return {"linear probe": probe, "nearest features": [0.6] * n}
    if kind == "trial":
        return {}
    if kind == "test":
        own = 0.6 if settings["control"] else 0.85
        right = (np.arange(20) < 20 * own).astype(int).tolist()
        return {"test": own + seed / 1000, "right": right}
    own = Candidate(*settings["candidate"])
    value = scores[own.method] - 0.01 * len(own.map or "") + own.rate / 100
    if "file" in settings:
        kept(place, own, seed, settings["file"])
    found = {"validation": value, "learnable": 5, "seconds": 1.0}
    if "sizes" in settings:
        train, held = settings["sizes"]
        found["share"] = (3 * train + held) / (3 * 24 + 16)
    return found | {"epochs": settings["epochs"]}


def kept(place, own, seed, file):
    task = place.task(seed)
    program = recipes.build(own.method, BACKBONE, 2, own.map)
    params = program.init(jax.random.key(0), BACKBONE.frozen, task.train.x[:1])
    fitted = Fitted(params, params, {"validation": 0.5}, np.zeros((1, 5)), 0.1)
    given = training(place.config, own, 1, task), own, task, seed, fitted, file
    jobs._save(place, *given)


@pytest.fixture
def known(monkeypatch):
    """{job: how often it ran}; the jobs' results are known."""
    calls = {}

    def work(place, settings):
        name = json.dumps(settings, sort_keys=True)
        calls[name] = calls.get(name, 0) + 1
        return told(place, settings)

    monkeypatch.setattr(run, "work", work)
    monkeypatch.setattr(candidates, "_misfit", lambda *given: "")  # it traces all
    return calls


def test_the_better_third_goes_on_with_twice_the_epochs(known, tmp_path, capsys):
    found = chosen(config(tmp_path))
    rounds = {e["title"]: (e["rounds"], e["epochs"]) for e in found["search"]}
    decided = json.loads((tmp_path / "schedule.json").read_text())["decided"]
    first, second = (decided[f"round-{n}"]["jobs"] for n in (1, 2))
    assert len(first) == 7 and len(second) == 3
    assert {s["epochs"] for s in first.values()} == {1}
    assert {s["epochs"] for s in second.values()} == {2}
    best = sorted(first, key=lambda n: -told(None, first[n])["validation"])[:3]
    assert [n[len("round-1/") :] for n in best] == [
        n[len("round-2/") :] for n in second
    ]
    assert rounds["watermark with blm"] == (2, 2)
    assert found["winner"] == "watermark/blm/0.03"
    # 7 + 6 in the rounds, then two programs on two seeds
    assert found["spent"] <= 24 and found["seeds"] == [1, 2]
    said = capsys.readouterr().out
    assert "candidates: 20, of which the budget allows 7" in said
    assert "rounds: 7 for 1 epoch, 3 for 2 epochs" in said
    assert "watermark with blm won on validation" in said.lower()


def test_the_folder_holds_what_was_found(known, tmp_path):
    found = chosen(config(tmp_path))
    assert json.loads((tmp_path / "results.json").read_text())["kept"] == found["kept"]
    text = (tmp_path / "report.html").read_text()
    for sentence in found["sentences"]:
        assert sentence.partition(":")[0] in text
    card = programs.load(tmp_path / "winner.safetensors").card
    assert (card.method, card.arguments) == ("watermark", {"alignment": "blm"})
    assert card.metric["test"] == pytest.approx(0.85 + card.seed / 1000)


@pytest.mark.parametrize("after", range(1, 15, 3))
def test_a_killed_run_goes_on_to_the_same_choice(after, known, tmp_path, monkeypatch):
    whole = chosen(config(tmp_path / "whole"))
    count = sum(known.values())
    known.clear()
    work = run.work

    def killed(place, settings):
        if sum(known.values()) == after:
            raise KeyboardInterrupt
        return work(place, settings)

    monkeypatch.setattr(run, "work", killed)
    own = config(tmp_path / "parts")
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        chosen(own)
    monkeypatch.setattr(run, "work", work)
    assert chosen(replace(own, resume=True)) == whole
    assert sum(known.values()) == count and set(known.values()) == {1}


def test_a_finished_run_is_read_again(known, tmp_path):
    whole = chosen(config(tmp_path))
    known.clear()
    assert chosen(config(tmp_path, resume=True)) == whole
    assert not known


def test_a_round_ends_with_its_time(known, tmp_path):
    """The candidates take longer than the trial said; what was found is the answer."""

    class Late(Units):
        def tell(self, value):
            self.epochs += 3 * value.get("epochs", 0)

    own = config(tmp_path)
    found = chosen(own, Late())
    decided = json.loads((tmp_path / "schedule.json").read_text())["decided"]
    first = decided["round-1"]
    assert len(first["counted"]) == 3 < len(first["jobs"])
    assert found["winner"].startswith("watermark/")
    assert chosen(replace(own, resume=True), Late()) == found


def test_a_job_that_raises_is_recorded(known, tmp_path, monkeypatch, capsys):
    work = run.work

    def failing(place, settings):
        if settings.get("candidate", [""])[0] == "padding":
            raise ArithmeticError("too much")
        return work(place, settings)

    monkeypatch.setattr(run, "work", failing)
    with pytest.raises(SystemExit, match="3 of .* jobs failed(.|\n)*too much"):
        chosen(config(tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["winner"].startswith("watermark/") and len(found["failed"]) == 3
    assert (tmp_path / "winner.safetensors").exists()


def test_a_full_disk_keeps_finished_jobs(known, tmp_path, monkeypatch):
    whole = chosen(config(tmp_path / "whole"))
    known.clear()
    work = run.work

    def full(place, settings):
        if sum(known.values()) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return work(place, settings)

    monkeypatch.setattr(run, "work", full)
    own = config(tmp_path / "parts")
    with pytest.raises(OSError, match="free space"):
        chosen(own)
    monkeypatch.setattr(run, "work", work)
    assert chosen(replace(own, resume=True)) == whole
    assert set(known.values()) == {1}


def test_of_equal_ones_that_without_a_prompt_wins():
    own = Candidate("watermark", "blm", 0.01)
    prompt = Entry(own.title, own, finals={1: 0.75, 2: 0.5, 3: 1.0})
    probe = Entry("linear probe", finals={1: 0.5, 2: 0.75, 3: 0.0})
    late = Entry("padding with blm", own._replace(method="padding"))
    entries = {e.slug: e for e in (prompt, probe, late)}
    ranking, seeds = finalists(entries)
    assert [e.title for e in ranking] == ["watermark with blm", "linear probe"]
    assert seeds == [1, 2, 3]
    del prompt.finals[3]  # it had no time for this seed
    ranking, seeds = finalists(entries)
    assert [e.title for e in ranking] == ["linear probe", "watermark with blm"]
    assert seeds == [1, 2]


def test_who_is_read_by_the_test():
    own = [Candidate(n, "blm", 0.01) for n in ("watermark", "padding")]
    prompts = [Entry(c.title, c) for c in own]
    probe, pixels, near = (Entry(n) for n in (jobs.PROBE, jobs.PIXELS, jobs.FEATURES))
    read = lambda *ranking: read_by_the_test([*ranking])
    assert read(*prompts, pixels, probe) == [*prompts, pixels]
    assert read(pixels, near, probe, *prompts) == [pixels, near, probe, prompts[0]]
    assert read(probe, prompts[0], pixels) == [probe, prompts[0]]


# -- fewer images


SLOW = {"batch": 2, "minutes": 12 / 60, "finals": 3}


def decided(folder):
    return json.loads((folder / "schedule.json").read_text())["decided"]


def sizes(decided, phase):
    """Those of a phase's jobs."""
    return {(*job.get("sizes", ()),) for job in decided[phase]["jobs"].values()}


def test_a_slow_model_is_tried_on_fewer_images(known, tmp_path, capsys):
    """Of all images the budget allows three candidates."""
    found = chosen(config(tmp_path, **SLOW), Slow())
    made = decided(tmp_path)
    assert len(made["round-1"]["jobs"]) == 8
    assert sizes(made, "round-1") == sizes(made, "round-2") == {(8, 16)}
    assert sizes(made, "finals") == {(18, 16)} and len(made["finals"]["jobs"]) == 6
    said = capsys.readouterr().out
    assert "rounds: 8 for 1 epoch, 3 for 2 epochs of 8 of 24 images; about" in said
    assert "finals: 2 programs on 3 seeds for 1 epoch of 18 of 24 images; about" in said
    why = "Prompts were trained on 18 of 24 images: more --minutes would use all."
    assert found["sentences"][2] == why and why in said
    page = (tmp_path / "report.html").read_text()
    assert why.partition(":")[0] in page
    assert re.search(r"± \S+ +watermark with blm .*± \S+ +18 ", said)
    assert re.search(r"± \S+ +linear probe .*± \S+ +24", said)
    card = programs.load(tmp_path / "winner.safetensors").card
    assert card.split["train"] == 24  # `told` keeps a program of all images


def test_finals_have_all_images_where_there_is_time(known, tmp_path, capsys):
    found = chosen(config(tmp_path, **SLOW | {"finals": 2}), Slow())
    made = decided(tmp_path)
    assert sizes(made, "round-1") == {(8, 16)} and sizes(made, "finals") == {()}
    assert len(found["sentences"]) == 2
    assert "2 seeds for 1 epoch; about" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_number_of_images(known, tmp_path, monkeypatch):
    """Though the model has become faster."""
    work = run.work

    def killed(place, settings):
        if sum(known.values()) == 6:
            raise KeyboardInterrupt
        return work(place, settings)

    monkeypatch.setattr(run, "work", killed)
    own = config(tmp_path, **SLOW)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        chosen(own, Slow())
    monkeypatch.setattr(run, "work", work)
    chosen(replace(own, resume=True), Slow(epoch=0.1))
    made = decided(tmp_path)
    assert len(made["round-1"]["jobs"]) == 8
    assert sizes(made, "round-1") == sizes(made, "round-2") == {(8, 16)}
    assert set(known.values()) == {1}


def test_fewer_images_have_each_class_and_are_the_same_for_all(tmp_path, monkeypatch):
    x, y = backbones.photos(48, side=12), np.arange(48) % 16 // 5  # 15, 15, 15, 3
    rare = data.from_arrays(x, y, [*"abcd"], validation=8, test=8)
    few = Sizes(6, 4)
    own = drawn(rare, few, 0)
    assert Sizes.of(own) == few and {*own.train.y} == {0, 1, 2, 3}
    assert rows(own.train) <= rows(rare.train)
    assert rows(own.validation) <= rows(rare.validation)
    assert rows(own.test) == rows(rare.test)
    assert rows(drawn(rare, few, 1).train) != rows(own.train)

    seen = []

    def trained(config, program, backbone, task, *given, **how):
        seen.append((rows(task.train), rows(task.validation)))
        return Fitted((), (), {"validation": 0.5}, np.zeros((1, 5)), 0.1)

    monkeypatch.setattr(jobs, "train", trained)
    place = jobs.Place(config(tmp_path), load_backbone, load_task)
    for candidate in (["watermark", "flm", 0.1], ["padding", "blm", 0.3]):
        job = {"kind": "train", "candidate": candidate, "epochs": 1, "seed": 0}
        jobs.work(place, job | {"sizes": [6, 4]})
    assert seen[0] == seen[1] and [*map(len, seen[0])] == [6, 4]


def rows(split):
    return {row.tobytes() for row in split.x}


def test_what_fewer_images_cost():
    """A step is three passes of the model, an answer one."""
    whole, cost = Sizes(1000, 600), Cost(2.0, 36.0, 0.01)
    assert whole.part(1000, False) == whole
    assert whole.part(500, False) == Sizes(500, 600)
    part = whole.part(100, False)
    assert part == Sizes(100, 300)  # no longer than the steps
    assert resized(cost, whole, part, False) == Cost(2.0, 6.0, 0.01)
    asked = whole.part(100, True)
    assert asked == Sizes(100, 50)  # 10 · 50 queries are (1 + 4) · 100
    query = Cost(7000 * 0.01, 4000 * 0.01, 0.01)
    assert (asked.queries(0), asked.queries(2)) == (600, 1400)
    new = resized(query, whole, asked, True)
    assert new == Cost(pytest.approx(6.0), pytest.approx(4.0), 0.01)


def test_how_many_images_a_run_may_have():
    task = load_task("", seed=0)
    assert numbers(task, 2) == [24, 20, 18, 16, 14, 12, 10, 8]
    assert numbers(task, 12) == [24]


# -- the order


def test_a_short_budget_tries_a_users_own_methods_first(known, tmp_path, monkeypatch):
    """Then those that are known to be good, then the library's others."""
    file = tmp_path / "own.py"
    file.write_text(
        "from reprojax import recipes\n"
        "own = recipes.find_method('padding')._replace(name='mine')\n"
        "recipes.register(own)\n"
    )
    monkeypatch.setattr(recipes.registry, "METHODS", METHODS := {**recipes.METHODS})
    monkeypatch.setattr(recipes, "METHODS", METHODS)
    names = "coda-prompt", "padding", "watermark", "mine"
    monkeypatch.setattr(
        candidates.recipes, "methods", lambda _: {n: METHODS[n] for n in names}
    )
    monkeypatch.setitem(SCORES, "mine", 0.1)
    monkeypatch.setitem(SCORES, "coda-prompt", 0.1)
    chosen(config(tmp_path / "run", methods=(file,)))
    identity = json.loads((tmp_path / "run/identity.json").read_text())
    order = dict.fromkeys(name.partition("/")[0] for name in identity["candidates"])
    assert [*order] == ["mine", "watermark", "padding", "coda-prompt"]
    tried = [n for n in decided(tmp_path / "run") if n.startswith("trial")]
    assert tried == ["trial-mine"]


def test_equal_images_are_told_of_once(known, tmp_path):
    seen = []

    def load(name, duplicates, **given):
        seen.append(duplicates)
        return load_task(name, **given)

    chosen(config(tmp_path), load_task=load)
    assert seen.count("warn") == 1 and {*seen} == {"warn", "keep"}


def test_a_linear_map_converges():
    """Of logits that mostly say the same, after 611 iterations; a warning would be an
    error."""
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 100)) / np.arange(1, 101)
    turn = np.linalg.qr(random.normal(size=(100, 100)))[0]
    y = np.digitize(6 * x[:, 5] + 0.3 * random.normal(size=200), [-0.5, 0.5])
    x = (50 + 10 * x @ turn).astype(np.float32)
    seen = jobs.Outputs(x, x, y)
    params, right = jobs.linear_map({"train": seen, "validation": seen})
    assert right["train"] > 0.9
    assert params.learnable["output"]["kernel"].shape == (100, 3)


# -- real runs


def test_a_spoilt_test_split_changes_nothing_but_the_test(tmp_path):
    """Of two methods that are trained, and controls that are measured."""
    spoilt = partial(load_task, spoilt=True)
    found = [
        chosen(config(tmp_path / name, minutes=16 / 60), load_task=load)
        for name, load in (("whole", load_task), ("spoilt", spoilt))
    ]
    for same in ("winner", "kept", "validation", "seeds"):
        assert found[0][same] == found[1][same]
    tried = [[(e["title"], e["validation"]) for e in f["search"]] for f in found]
    assert tried[0] == tried[1]
    whole, other = (f["test"] for f in found)
    assert whole.keys() == other.keys()
    for name, scores in whole.items():
        np.testing.assert_allclose(np.add(scores, other[name]), 1.0)
    same = [(tmp_path / n / "winner.safetensors") for n in ("whole", "spoilt")]
    one, two = (programs.load(path) for path in same)
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params, two.params))
    # where the probe wins, the file is the probe, and it answers
    assert found[0]["winner"] == "linear-probe" and one.card.method == "linear-probe"
    check_answers(tmp_path, one, whole["the linear probe"])


def check_answers(folder, saved, scores):
    """`predict` takes the file, and has the accuracy of the test."""
    from PIL import Image

    test = load_task("", seed=saved.card.seed).test
    for i, (x, y) in enumerate(zip(test.x, test.y, strict=True)):
        path = folder / "photos" / CLASSES[y] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(path)
    own = predict.Config(
        program=folder / "whole/winner.safetensors",
        images=(folder / "photos",),
        backbone="tiny",
        out=folder / "labels.csv",
    )
    lines = predict.main(own, load_backbone=load_backbone).read_text().splitlines()
    right = [line.split("/")[0] == line.split(",")[1] for line in lines[1:]]
    seed = saved.card.seed - 1  # the finals begin with 1
    assert np.mean(right) == pytest.approx(scores[seed])
    assert saved.card.metric["test"] == pytest.approx(scores[seed])


def test_a_model_that_only_answers(tmp_path):
    """Its features and gradients are not used."""
    found = chosen(config(tmp_path, access="logits", minutes=8 / 60))
    tried = [e["title"] for e in found["search"]]
    assert "bar with bar" in tried and jobs.LINEAR in tried and jobs.PIXELS in tried
    assert not {jobs.PROBE, jobs.FEATURES} & {*tried}
    assert not any(title.startswith("watermark") for title in tried)


def test_few_steps_are_made_with_every_class():
    task = load_task("", seed=0)
    few = candidates.small(task, 4, batches=2)
    assert len(few.train.y) == 8 and {*few.train.y} == {0, 1}
    assert len(few.validation.y) == 4


def test_images_that_splits_share_are_seen_once(monkeypatch):
    splits = [load_task("", seed=seed).train for seed in (0, 1)]
    plain = [jobs.controls.frozen_outputs(BACKBONE, split) for split in splits]
    seen = []
    look = jobs.controls.frozen_outputs
    note = lambda backbone, split: seen.append(len(split.y)) or look(backbone, split)
    monkeypatch.setattr(jobs.controls, "frozen_outputs", note)
    for own, other in zip(jobs.once(BACKBONE, splits), plain, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    every = np.concatenate([split.x for split in splits])
    assert seen == [len(np.unique(every, axis=0))] and seen[0] < len(every)


def test_how_much_a_choice_loses(known, tmp_path, monkeypatch, capsys):
    """The test prefers the other kind by .05, whatever validation says."""

    def work(place, settings):
        if settings["kind"] != "test":
            return told(place, settings)
        own = {"nearest features": 0.9, "linear probe": 0.87}
        own = own.get(settings["control"], 0.85)
        return {"test": own, "right": [1, 0]}

    monkeypatch.setattr(run, "work", work)
    own = {f.name: getattr(config(tmp_path), f.name) for f in fields(Config)}
    given = {"load_backbone": load_backbone, "load_task": load_task}
    with ThreadPoolExecutor(1) as pool:
        given |= {"clock": Units(), "pool": pool}
        found = resplits.main(resplits.Config(**own, resplits=1), **given)
    assert found["gaps"] == {
        "chosen": [pytest.approx(0.05)],
        "kept": [pytest.approx(0.02)],
    }
    assert found["resplits"][0]["chosen"] == "watermark with blm"
    assert found["resplits"][0]["best"] == "the nearest features"
    said = capsys.readouterr().out
    assert "mean gap of what was chosen 0.050, of what was kept as a file 0.020" in said
    identity = json.loads((tmp_path / "resplit-0/identity.json").read_text())
    assert identity["test_seed"] == 0
    with pytest.raises(ValueError, match="got --resplits 0, expected at least 1"):
        resplits.main(resplits.Config(**own, resplits=0), **given)


def test_a_job_ends_when_the_time_is_over(tmp_path, monkeypatch):
    """Behind the epoch in which it sees it; one that has not begun, at once."""
    place = jobs.Place(config(tmp_path), load_backbone, load_task)
    job = {"kind": "train", "candidate": ["watermark", "flm", 0.1], "epochs": 3}
    deadline = tmp_path / jobs.DEADLINE
    deadline.write_text(repr(time.time() - 1))
    assert jobs.work(place, job | {"seed": 0}) == {"validation": None, "epochs": 0}
    deadline.write_text(repr(time.time() + 1000))

    def trained(*given, on_epoch, **how):
        said = []
        for epoch in range(3):
            said.append(on_epoch(None))
            if epoch == 1:
                deadline.write_text(repr(time.time() - 1))
        assert said == [False, False, True]
        return Fitted((), (), {"validation": 0.5}, np.zeros((3, 5)), 0.1)

    monkeypatch.setattr(jobs, "train", trained)
    found = jobs.work(place, job | {"seed": 0})
    assert (found["validation"], found["epochs"], found["learnable"]) == (0.5, 3, 768)


# -- bad input


def test_bad_settings_raise_before_any_work(known, tmp_path):
    wrong = {
        "got --access grey, expected white .* or logits": {"access": "grey"},
        "got --minutes 0, expected a number above 0": {"minutes": 0},
        "got --finals 0, expected at least 1": {"finals": 0},
        "got --workers 0, expected at least 1": {"workers": 0},
        "got --seed -1, expected a number from 0": {"seed": -1},
        "no model 'huge', expected tiny": {"backbone": "huge"},
    }
    for message, given in wrong.items():
        with pytest.raises(ValueError, match=message):
            chosen(config(tmp_path, **given))
    assert not known


def test_a_folder_with_one_class(known, tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/a.png").write_bytes(b"")
    own = config(tmp_path / "run", target=str(tmp_path / "photos"))
    with pytest.raises(ValueError, match="1 class folders.* at least two"):
        chosen(own, load_task=data.load)
    assert not known


def test_a_folder_of_another_run(known, tmp_path):
    chosen(config(tmp_path))
    with pytest.raises(ValueError, match="already holds this run; resume it"):
        chosen(config(tmp_path))
    for given in ({"seed": 1}, {"batch": 6}, {"finals": 3}):
        with pytest.raises(ValueError, match="holds another run"):
            chosen(config(tmp_path, resume=True, **given))


def test_a_budget_that_is_too_small_says_what_is_needed(known, tmp_path):
    with pytest.raises(ValueError, match=r"got --minutes 0\.05, expected at") as raised:
        chosen(config(tmp_path, minutes=3 / 60), Units(overhead=5))
    found = re.search(r"at least ([\d.]+):", str(raised.value))
    # one candidate takes 6 of the 45 % that the finals have
    assert found and 6 / 0.45 / 60 <= float(found[1]) <= 6 / 0.45 / 60 + 0.1
    assert not any('"train"' in name for name in known)
    own = config(tmp_path, minutes=float(found[1]), resume=True)
    assert chosen(own, Units(overhead=5))["seeds"] == [1]
    assert set(known.values()) == {1}


# -- the schedule


def test_a_plan_is_the_widest_that_fits():
    how = {"workers": 2, "seeds": 3, "steps": 100, "images": [3200, 1600, 800, 400]}
    cost = Cost(1.0, 2.0)
    by = lambda images: cost._replace(epoch=2.0 * images / 3200)
    found = schedule.plan(50, by, by, 600.0, **how)
    assert found.images == 3200
    assert halved(found.candidates, found.epochs) == [(50, 2), (17, 4), (6, 8), (2, 16)]
    own = 50 * 5 + 17 * 9 + 6 * 17 + 2 * 33
    assert found.search == own / 2 <= 0.55 * 600
    wider = halved(found.candidates, 2 * found.epochs)
    assert sum(n * cost.of(e) for n, e in wider) / 2 > 0.55 * 600
    assert found.shares == [250 / own, 403 / own, 505 / own, 1]
    left = 0.9 * (600 - found.search)
    assert found.finals == Finals(2, 3, 46, 3200)
    assert found.trained == 6 * 93 / 2 <= left < 6 * 95 / 2
    short = schedule.plan(50, by, by, 60.0, **how)
    assert halved(short.candidates, short.epochs) == [(9, 1), (3, 2)]
    assert short.images == 3200
    assert short.search == (9 * 3 + 3 * 5) / 2 <= 0.55 * 60
    assert (10 * 3 + 4 * 5 + 2 * 9) / 2 > 0.55 * 60
    slow = schedule.plan(50, by, by, 34.0, **how)
    # of all images 8 for an epoch and 3 for two take 39 / 2 seconds, of 18.7
    assert halved(slow.candidates, slow.epochs) == [(9, 1), (3, 2)]
    assert slow.images == 1600 and slow.search == (9 * 2 + 3 * 3) / 2
    assert slow.finals == Finals(2, 3, 2, 3200)
    with pytest.raises(schedule.Short) as raised:
        schedule.plan(50, by, by, 1.0, **how)
    assert raised.value.images == 400


def test_finals_give_up_images_before_seeds():
    cost = lambda images: Cost(1.0, images / 100)
    how = {"workers": 1, "seeds": 3, "images": [400, 300, 200, 100]}
    size = partial(schedule.finals, [cost] * 2, epochs=2, **how)
    assert size(left=1000) == Finals(2, 3, 37, 400)
    assert size(left=34) == Finals(2, 3, 1, 400)  # 6 · 5 of 9/10
    assert size(left=32) == Finals(2, 3, 1, 300)
    assert size(left=21) == Finals(2, 3, 1, 200)
    assert size(left=19) == Finals(1, 3, 4, 100)
    assert size(left=2) == Finals(1, 1, 1, 100)


def test_finals_are_made_smaller_until_they_fit():
    how = {"workers": 1, "seeds": 3, "images": [9]}
    cost = lambda images: Cost(1.0, 1.0)
    size = lambda **given: schedule.finals([cost] * 2, **how, **given)[:3]
    assert size(left=60, epochs=8) == (2, 3, 8)
    assert size(left=102, epochs=8) == (2, 3, 14)  # 6 · 15 of 9/10
    assert size(left=1000, epochs=8) == (2, 3, 64)
    assert size(left=30, epochs=8) == (1, 3, 8)
    assert size(left=10, epochs=8) == (1, 1, 8)
    assert size(left=6, epochs=8) == (1, 1, 4)
    assert size(left=1, epochs=8) == (1, 1, 1)


def test_what_was_decided_stays(tmp_path):
    book = Book(tmp_path / "schedule.json")
    assert book.once("a", lambda: [1]) == [1]
    book.save(2.5)
    again = Book(tmp_path / "schedule.json")
    assert again.once("a", lambda: [2]) == [1] and again.before == 2.5


# -- the words


def row(title, test, prompt=True, right=None, file="a file"):
    share = np.asarray(test)[:, None]
    right = np.arange(100) < 100 * share if right is None else right
    return Row(title, prompt, [*test], np.asarray(right, int), file)


PROBE = row("the linear probe", [0.6, 0.61, 0.59], prompt=False)


def test_a_prompt_that_is_best():
    won = row("padding with blm", [0.9, 0.92, 0.91])
    said = sentences(won, [row("vp with blm", [0.8, 0.81, 0.8]), PROBE], 50)
    assert said[0] == (
        "Padding with blm won on validation: it has 0.910 ± 0.025 on the test images, "
        "+0.107 [+0.092, +0.121] over vp with blm, the next, and +0.310 [+0.285, "
        "+0.335] over the linear probe, the best that needs no prompt (paired over 3 "
        "seeds, 95 % interval)."
    )
    assert said[1] == (
        "Take padding with blm: nothing that it was compared with does as well."
    )


def test_a_prompt_that_had_few_images():
    assert trained_on(2428, 2428) == []
    assert trained_on(800, 2428) == [
        "Prompts were trained on 800 of 2,428 images: more --minutes would use all."
    ]


def test_a_probe_that_is_best():
    prompt = row("padding with blm", [0.5, 0.5, 0.51])
    said = sentences(PROBE, [prompt], 50)
    assert said[0].startswith("The linear probe won on validation: it has 0.600")
    assert "over padding with blm, the next and the best prompt" in said[0]
    assert said[1] == "Take the linear probe: no prompt beats it here."
    close = row("padding with blm", [0.5, 0.65, 0.6])
    assert sentences(PROBE, [close], 50)[1] == (
        "Take the linear probe: it needs no prompt, and padding with blm was not shown "
        "to beat it."
    )
    pixels = PROBE._replace(title="the nearest training image", file=None)
    assert sentences(pixels, [PROBE, prompt], 50)[1] == (
        "No file holds the nearest training image, so take the linear probe: no prompt "
        "beats it here."
    )
    map_ = row("the best map without prompt", [0.5, 0.5, 0.51], prompt=False)
    assert sentences(PROBE, [map_], 50)[1] == (
        "Take the linear probe: no prompt had time for the finals; give more --minutes."
    )
    assert (
        sentences(PROBE, [], 50)[1] == "Take the linear probe, or give more --minutes."
    )


def test_what_cannot_be_told_apart_needs_labels():
    random = np.random.default_rng(0)
    a, b = (random.random((3, 100)) < p for p in (0.7, 0.6))
    won = row("padding with blm", a.mean(1), right=a)
    said = sentences(won, [row("the linear probe", b.mean(1), False, b)], 50)
    more = more_images(won.right, b.astype(int))
    assert more and f"Label about {more:,} more images" in said[1]
    assert (
        "cannot be told apart from the linear probe, which needs no prompt" in said[1]
    )


def test_validation_that_chose_the_worse_one():
    won = row("padding with blm", [0.5, 0.5, 0.51])
    said = sentences(won, [PROBE], 16)[1]
    assert said.startswith(
        "Label more images: the linear probe does better on the test"
    )
    assert "16 validation images are too few" in said
    assert said.endswith("to choose by. It is kept too: a file.")
    filed = sentences(won, [PROBE._replace(file=None)], 16)[1]
    assert filed.endswith("images are too few to choose by.")


def test_seeds_that_do_not_differ_leave_the_test_images():
    """With splits of the set's own, controls are the same for all seeds: 30 of 100 test
    images are right by the first alone, 10 by the second: .2 ± 1.96 √(.36 / 100)."""
    a, b = np.zeros((2, 3, 100), int)
    a[:, :30], b[:, 30:40] = 1, 1
    first = row("the linear probe", a.mean(1), False, a)
    second = row("the nearest training image", b.mean(1), False, b, file=None)
    found = less(first, second)
    assert (found.value, found.half) == pytest.approx((0.2, 1.96 * 0.06))
    said = sentences(second, [first], 270)
    assert "-0.200 [-0.318, -0.082] over the linear probe" in said[0]
    assert "(paired over 100 test images, 95 % interval; all seeds give the" in said[0]
    assert said[1].startswith("Label more images: the linear probe does better on")
    prompt = row("vp with blm", [0.1, 0.12, 0.11])
    said = sentences(first, [second, prompt], 270)[0]
    assert "(paired over 3 seeds, or, where all seeds give the same difference" in said
    assert said.endswith("over 100 test images; 95 % intervals).")


def test_how_many_labels_tell_two_programs_apart():
    """On 400 of 10,000 images only the first is right, on 200 only the second: the mean
    is .02 and the variance .0596, so that (1.96 / .02)² · .0596 = 572 images do."""
    a, b = np.zeros((2, 1, 100), int)
    a[0, :4], b[0, 4:6] = 1, 1
    assert more_images(a, b) == 480  # of 572, 100 are there; two digits, upwards
    assert more_images(a, a) is None
    a[0, :60] = 1
    assert more_images(a, b) == 100  # at least as many again
