"""The experiment of images and texts: its tasks, its sentences, a small run."""

import inspect
import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_pairs import pair as small_pair

from experiments.image_text import __main__ as command
from experiments.image_text import methods, page, tasks
from experiments.image_text.__main__ import Config, main, places, rows
from experiments.image_text.methods import CONTROLS, LEFT_OUT, METHODS, Bench
from experiments.image_text.sentences import best, holds, orders, said
from experiments.train_sketches import captions
from reprojax import recipes
from reprojax.commands import pairs
from reprojax.commands.intervals import Mean
from reprojax.core import Params
from reprojax.data import Split, Task
from reprojax.models import image_text
from reprojax.models.image_text import classifier
from reprojax.saving.folders import only_writer
from reprojax.training.checks import Diverged


def small(classes=6, each=20):
    y = np.arange(classes * each) % classes
    x = np.broadcast_to(y[:, None, None, None], (len(y), 4, 4, 3)).astype(np.uint8)
    split = Split(x, y.astype(np.int32))
    return Task("small", split, split, split, tuple("abcdef"[:classes]))


def test_halves_hold_their_own_classes_and_images():
    base, new = tasks.halves(small(5))
    assert (base.classes, new.classes) == (("a", "b", "c"), ("d", "e"))
    for part, first in ((base, 0), (new, 3)):
        np.testing.assert_array_equal(part.test.x[:, 0, 0, 0], part.test.y + first)
    with pytest.raises(ValueError, match="expected at least 4"):
        tasks.halves(small(3))


def test_few_draws_other_shots_by_seed_and_keeps_the_test_images():
    task = small()
    drawn = [tasks.few(task, 3, seed) for seed in (0, 0, 1)]
    for one in drawn:
        assert np.bincount(one.train.y).tolist() == [3] * 6
        assert np.bincount(one.validation.y).tolist() == [3] * 6
        np.testing.assert_array_equal(one.test.y, task.test.y)
    assert np.bincount(tasks.few(task, 16, 0).validation.y).tolist() == [4] * 6


def test_unseen_pairs_are_never_drawn_in_training():
    rng = np.random.default_rng(0)
    pairs = lambda drawn: {
        (captions.MANNERS[m], [*captions.FIGURES][f])
        for m, f in zip(drawn.manner, drawn.figure, strict=True)
    }
    assert not pairs(captions.draw(rng, 2000)) & set(captions.UNSEEN)
    assert pairs(captions.draw(rng, 500, unseen=True)) == set(captions.UNSEEN)


def test_unseen_pairs_come_in_the_shares_that_the_page_says():
    _, y = tasks._unseen(np.random.default_rng(0), 320)
    assert np.bincount(y).tolist() == [20] * 8 + [10] * 16


def test_captions_are_of_known_words_and_name_the_figure():
    encode = image_text.load("sketches").text.input.tokenizer.encode
    rng = np.random.default_rng(0)
    drawn = captions.draw(rng, 200, unseen=None)
    for i in range(200):
        text = captions.caption(rng, drawn, i)
        name = [*captions.FIGURES][drawn.figure[i]]
        assert name in text and len(encode(text)) <= 16
        assert " a o" not in f" {text}" and "  " not in text
    with pytest.raises(ValueError, match="the words \\['zebra'\\]"):
        encode("a zebra")


def test_sentences_say_who_is_best_and_which_orders_hold():
    scores = {
        "zero-shot": {"base": [0.5, 0.52, 0.51], "new": [0.6, 0.6, 0.61]},
        "linear probe": {"base": [0.8, 0.81, 0.82]},
        "coop": {"base": [0.71, 0.7, 0.72], "new": [0.5, 0.51, 0.5]},
        "cocoop": {"base": [0.6, 0.61, 0.62], "new": [0.58, 0.6, 0.59]},
    }
    methods = ("coop", "cocoop")
    (line,) = best(methods, scores, "base")
    assert "the best prompt is coop" in line and "linear probe, 0.810" in line
    assert "no prompt beats it" in line
    (line,) = best(methods, scores, "new")
    assert "the best prompt is cocoop" in line and "do not settle" in line
    published = orders(scores)
    assert len(published) == 2
    assert all(line.endswith("it holds.") for line in published)
    assert holds(Mean(0.1, 0.2)) == "not settled"
    assert holds(Mean(-0.3, 0.2)) == "it does not hold"
    better = scores | {"coop": {"base": [0.91, 0.9, 0.92]}}
    assert "the prompt wins" in best(methods, better, "base")[0]
    other = {"harmonic": [0.5, 0.5], "photos": [0.5, 0.6]}
    lines = said(("coop",), {"zero-shot": other, "coop": other})
    assert len(lines) == 1 and lines[0].startswith("On photos the best prompt is coop")


@cache
def whole(target="dark-figures", read=tasks.read):
    return read(target, pool=240, test=96)


def bench(**given):
    kinds = tasks.descriptions(captions.unseen_names())
    return Bench(image_text.load("sketches"), Config(**given), kinds)


def test_a_prompt_of_the_base_classes_is_asked_about_new_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "read", lambda name: whole())
    own = dict(seeds=1, shots=(2,), rates=(1.0, 10.0), choosing=1, epochs=1)
    found = main(Config(methods=("kgcoop",), out=tmp_path / "run", **own))
    assert set(found["2/kgcoop/rates"]) == {"1.0", "10.0"}
    assert set(found["2/kgcoop/0"]) == {"base", "new"}
    # one step from "a photo of a" is still nearly zero-shot
    for place in ("base", "new"):
        assert abs(found["2/kgcoop/0"][place] - found["zero-shot"][place]) < 0.2


def test_other_data_sets_are_asked_in_their_own_names(monkeypatch):
    known = {
        "mine": tasks.of_classes(whole(), range(4), "mine"),
        "all/theirs": tasks.of_classes(whole(), range(4, 10), "theirs"),
    }
    monkeypatch.setattr(tasks, "read", known.get)
    own = dict(target="mine", transfer=("all/theirs",))
    here = bench(protocol="cross-dataset", **own)
    asked = places(here.config, known["mine"])
    assert [*asked] == ["base", "theirs"] and asked["theirs"] is known["all/theirs"]

    def learned(name, bench, task, rate, seed):
        assert task is asked["base"]
        spec = pairs.learnable_shapes(*reversed(methods.built(name, here, task)), task)
        return methods.Learned(Params(spec | {site: words}), 0.5)

    site = "text/embed:out"
    words = np.random.default_rng(0).normal(size=(4, 64)).astype("float32")
    monkeypatch.setattr(methods, "learned", learned)
    found = methods.trained("kgcoop", here, asked, 100.0, 0)
    bare = methods.control("zero-shot", here, asked)
    for place, task in asked.items():
        model = classifier(here.pair, task.classes, [here.config.template])

        def learnt(at, value):
            if at != site:
                return value
            own = jnp.broadcast_to(words, (len(value.value), 4, 64))
            return value._replace(value=value.value.at[:, 1:5].set(own))

        call = jax.jit(partial(model.forward, edit=learnt))
        answers = call(model.frozen, task.test.x).argmax(-1)
        by_hand = float((answers == task.test.y).mean())
        assert found[place] == pytest.approx(by_hand, abs=1e-6)
        assert found[place] != bare[place]


def test_descriptions_of_each_class_are_written_in_known_words():
    encode = image_text.load("sketches").text.input.tokenizer.encode
    looks, apart = tasks.descriptions(whole().classes)
    assert set(looks) == set(apart) == set(whole().classes)
    for texts in (*looks.values(), *apart.values()):
        assert len(set(texts)) == 6 and all(map(encode, texts))
    with pytest.raises(ValueError, match="give --descriptions"):
        tasks.descriptions(("zebra", *whole().classes[1:]))


def test_each_half_has_its_own_part_of_the_descriptions(tmp_path):
    given = []
    for name, form in (("looks", "a {}"), ("apart", "{} on a dark ground")):
        own = {c: [form.format(c), f"the {c}"] for c in reversed(whole().classes)}
        given.append(str(tmp_path / f"{name}.json"))
        (tmp_path / f"{name}.json").write_text(json.dumps(own))
    config = Config(methods=("attrvr",), descriptions=tuple(given))
    asked = places(config, whole())
    here = Bench(image_text.load("sketches"), config, command.kinds(config, asked))
    for task in asked.values():
        model, _ = methods.built("attrvr", here, task)
        texts = [f"a {c}" for c in task.classes]
        ids = here.pair.text.input.tokenizer.encode(texts[1])
        found = np.asarray(model.frozen["texts"].tokens.value)
        # kind by kind, in a kind class by class, two texts of each
        assert len(found) == 2 * 12 * 2 and found[2, : len(ids)].tolist() == ids
    more = json.loads((tmp_path / "apart.json").read_text()) | {"zebra": ["a box"]}
    (tmp_path / "apart.json").write_text(json.dumps(more))
    with pytest.raises(ValueError, match="has sentences for 'zebra'"):
        command.kinds(config, asked)


def test_methods_of_pairs_are_trained_here_or_left_out_with_a_reason():
    of_pairs = {
        name
        for name, m in recipes.methods().items()
        if "text_embedding" in m.needs.roles
    }
    assert of_pairs == {*METHODS, *LEFT_OUT} and not {*METHODS} & {*LEFT_OUT}
    assert f"Some of {', '.join(METHODS)}." in inspect.getsource(Config)


LEARNED = {
    "coop": 16 * 64,
    "cocoop": 4 * 64 + (64 * 4 + 4) + (4 * 64 + 64),
    "kgcoop": 4 * 64,
    "prograd": 16 * 64 + 1,  # and the number that chooses a loss
    "plot": 4 * 16 * 64,
    "maple": 2 * (2 * 64 + 64 * 64 + 64),  # two layers: the text tower has no more
    "ivlp": 2 * 2 * 4 * 64,
    "promptsrc": 2 * 2 * 4 * 64,
    "attrvr": 3 * 32 * 32,  # a whole image, of which the border is seen
}


@pytest.mark.parametrize("name", METHODS)
def test_as_many_numbers_are_learned_as_by_hand(name):
    model, program = methods.built(name, bench(), whole())
    spec = pairs.learnable_shapes(program, model, whole())
    assert sum(leaf.size for leaf in jax.tree.leaves(spec)) == LEARNED[name]


@pytest.mark.parametrize(
    "name, site", [("kgcoop", "image/features"), ("plot", "image/block_2:out")]
)
def test_features_computed_once_change_nothing(name, site, monkeypatch):
    task = tasks.few(tasks.of_classes(whole(), range(4), "some"), 4, 0)
    here = bench(epochs=2)
    model, program = methods.built(name, here, task)
    assert methods.quicker(program, model, task)[2].holds == site
    quick = methods.learned(name, here, task, 10.0, 0)
    monkeypatch.setattr(methods, "quicker", lambda p, m, t: (p, m.frozen, t))
    slow = methods.learned(name, here, task, 10.0, 0)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, quick.params.learnable, slow.params.learnable)
    assert quick.validation == slow.validation


def test_prompts_made_of_images_leave_nothing_to_compute_once():
    model, program = methods.built("cocoop", bench(), whole())
    assert methods.quicker(program, model, whole())[2] is whole()


def test_what_fails_while_features_are_computed_is_seen(monkeypatch):
    def fails(*given, **how):
        raise ValueError("the model gives NaN")

    monkeypatch.setattr(pairs, "cached", fails)
    model, program = methods.built("kgcoop", bench(), whole())
    with pytest.raises(ValueError, match="gives NaN"):
        methods.quicker(program, model, whole())


def test_the_papers_average_is_what_is_reported(monkeypatch):
    given = {}
    monkeypatch.setattr(methods, "fit", lambda *args, **how: given.update(how) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        methods.learned("promptsrc", bench(), tasks.few(whole(), 2, 0), 2.0, 0)
    preset = recipes.find_method("promptsrc").preset
    assert given["evaluated"] is preset.evaluated is not None
    assert (given["epochs"], given["batch"]) == (preset.epochs, preset.batch)
    assert given["record_sites"] == preset.sites and given["loss"] is preset.loss


def test_a_rate_that_diverges_is_not_chosen(monkeypatch):
    def learned(name, bench, task, rate, seed):
        if rate == 10.0:
            raise Diverged("the loss diverged", None)
        return methods.Learned(None, 0.2 + rate / 1000 + (seed == 1001) / 10)

    monkeypatch.setattr(methods, "learned", learned)
    here = bench(rates=(1.0, 10.0, 100.0, 2.0), choosing=2)
    found = methods.rates_of("coop", here, lambda seed: seed)
    assert found == pytest.approx(
        {"1.0": 0.251, "10.0": 0, "100.0": 0.35, "2.0": 0.252}
    )
    assert command.chosen(here.config, found) == 100.0
    assert command.chosen(Config(rates=(3.0,)), {}) == 3.0


def test_a_small_run_keeps_its_numbers_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "read", lambda name: whole())
    config = Config(methods=(), seeds=2, shots=(2,), out=tmp_path / "run")
    found = main(config)
    kept = json.loads((tmp_path / "run/results.json").read_text())
    assert kept == found and len(found) == 6
    assert set(found["zero-shot"]) == {"base", "new"}
    assert set(found["2/linear probe/1"]) == {"base"}
    report = (tmp_path / "run/report.html").read_text()
    assert report.count("<img") == 12 and "Images, and what zero-shot" in report
    own = dict(methods=(), shots=(2,), out=tmp_path / "run", resume=True)
    monkeypatch.setattr(methods, "_tip", None)  # all is kept
    assert main(Config(seeds=2, **own)) == found
    table = rows(config, found)
    assert [line["method"] for line in table] == list(CONTROLS)
    assert table[0]["base"] == f"{found['zero-shot']['base']:.3f}"
    assert table[2]["new"] == "—" and "±" in table[2]["base"]
    before = (tmp_path / "run/identity.json").read_text()
    for changed in (dict(template="a {}"), dict(seeds=1), dict(epochs=3)):
        with pytest.raises(ValueError, match=f"(?s)another run.*{[*changed][0]}"):
            main(Config(**dict(seeds=2) | own | changed))
    monkeypatch.setattr(tasks, "read", lambda name: whole("unseen-figures"))
    with pytest.raises(ValueError, match="(?s)another run.*data"):
        main(Config(seeds=2, **own))
    assert (tmp_path / "run/identity.json").read_text() == before
    with pytest.raises(ValueError, match="resume"):
        main(config)


def folder(path, classes=("red arrow", "blue_anchor", "two-moons", "box"), each=6):
    """Pictures of all kinds of sizes, a folder for each class."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for i in range(each):
            shape = (20 + 9 * i, 60 - 5 * label, 3)
            image = Image.fromarray(draw.integers(0, 256, shape, np.uint8))
            (image.convert("L") if i == 2 else image).save(path / name / f"{i}.png")
    return path


def test_a_folder_of_images_of_all_sizes_gets_its_page(tmp_path):
    place = folder(tmp_path / "photos")
    own = dict(methods=("kgcoop",), seeds=1, shots=(2,), rates=(1.0,), epochs=1)
    found = main(Config(target=str(place), out=tmp_path / "run", **own))
    assert set(found["2/kgcoop/0"]) == {"base", "new"} and "2/kgcoop/rates" not in found
    report = (tmp_path / "run/report.html").read_text()
    assert report.count("<img") > 3 and report.count("; answered ") > 3


def test_pictures_have_the_answers_of_the_run_s_own_template():
    x, y = (np.repeat(np.repeat(whole().test.x, 2, 1), 2, 2)[:12], whole().test.y[:12])
    task = whole()._replace(test=Split(x, y))
    seen = {}
    for template in ("a photo of a {}.", "two black {} on white"):
        here = bench(template=template)
        shown = page.answers(here, task)
        pairs = [caption.split("; answered ") for _, caption in shown]
        assert [own for own, _ in pairs] == [task.classes[label] for label in y]
        seen[template] = [answer for _, answer in pairs]
        right = np.mean([own == answer for own, answer in pairs])
        bare = methods.control("zero-shot", here, {"base": task})["base"]
        assert right == pytest.approx(bare, abs=1e-6)
    assert len({*map(tuple, seen.values())}) == 2


def test_a_pair_whose_padding_counts_learns_pixels_alone():
    few = Task(
        "pets",
        *3 * (Split(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)),),
        ("cat", "dog", "red bird", "blue bird"),
    )
    kind = {name: [f"a {name}"] for name in few.classes}
    own = dict(ensemble=("a {}",))
    siglip = small_pair("siglip")
    with pytest.raises(ValueError, match="for --methods coop, expected a pair like"):
        here = Bench(siglip, Config(methods=("attrvr", "coop"), **own), (kind, kind))
        methods.check_bench(here, {"base": few})
    here = Bench(siglip, Config(methods=("attrvr",), **own), (kind, kind))
    methods.check_bench(here, {"base": few})
    assert 0 <= methods.control("zero-shot", here, {"base": few})["base"] <= 1


CROSS = dict(protocol="cross-dataset", methods=())
BAD = {
    "a method": (dict(methods=("coup",)), "got --methods coup, expected some of"),
    "a control": (dict(methods=("tip-adapter",)), "it stands in every table"),
    "at test time": (dict(methods=("coop", "tpt")), "tpt: it learns from each test"),
    "no seeds": (dict(seeds=0, methods=()), "expected at least one of each"),
    "no shots": (dict(shots=(), methods=()), "expected at least one of each"),
    "no epochs": (dict(epochs=0), "got --epochs 0, expected at least 1"),
    "no rates": (dict(rates=()), "got --rates"),
    "a rate of 0": (dict(rates=(1.0, 0.0)), "all above 0"),
    "an endless rate": (dict(rates=(float("inf"),)), "all above 0"),
    "a rate twice": (dict(rates=(1.0, 1.0)), "expected each of them once"),
    "no choice": (dict(choosing=0), "got --choosing 0 for 3 rates"),
    "a method twice": (dict(methods=("coop", "coop")), "expected each of them once"),
    "files unread": (dict(descriptions=("a.json", "b.json")), "which alone reads them"),
    "one file": (dict(descriptions=("a.json",)), "expected two files"),
    "transfer": (dict(transfer=("digits",), methods=()), "and none otherwise"),
    "cross": (CROSS, "expected other data sets"),
    "base": (CROSS | dict(transfer=("my/base",)), "names of their own"),
    "harmonic": (CROSS | dict(transfer=("harmonic",)), "names of their own"),
    "alike": (CROSS | dict(transfer=("a/photos", "b/photos")), "names of their own"),
    "a template": (dict(template="a photo", methods=()), "expected one {}"),
    "words": (dict(ensemble=("a zebra {}",), methods=()), "the words \\['zebra'\\]"),
    "first words": (dict(template="{}.", methods=("kgcoop",)), "kgcoop got texts"),
    "too few": (dict(shots=(2, 1000), methods=()), "fewer than 1000 training images"),
    "sentences": (
        dict(methods=("attrvr",), descriptions=("no.json", "no.json")),
        "no.json",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "read", lambda name: whole())
    given, message = BAD[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(Config(out=tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_or_damaged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "read", lambda name: whole())
    monkeypatch.setattr(command, "filled", lambda bench, asked: {})
    monkeypatch.setattr(command, "report", lambda *given: None)
    config = Config(methods=(), shots=(2,), out=tmp_path)
    with only_writer(tmp_path), pytest.raises(ValueError, match="another run is writ"):
        main(config)
    main(config)
    monkeypatch.undo()
    monkeypatch.setattr(tasks, "read", lambda name: whole())
    (tmp_path / "results.json").write_text('{"zero-shot": 3}')
    with pytest.raises(ValueError, match="results.json is JSON of another type"):
        main(Config(methods=(), shots=(2,), out=tmp_path, resume=True))
