"""The mixed model of a map, which needs statsmodels."""

import numpy as np
import pytest
from planted import table

from experiments.map import rows, variance
from experiments.map.reading import lines
from experiments.map.survey import KINDS
from experiments.map.tasks import BENCHES
from reprojax.taxonomy import LOCATIONS, OMEGAS

pytestmark = pytest.mark.verify
SEEDS = (2, 3, 4, 5)


def scaled(rng, deviation, *shape):
    values = rng.normal(size=shape)
    return deviation * (values - values.mean()) / values.std()


def planted(benches, alignment, location_by_task, cells, seeds, task=0.0, seed=0):
    """Rows of a map with these deviations, of each kind of effect."""
    rng, count = np.random.default_rng(seed), len(benches)
    own = {
        "alignment": scaled(rng, alignment, 4),
        "location": scaled(rng, location_by_task, count, 3),
        "task": scaled(rng, task, count),
        "cells": scaled(rng, cells, count, 18, 4),
        "seeds": scaled(rng, seeds, count, 18, 4, len(SEEDS)),
    }

    def score(bench, cell, seed):
        t, o = benches.index(bench), OMEGAS.index(cell.omega)
        kind = KINDS.index(cell[:3])
        level = own["alignment"][o] + own["task"][t] + own["cells"][t, kind, o]
        level += own["location"][t, LOCATIONS.index(cell.location)]
        return 5 + level + own["seeds"][t, kind, o, SEEDS.index(seed)]

    return rows.rows(table(score, benches, SEEDS))


def shares_of(found, draws=2):
    own = variance.mixed(found.rows, draws)
    return dict(zip(own.names, own.shares.value, strict=True)), own


def test_it_finds_planted_shares():
    found = planted([*BENCHES], 0.4**0.5, 0.3**0.5, 0.2**0.5, 0.1**0.5)
    shares, own = shares_of(found, 10)
    wanted = {
        "alignment": 0.4,
        "location by task": 0.3,
        "cells (interactions)": 0.2,
        "seeds": 0.1,
    }
    for name, share in shares.items():
        assert abs(share - wanted.get(name, 0)) < 0.08, (name, shares)
    assert np.isclose(sum(shares.values()), 1)
    assert abs(own.deviation - 1) < 0.1
    assert (own.tasks, own.seeds, own.unconverged) == (7, 4, 0)
    at = own.names.index("alignment")
    assert 0.1 < own.shares.low[at] < own.shares.value[at] < own.shares.high[at] < 0.8


def test_means_of_cells_give_the_model_of_all_rows():
    """As statsmodels itself fits it, with a component for cells."""
    import pandas
    from statsmodels.formula import api

    found = planted([*BENCHES][:4], 0.6, 0.3, 0.4, 0.3, task=0.5)
    _, own = shares_of(found)
    parts = dict(zip(own.names, own.shares.value * own.deviation**2, strict=True))
    frame = pandas.DataFrame(found.rows)
    frame["cell"] = frame.groupby(["bench", *variance.DIMENSIONS]).ngroup()
    terms = {name: f"0 + C({name})" for name in (*variance.DIMENSIONS, "cell")}
    names = " + ".join(f"C({name})" for name in variance.DIMENSIONS)
    model = api.mixedlm(
        f"accuracy ~ {names}",
        frame,
        groups="bench",
        vc_formula={"task": "1"} | terms,
    )
    with pytest.warns():  # components on the boundary
        fit = model.fit(method="powell")
    whole = dict(zip(model.exog_vc.names, fit.vcomp, strict=True))
    assert np.isclose(parts["seeds"], fit.scale, rtol=1e-3)
    assert np.isclose(parts["cells (interactions)"], whole["cell"], rtol=0.01)
    assert np.isclose(parts["task"], whole["task"], rtol=0.03)
    for name in variance.DIMENSIONS:
        assert np.isclose(parts[f"{name} by task"], whole[name], rtol=0.03, atol=1e-3)


def test_the_page_has_the_model(monkeypatch):
    found = planted(["figures", "maps"], 0.6, 0.1, 0.1, 0.1)
    monkeypatch.setattr(rows.bootstrap, "__kwdefaults__", {"draws": 5, "tasks": True})
    text = "\n".join(lines(found, draws=20))
    assert "Mixed model by REML: 2 tasks, 144 cells, 4 seeds each" in text
    assert "| alignment | 0.8" in text and "Assumptions: effects" in text
