"""The report page, read as a browser would read it."""

import io
import re
from base64 import b64decode
from html.parser import HTMLParser

import backbones
import jax
import numpy as np
import pytest
from PIL import Image

from reprojax import recipes
from reprojax.commands.pictures import (
    answers_of,
    by_class,
    examples,
    mistakes,
    pictures,
)
from reprojax.commands.report import RunReport, write_report
from reprojax.data import Split

VOID = {"meta", "img", "source", "br", "link"}


class Page(HTMLParser):
    """Elements with their attributes and texts; raises where tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.cells = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def all(self, tag):
        return [attrs for name, attrs, _ in self.tags if name == tag]

    def images(self):
        """{source: PIL image} of all pictures, the dark ones too."""
        sources = [a["src"] for a in self.all("img")]
        sources += [a["srcset"] for a in self.all("source")]
        return [decoded(source) for source in sources]


def decoded(source):
    kind, code = source.split(",", 1)
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(b64decode(code, validate=True)))
    image.load()
    return image


def a_report(**changes):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (2, 5, 7, 1), dtype=np.uint8)
    change = random.normal(size=(2, 9, 9, 3))
    images = [
        (f"label {i}, answered 8", x[i], random.uniform(size=(9, 9, 3)), change[i])
        for i in range(2)
    ]
    weights = random.uniform(size=(12, 3))
    report = RunReport(
        title="watermark with blm: glyphs on digits",
        command="reprojax train --seeds 2",
        description="learnable input additive -> statistical\nsite  format",
        header=("test", "method", "seconds"),
        rows=[("0.841 ± 0.02", "watermark", "0.034"), ("0.95", "linear probe", "")],
        notes=["over the probe: -0.11 [-0.13, -0.09]"],
        curves=random.uniform(size=(2, 6, 2)),
        baselines={"linear probe": 0.94},
        images=images,
        prompt=random.normal(size=(9, 9, 3)),
        label_map=weights / weights.sum(0),
        sources=tuple(f"source {i}" for i in range(12)),
        targets=("zero", "one", "two"),
        verdict=["Take the probe.", "Or run --seeds 5 again."],
        use="reprojax predict --program a",
        classes=[("0.900", "zero", "10", "two (1)"), ("1.000", "one", "9", "")],
        mistakes=[("label 0, answered 2", x[0])],
        shown="19 test images, program of seed 0",
        settings=[("jax", "0.1"), ("learnable", "27 numbers")],
    )
    return report._replace(**changes)


def written(tmp_path, **changes):
    path = tmp_path / "new folder" / "report.html"
    write_report(path, a_report(**changes))
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_is_whole_and_offline(tmp_path):
    text, page = written(tmp_path)
    assert text.startswith("<!doctype html>")
    for word in ("http:", "https:", "//", "@import", "<script", "url("):
        assert word not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not page.all("link")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in (
        page.all("meta")
    )
    said = " ".join(page.texts)
    own = a_report()
    for words in (own.description, *own.notes):
        assert words in said
    assert '<span class="flag">--seeds</span> 5' in text, (
        "a line ends behind its hyphens"
    )
    for line in (own.command, own.use, *own.verdict):
        assert line in " ".join(said.split())
    for row in (*own.classes, *own.settings, *own.rows):
        assert set(row) <= set(page.cells)
    assert "label 0, answered 2" in said


def test_controls_stand_below_a_rule(tmp_path):
    _, page = written(tmp_path)
    bodies = [a.get("class") for a in page.all("tbody")]
    assert bodies[:2] == ["program", "controls"]
    assert page.cells[:9] == [
        *("test", "method", "seconds"),
        *("0.841 ± 0.02", "watermark", "0.034"),
        *("0.95", "linear probe", ""),
    ]
    lines = [(a, inside) for tag, a, inside in page.tags if tag in ("td", "th")][:9]
    numbers = [a.get("class") == "number" for a, _ in lines]
    assert numbers == [True, False, True] * 3
    alone = written(tmp_path, rows=a_report().rows[:1])[1]
    bodies = [a.get("class") for a in alone.all("tbody")]
    assert bodies[:2] == ["program", "controls"] and len(alone.cells) < len(page.cells)


def test_pictures_are_valid_and_of_their_own_sizes(tmp_path):
    _, page = written(tmp_path)
    sizes = [image.size for image in page.images()]
    raw = [decoded(a["src"]).size for a in page.all("img") if a["class"] == "pixels"]
    assert raw == [(7, 5), *[(7, 5), (9, 9), (9, 9)] * 2, (9, 9)]
    plots = [a for a in page.all("img") if a["class"] == "plot"]
    assert len(plots) == len(page.all("source")) == 3  # accuracy, loss, the prompt
    assert len(sizes) == len(raw) + 6
    for a in plots:
        width, height = decoded(a["src"]).size
        assert (width, height) == (2 * int(a["width"]), 2 * int(a["height"]))
    assert all(a["alt"] for a in page.all("img"))
    assert len(page.all("figcaption")) == 1 + 2 + 2 + 2


def test_grey_means_no_change(tmp_path):
    change = np.zeros((9, 9, 3))
    change[0, 0], change[8, 8] = 0.25, -0.5
    images = [(*a_report().images[0][:3], change)]
    _, page = written(tmp_path, images=images)
    third = [decoded(a["src"]) for a in page.all("img")][3]
    assert third.getpixel((4, 4)) == (128, 128, 128)
    assert third.getpixel((0, 0)) == (191, 191, 191)
    assert third.getpixel((8, 8)) == (0, 0, 0)


def test_texts_are_escaped(tmp_path):
    name = '<b>&"$x_1$'
    text, page = written(
        tmp_path,
        title=name,
        command=name,
        description=name,
        header=(name, "b", "c"),
        rows=[(name, "1", "2"), (name, "3", "4")],
        notes=[name],
        baselines={name: 0.5},
        images=[(name, *a_report().images[0][1:])],
        targets=(name, "one", "two"),
        sources=(name, *a_report().sources[1:]),
    )
    assert "<b>" not in text and not page.all("b")
    assert page.texts.count(name) >= 9
    assert any(name in a["alt"] for a in page.all("img"))


def test_a_large_map_shows_what_each_target_takes(tmp_path):
    weights = np.zeros((1000, 10))
    for t in range(10):
        weights[[100 * t, 100 * t + 1, 100 * t + 2, 100 * t + 3], t] = (
            0.4,
            0.3,
            0.2,
            0.1,
        )
    _, page = written(
        tmp_path,
        label_map=weights,
        sources=tuple(f"s{i}" for i in range(1000)),
        targets=tuple("0123456789"),
    )
    rows = [a["title"] for tag, a, _ in page.tags if a.get("scope") == "row"]
    assert rows == [f"s{100 * t + i}" for t in range(10) for i in range(3)]
    shares = [a["style"] for a in page.all("td") if "style" in a]
    assert len(shares) == 30 * 10
    assert shares[:2] == ["--v:1.000", "--v:0.000"] and shares[10] == "--v:0.750"
    assert [c for c in page.cells if re.fullmatch(r"\.\d\d", c)] == [
        *(".40", ".30", ".20") * 10
    ]
    assert "the 3 largest of each" in " ".join(page.texts)


def test_negative_weights_have_a_colour_of_their_own(tmp_path):
    weights = np.array([[10.5, -1.0], [-10.5, 0.25]])
    _, page = written(
        tmp_path, label_map=weights, sources=("a", "b"), targets=("0", "1")
    )
    cells = [a for a in page.all("td") if "style" in a]
    assert [a.get("class") for a in cells] == ["strong", "minus", "minus strong", None]
    shown = page.cells[: page.cells.index("setting")]
    assert shown[-5:] == ["10.50", "-1.00", "b", "-10.50", ".25"]


def test_frames_and_no_prompt(tmp_path):
    frame = np.full((9, 9, 3), 0.5)
    frame[3:6, 3:6] = np.nan
    _, page = written(tmp_path, prompt=frame)
    shown = decoded([a for a in page.all("img") if "frame" in a["alt"]][-1]["src"])
    assert shown.getpixel((0, 0)) == (128, 128, 128, 255)
    assert shown.getpixel((4, 4))[3] == 0

    one = np.ones((1, 1, 2))
    _, page = written(tmp_path, prompt=None, images=[], curves=one, mistakes=[])
    assert len(page.all("img")) == 2  # the curves alone
    assert "no mistake" in " ".join(page.texts)


def test_a_failed_write_keeps_the_page_that_is_there(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, a_report())
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_report(path, a_report(title="\udc80"))
    assert path.read_bytes() == before


# -- pictures of programs


def built(name, backbone, targets=3, **sizes):
    program = recipes.find_method(name).build(backbone, targets=targets, **sizes)
    x, y = backbones.photos(4), np.array([1, 1, 0, 2])
    params = program.init(jax.random.key(0), backbone.frozen, x)
    return program, params, x, y


def moved(params):
    """Learnable params that are nowhere zero."""
    draw = lambda a: (
        np.random.default_rng(a.size).normal(size=a.shape).astype("float32")
    )
    return params._replace(learnable=jax.tree.map(draw, params.learnable))


def counted(program, traced, name):
    """The program, which notes each trace: jit traces once a compilation."""

    def apply(*args, **kw):
        traced.append(name)
        return program.apply(*args, **kw)

    return program._replace(apply=apply)


def test_a_watermark_is_the_change_in_pixels(monkeypatch):
    backbone = backbones.convolutional()
    program, params, x, y = built("watermark", backbone)
    params, traced = moved(params), []
    alone = lambda *args, **kw: counted(recipes.map_only(*args, **kw), traced, "bare")
    monkeypatch.setattr("reprojax.commands.pictures.map_only", alone)
    own = counted(program, traced, "own")
    images, prompt = pictures(own, params, backbone, x, y, ("a", "b", "c"))
    assert sorted(traced) == ["bare", "own"]  # one compilation each for all images
    wanted = params.learnable["normalized"] * np.array(backbones.STD)
    np.testing.assert_allclose(prompt, wanted, atol=1e-5)
    y_hat = jax.jit(program.apply)(params, backbone.frozen, x)
    answers = np.asarray(y_hat).argmax(-1)
    names = [
        f"label {'abc'[i]}, answered {'abc'[j]}"
        for i, j in zip(y, answers, strict=True)
    ]
    assert [image[0] for image in images] == names
    for i, (_, target, network, difference) in enumerate(images):
        np.testing.assert_array_equal(target, x[i])
        assert network.min() >= 0 and network.max() <= 1
        np.testing.assert_allclose(difference, wanted, atol=1e-5)
    split = Split(x, y)
    found = answers_of(program, params, backbone, split, batch=3)
    np.testing.assert_array_equal(found, answers)
    shown, labels = examples(split, 3)  # each class once before one comes twice
    np.testing.assert_array_equal(shown, x[[0, 2, 3]])
    assert labels.tolist() == [1, 0, 2]


def test_a_padding_is_a_frame_around_a_hole():
    backbone = backbones.convolutional()
    program, params, x, y = built("padding", backbone, inner=6)
    images, prompt = pictures(program, params, backbone, x, y, "abc")
    hole = np.isnan(prompt).all(-1)
    assert hole[5:11, 5:11].all() and hole.sum() == 36
    np.testing.assert_allclose(prompt[~hole], 0.5, atol=1e-6)
    np.testing.assert_allclose(images[0][2][~hole], 0.5, atol=1e-6)


def test_tokens_inside_the_network_are_no_picture():
    backbone = backbones.transformer()
    program, params, x, y = built("vpt-deep", backbone, length=3)
    images, prompt = pictures(program, params, backbone, x, y, "abc")
    assert prompt is None
    assert all(np.abs(difference).max() < 1e-6 for *_, difference in images)


def test_classes_and_mistakes():
    y, answers = np.array([0, 0, 0, 0, 1, 1, 3]), np.array([0, 1, 1, 3, 1, 1, 0])
    assert by_class(y, answers, "abcd") == [
        ("0.250", "a", "4", "b (2)"),
        ("1.000", "b", "2", ""),
        ("0.000", "d", "1", "a (1)"),
    ]
    assert [row[1] for row in by_class(y, answers, "abcd", most=2)] == ["d", "a"]
    x = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    found = [
        (text, image.item()) for text, image in mistakes(Split(x, y), answers, "abcd")
    ]
    assert found == [
        ("label a, answered b", 1),
        ("label d, answered a", 6),
        ("label a, answered b", 2),
        ("label a, answered d", 3),
    ]
    assert mistakes(Split(x, y), y, "abcd") == []


def test_no_prompt_shows_none():
    backbone = backbones.convolutional()
    program = recipes.map_only(backbone, targets=3)
    x = backbones.photos(3, side=16)
    params = program.init(jax.random.key(0), backbone.frozen, x)
    images, prompt = pictures(program, params, backbone, x, np.arange(3), "abc")
    assert prompt is None
    np.testing.assert_allclose(images[1][2], x[1] / 255, atol=1e-6)
