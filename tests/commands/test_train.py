"""The main command: methods whose model only answers, and what it refuses."""

import warnings
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from reprojax import data
from reprojax.commands.kept import judge
from reprojax.commands.runs import warn_of_unmeasured
from reprojax.commands.settings import Config, alignment_name
from reprojax.commands.train import main
from reprojax.saving import programs
from reprojax.taxonomy import Description

SMALL = Config(train=20, validation=10, test=10, seeds=1, controls=False)


@pytest.mark.parametrize("method, budget", [("bar", 900), ("blackvip", 500)])
def test_a_black_box_is_asked_and_not_differentiated(
    method, budget, tmp_path, monkeypatch, capsys
):
    refuse = lambda *a, **k: pytest.fail("a gradient was taken")
    monkeypatch.setattr(jax, "value_and_grad", refuse)
    monkeypatch.setattr(jax, "grad", refuse)
    config = replace(SMALL, method=method, budget=budget, batch=10, out=tmp_path)
    found = main(config)["results"]["program"]
    assert f"seed-0: {budget} queries" in capsys.readouterr().out
    asked = (tmp_path / "seed-0.log").stat().st_size
    assert asked > 4 * 10 * 20  # answers of floats were paid for and kept
    page = (tmp_path / "report.html").read_text()
    assert "It was compared with nothing." in page and f"{budget} queries" in page
    assert 0 <= found["test"][0] <= 1 and 0 <= found["validation"][0] <= 1
    saved = programs.load(tmp_path / "seed-0.safetensors")
    assert saved.card.method == method
    leaves = jax.tree.leaves(saved.params)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_the_file_to_take_and_the_command_that_uses_it():
    config = Config(backbone="mine", methods=(Path("a.py"),), out=Path("runs/a"))
    table = {
        "program": {"test": [0.5, 0.6, 0.4], "validation": [0.5, 0.6, 0.4]},
        "linear probe": {"test": [0.9] * 3, "validation": [0.8, 0.9, 0.7]},
    }
    seen = Description((), "statistical")
    said, use = judge(config, "mark", seen, table, "reprojax predict")
    assert use == (
        "reprojax predict --program runs/a/linear-probe-1.safetensors --images FOLDER "
        "--backbone mine --methods a.py"
    )
    assert said[0] == "The linear probe is best: it has 0.900 ± 0.000."
    assert said[-1].startswith("The program to take is linear-probe-1.safetensors, of ")
    config, table = Config(out=Path("runs/a")), {"program": table["program"]}
    assert judge(config, "mark", seen, table, "use")[1] == (
        "use --program runs/a/seed-1.safetensors --images FOLDER"
    )


def test_budgets_belong_to_black_boxes(tmp_path):
    config = replace(SMALL, out=tmp_path)
    with pytest.raises(ValueError, match="got no --budget with blackvip"):
        main(replace(config, method="blackvip"))
    with pytest.raises(ValueError, match="got --budget 10 with smm, which trains by"):
        main(replace(config, method="smm", budget=10))
    with pytest.raises(ValueError, match="got --epochs with bar, which has no gradi"):
        main(replace(config, method="bar", budget=10, epochs=3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given, said",
    [
        ({"epochs": 0}, "got --epochs 0, expected at least 1"),
        ({"batch": 0}, "got --batch 0, expected at least 1"),
        ({"seeds": 0}, "got --seeds 0, expected at least 1"),
        ({"method": "bar", "budget": 0}, "got --budget 0, expected at least 1"),
        ({"learning_rate": -0.1}, "got --learning-rate -0.1, expected a number above"),
        ({"learning_rate": np.nan}, "got --learning-rate nan, expected a number above"),
        ({"controls": True, "random_weights": -1}, "-1, expected 0 to 1, the number"),
        ({"controls": True, "random_weights": 2}, "2, expected 0 to 1, the number of"),
        ({"length": 5}, "--length 5 with --method watermark, .* one of .*vpt-shallow,"),
        ({"method": "padding", "augment": True}, "which has no augment; .*watermark"),
        ({"method": "waterark"}, "no method 'waterark'; did you mean 'watermark'"),
        ({"method": "few-shot"}, "few-shot, which is not for images, expected one of"),
    ],
)
def test_settings_that_cannot_be_are_refused_first(given, said, tmp_path):
    unread = lambda *a, **k: pytest.fail("the model was loaded")
    with pytest.raises(ValueError, match=said):
        main(replace(SMALL, out=tmp_path, **given), load_backbone=unread)


def test_a_folder_that_cannot_be_written_to_is_refused_first(tmp_path, monkeypatch):
    unread = lambda *a, **k: pytest.fail("the model was loaded")
    (tmp_path / "notes").write_text("a year")
    for out in (tmp_path / "notes", tmp_path / "notes/run"):
        with pytest.raises(ValueError, match=r"--out .*notes.* a folder that can be"):
            main(replace(SMALL, out=out), load_backbone=unread)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ValueError, match="which is read-only, expected a folder"):
        main(replace(SMALL, out=tmp_path / "run"), load_backbone=unread)


def test_classes_that_no_accuracy_counts_are_named():
    x, y = np.zeros((21, 8, 8), np.uint8), np.repeat([0, 1, 2], [10, 10, 1])
    x += np.arange(21, dtype=np.uint8)[:, None, None]
    task = data.from_arrays(x, y, ["cat", "dog", "rare"])
    with pytest.warns(UserWarning, match="got no validation .*no test image of rare, "):
        warn_of_unmeasured(task)
    with warnings.catch_warnings(action="error"):
        warn_of_unmeasured(data.from_arrays(x[:20], y[:20], ["cat", "dog"]))


@pytest.mark.parametrize("method", ["ar", "bar"])
def test_a_loss_of_probabilities_refuses_a_map_of_none(method):
    with pytest.raises(ValueError, match="--map linear.*expected one of first, rlm"):
        alignment_name(Config(method=method, map="linear"))
    assert alignment_name(Config(method=method, map="blm+3")) == "blm+3"
