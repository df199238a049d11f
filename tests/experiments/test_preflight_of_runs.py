"""Scores of finished runs beside what came of them."""

import json

import numpy as np
import pytest

from experiments.preflight import Config, correlations, main, read

RUNS = {  # features, answers, overlap; test accuracies of prompt, probe and map
    "a": ((0.1, 0.2, 0.9), ([0.2, 0.4], [0.5], [0.1])),
    "b": ((0.3, 0.1, 0.5), ([0.5], [0.8], [0.2])),
    "c": ((0.2, 0.35, 0.7), ([0.9], [0.6], [0.3])),
}
NAMES = ("program", "linear probe", "best map without prompt")


@pytest.fixture
def folders(tmp_path):
    for name, (scores, tests) in RUNS.items():
        own = dict(zip(("features", "answers", "overlap"), scores, strict=True))
        own["ratio"] = own["answers"] - own["features"]
        rows = {n: {"test": t} for n, t in zip(NAMES, tests, strict=True)}
        (tmp_path / name).mkdir()
        found = json.dumps({"preflight": own, "results": rows})
        (tmp_path / name / "results.json").write_text(found)
    return tuple(tmp_path / name for name in RUNS)


def test_each_score_is_ranked_with_the_result_that_it_is_about(folders, capsys):
    rows = [read(folder) for folder in folders]
    np.testing.assert_allclose(rows[0].prompt, 0.3)
    found = correlations(rows)
    # features .1 .3 .2 and probes .5 .8 .6; answers .2 .1 .35 and prompts .3 .5 .9;
    # ratios .1 -.2 .15 and gains -.2 -.3 .3; overlaps .9 .5 .7 and maps .1 .2 .3
    wanted = [1.0, 0.5, 1.0, -0.5]
    np.testing.assert_allclose([*found.values()], wanted, atol=1e-12)
    main(Config(folders))
    said = capsys.readouterr().out
    assert "rank correlation over 3 runs" in said
    assert "+1.00  LogME of the features, and the probe" in said
    assert "b" in said and "0.300" in said


def test_runs_without_scores_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="expected the folder of a finished run"):
        read(tmp_path / "none")
    path = folders[0] / "results.json"
    found = json.loads(path.read_text())
    del found["preflight"]
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match="has no scores and controls"):
        read(folders[0])
