"""A map's folder made of its CSV file."""

from pathlib import Path

import pytest

from experiments import sweep, taxonomy_map
from experiments.map import restored
from experiments.map.outcomes import as_csv, boards
from experiments.map.protocol import Protocol
from reprojax.saving.files import plain

TABLE = Path(__file__).parents[2] / "docs/map.csv"


def table():
    return restored.of_csv(TABLE.read_text(), Protocol())


def test_the_committed_table_comes_back_to_the_last_digit():
    assert as_csv(boards(table())) == TABLE.read_text()


def test_its_jobs_are_those_of_the_map():
    """So that `taxonomy_map` on the folder takes them for done."""
    given = taxonomy_map.jobs(taxonomy_map.BENCHES_OF_EMBEDDED, Protocol())
    found = {n: o.settings for n, o in table().items() if "/examples-" not in n}
    assert found == plain(given, "the map's jobs")


def test_the_best_cells_are_those_that_validation_ranks_first():
    own = {n: o for n, o in table().items() if "/examples-" not in n}
    further = taxonomy_map.on_examples(own, [16], best=2)
    runs = {n: o.value["runs"] for n, o in own.items() if o.value.get("runs")}
    mean = lambda name: round(sum(run["validation"] for run in runs[name]) / 5, 6)
    for bench in taxonomy_map.BENCHES_OF_EMBEDDED:
        chosen = [n for n in further if n.startswith(bench)]
        every = [n for n in runs if n.startswith(f"{bench}/learnable-")]
        best = sorted(map(mean, every))[-2:]
        assert [mean(n.replace("examples-16/", "")) for n in chosen] == best[::-1]


def test_the_folder_keeps_what_it_holds(tmp_path):
    text = TABLE.read_text().splitlines(keepends=True)
    (tmp_path / "map.csv").write_text("".join(text[:11]))
    restored.main(restored.Config(tmp_path / "map.csv", tmp_path / "run"))
    first = sweep.finished(tmp_path / "run")
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run/results").rglob("*")}
    (tmp_path / "map.csv").write_text("".join(text[:16]))
    restored.main(restored.Config(tmp_path / "map.csv", tmp_path / "run"))
    assert len(first) == 2 and len(sweep.finished(tmp_path / "run")) == 3
    assert all(p.stat().st_mtime_ns == at for p, at in files.items() if p.is_file())
    assert (tmp_path / "run/map.csv").read_text().count(",measured,") == 15


def test_a_table_that_is_none():
    with pytest.raises(ValueError, match=r"no columns \['task', .*expected a map.csv"):
        restored.of_csv("a,b\n1,2\n", Protocol())
    text = TABLE.read_text().replace("0.602", "good", 1)
    with pytest.raises(ValueError, match="got 'good' in the table, expected a number"):
        restored.of_csv(text, Protocol())
