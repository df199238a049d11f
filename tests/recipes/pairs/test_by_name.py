"""The methods of a pair by their names: trained by `fit` with their presets, saved,
rebuilt from the file, and with their papers' settings."""

import contexts
import jax
import numpy as np
import pytest

from reprojax import data, load, save
from reprojax.recipes import METHODS, build, rebuild
from reprojax.saving import Card
from reprojax.training import fit

TASK = data.from_arrays(
    contexts.X, contexts.Y, contexts.NAMES, validation=6, test=6, name="pictures"
)
SETTINGS = {
    "coop": (0.002, 200, 32),
    "cocoop": (0.002, 10, 1),
    "kgcoop": (0.002, 100, 128),
    "prograd": (0.002, 100, 32),
    "tip-adapter-f": (0.001, 20, 256),
}
ARGUMENTS = {
    "coop": {"length": 3, "place": "middle", "each": True},
    "prograd": {"length": 6},
    "tip-adapter-f": {"examples": 12},
}


def test_published_settings():
    presets = {name: METHODS[name].preset for name in SETTINGS}
    found = {n: (p.learning_rate, p.epochs, p.batch) for n, p in presets.items()}
    assert found == SETTINGS
    assert METHODS["tpt"].preset is None and METHODS["tip-adapter"].preset is None


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_trained_saved_and_rebuilt(name, tmp_path):
    model, preset = contexts.of(name), METHODS[name].preset
    given = ARGUMENTS.get(name, {})
    program = build(name, model, 3, **given)
    optimizer = preset.optimizer(preset.learning_rate, 2, 1)
    how = {"loss": preset.loss, "record_sites": preset.sites, "progress": False}
    how |= {"optimizer": optimizer, "epochs": 1, "batch": 6}
    start = program.init(jax.random.key(0), model.frozen, TASK.train.x[:6])
    if METHODS[name].start is not None:
        start = METHODS[name].start(program, model, TASK.train)
        how["params"] = start
    fitted = fit(program, model.frozen, TASK, **how)
    assert np.isfinite(fitted.curves).all()
    leaves = jax.tree_util.tree_leaves_with_path(start.learnable)
    for (path, a), b in zip(
        leaves, jax.tree.leaves(fitted.last.learnable), strict=True
    ):
        where = jax.tree_util.keystr(path)
        still = "which" in where  # ProGrad's number, which no gradient moves
        assert still or np.abs(a - b).max() > 0, where
    image = tuple(TASK.train.x.shape[1:])
    about = {"method": name, "arguments": given, "classes": TASK.classes}
    card = Card.of(model, image=image, **about)
    save(tmp_path / "program", fitted.params, card)
    again, params = rebuild(load(tmp_path / "program", model), model)
    x = TASK.test.x
    np.testing.assert_array_equal(
        jax.jit(again.apply)(params, model.frozen, x),
        jax.jit(program.apply)(fitted.params, model.frozen, x),
    )
