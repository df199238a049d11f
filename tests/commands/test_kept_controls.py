"""Controls are programs: their files answer as they did in the table."""

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import data, recipes
from reprojax.commands import controls, train
from reprojax.commands.controls import Outputs
from reprojax.commands.kept import cards_of, run_controls
from reprojax.core import Params, Scope
from reprojax.recipes import registry
from reprojax.saving import programs
from reprojax.training.preflight import Preflight
from reprojax.training.steps import evaluate

BACKBONE = backbones.convolutional()
CLASSES = ("dark", "middle", "bright")


@pytest.fixture(scope="module")
def task():
    """Photographs by how bright they are, in three classes."""
    x = backbones.photos(60, side=12)
    shade = np.linspace(0.3, 1, 60)[:, None, None, None]
    x = np.round(x * shade).astype(np.uint8)
    y = np.arange(60) // 20
    return data.from_arrays(x, y, CLASSES, train=30, validation=15, test=15)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_regression_is_the_head_of_a_linear_probe(classes):
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, 80)
    features = random.normal(3, 2, (80, 5)) * (1, 10, 0.1, 1, 0) + labels[:, None]
    split = Outputs(np.zeros((80, 0)), features.astype(np.float32), labels)
    seen = {"train": split, "validation": split, "test": split}
    _, pipeline = controls.logistic_probe(seen)
    head = controls.probe_params(pipeline)
    own = Params(head.learnable["output"], head.fixed["output"])
    align = dict(recipes.linear_probe(BACKBONE, targets=classes).at)[("output",)]
    logits = align.apply(own, jnp.asarray(split.features), Scope())
    wanted = pipeline.predict_proba(split.features)
    np.testing.assert_allclose(jax.nn.softmax(logits), wanted, atol=1e-5)


def test_the_files_answer_as_the_table_says(task, tmp_path):
    config = train.Config(method="map-only", seeds=1, random_weights=0, out=tmp_path)
    program = recipes.map_only(BACKBONE, targets=3)
    cards = cards_of(config, BACKBONE, [task], {})
    table = run_controls(config, program, BACKBONE, [task], cards)
    rows = {"linear-probe": "linear probe", "map-only": "best map without prompt"}
    for method, row in rows.items():
        saved = programs.load(tmp_path / f"{method}-0.safetensors")
        own, params = registry.rebuild(saved, BACKBONE)
        for split in ("validation", "test"):
            given = BACKBONE.frozen, getattr(task, split), 15
            found = evaluate(own, params, *given)
            assert found == pytest.approx(table[row][split][0])
            assert found == pytest.approx(saved.card.metric[split])
        assert saved.card.method == method and saved.card.classes == CLASSES
        assert saved.card.split == cards[0].split and saved.card.backbone == "glyphs"
    assert table["linear probe"]["test"][0] > 1 / 3


@pytest.mark.parametrize("method", ["map-only", "linear-probe"])
def test_they_are_trained_as_methods_are(method, task, tmp_path):
    config = train.Config(method=method, epochs=2, batch=15, out=tmp_path)
    program = recipes.build(method, BACKBONE, 3, train.alignment_name(config))
    fitted = train.train(config, program, BACKBONE, task, 0, "seed-0")
    test = evaluate(program, fitted.params, BACKBONE.frozen, task.test, 15)
    assert fitted.score["test"] == pytest.approx(test)
    if method == "map-only":
        splits = {"train": task.train, "test": task.test}
        seen = {n: controls.frozen_outputs(BACKBONE, s) for n, s in splits.items()}
        alone = controls.maps_alone(3, len(BACKBONE.classes))["blm"]
        assert controls.map_alone(alone, seen)["test"] == pytest.approx(test)


def test_what_was_computed_before_training_is_not_computed_again(
    task, tmp_path, monkeypatch
):
    first = controls.frozen_outputs(BACKBONE, task.train)
    asked, look = [], controls.frozen_outputs
    note = lambda backbone, split: asked.append(len(split.y)) or look(backbone, split)
    monkeypatch.setattr(controls, "frozen_outputs", note)
    config = train.Config(method="map-only", seeds=1, random_weights=0, out=tmp_path)
    program = recipes.map_only(BACKBONE, targets=3)
    cards = cards_of(config, BACKBONE, [task], {})
    run_controls(config, program, BACKBONE, [task], cards, first)
    assert asked == [15, 15]


def test_what_the_scores_say():
    said = train.before_training(Preflight(0.5, 0.25, 0.125)).replace("\n", " ")
    assert "LogME 0.500 of the features and 0.250 of the answers" in said
    assert "ratio -0.250, leans to a linear probe; label overlap 0.12" in said
    said = train.before_training(Preflight(0.25, 0.5, 0.125)).replace("\n", " ")
    assert "ratio +0.250, leans to a prompt;" in said


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "int32"])
def test_the_nearest_row_of_each_kind_of_number(dtype):
    known = np.asarray(jnp.asarray([[0, 9], [9, 0], [5, 5]], dtype))
    asked = np.asarray(jnp.asarray([[8, 1], [4, 5]], dtype))
    assert controls.nearest(known, np.array([7, 8, 9]), asked).tolist() == [8, 9]
