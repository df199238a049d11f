"""Ways to prompt compared on resplits: what chooses, what is read, what is printed."""

from dataclasses import replace

import pytest

from experiments import compare_prompts as compare
from experiments.compare_prompts import CONTROLS, MAP, NEAREST, PROBE, Config
from experiments.shared import assets

SMALL = {"target": "digits", "train": 40, "validation": 20, "test": 30}
CONFIG = Config(("watermark",), epochs=2, batch=20, factors=(1.0, 0.01), **SMALL)


def test_validation_chooses_and_the_test_split_does_not():
    (given,) = [s for n, s in compare.jobs(replace(CONFIG, resplits=1)).items()
                if n == "watermark/0"]  # fmt: skip
    sizes = {n: SMALL[n] for n in ("train", "validation", "test")}
    task = assets.load_task("digits", seed=0, test_seed=0, **sizes)
    backbone = assets.load_backbone("glyphs")
    found = compare.trained(given, backbone, task)
    each = [
        compare.trained({**given, "factors": (f,)}, backbone, task) for f in (1, 0.01)
    ]
    best = max(each, key=lambda own: own["validation"])
    assert each[0] != each[1] and found == best and found["learnable"] == 3072
    shuffled = task.test._replace(y=(task.test.y + 1) % 10)
    spoilt = compare.trained(given, backbone, task._replace(test=shuffled))
    assert spoilt["test"] < found["test"]
    assert {**spoilt, "test": 0, "last": 0} == {**found, "test": 0, "last": 0}


def test_rows_pair_the_resplits():
    numbers = {MAP: (0.4, 0.5), PROBE: (0.6, 0.9), NEAREST: (0.1, 0.1)}
    control = lambda i: {name: {"test": each[i]} for name, each in numbers.items()}
    own = lambda test: {"test": test, "last": test - 0.1, "learnable": 3072}
    table = {
        "evp": [own(0.5), own(0.7)],
        CONTROLS: [control(0), control(1)],
    }
    first, *rest = compare.lines(table)
    assert first[1:4] == ("evp", "0.500 ± 1.271", "3,072")
    assert first[4:] == ("+0.150 [-0.485, +0.785]", "-0.150 [-0.785, +0.485]")
    assert [row[1] for row in rest] == [MAP, PROBE, NEAREST]
    assert rest[1][4] == "+0.300 [-0.971, +1.571]"


def test_each_method_has_the_map_of_the_comparison_or_its_own():
    assert compare.align("evp", {"map": "blm"}) == "blm"
    assert compare.align("watermark", {"map": "own"}) == "blm"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            {"methods": ("watermarks",)},
            r"methods \['watermarks'\], expected some",
        ),
        ({"methods": ("evp", "evp")}, "expected each once"),
        ({"factors": (0.0,)}, "expected positive numbers"),
        ({"resplits": 0}, "got --resplits 0, expected at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(own, words):
    with pytest.raises(ValueError, match=words):
        compare.check(replace(CONFIG, **own))


def test_images_that_are_not_there_are_refused_before_any_work(tmp_path):
    config = replace(CONFIG, target=str(tmp_path / "none"), out=tmp_path / "run")
    with pytest.raises(ValueError, match="none"):
        compare.main(config)
    assert not (tmp_path / "run").exists()
