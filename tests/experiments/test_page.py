"""The page of the map: sentences on planted tables, states, files, and a browser."""

import csv
import io
import re
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor

import browser
import numpy as np
import pytest
from test_report import Page

from experiments import sweep, taxonomy_map
from experiments.map import page, plots, sentences
from experiments.map.cells import CELLS
from experiments.map.outcomes import as_csv, boards
from experiments.map.panels import size, smaller
from experiments.sweep import Outcome
from reprojax.commands.figures import png
from reprojax.commands.intervals import paired

SEEDS = (2, 3, 4, 5, 6)
SMALL = np.array([-2, -1, 0, 1, 2]) / 1000  # what seeds differ by
NAMES = ["-".join(cell) for cell in CELLS]
IDENTITY = "The task's classes are none of the model's own."


def runs(mean, spread=SMALL, **more):
    accuracies = (mean + np.asarray(spread)).tolist()
    return [
        {"seed": seed, "test": a, "validation": a, "training seconds": 2.5} | more
        for seed, a in zip(SEEDS, accuracies, strict=True)
    ]


def value(mean, **more):
    made = {
        "candidate": "learned",
        "rate": 0.01,
        "validation": {"learned at 0.01": 0.5},
    }
    # in another order for another mean: differences that are all equal have no interval
    spread = np.random.default_rng(round(1000 * mean)).permutation(SMALL)
    own = {"runs": runs(mean, spread), "prompt": 1728, "alignment": 0, "bytes": 7}
    return made | own | more


def outcome(name, value=None, error=None):
    return Outcome(name, {}, value, error, [], 1.0)


def table(values):
    return {name: outcome(name, own) for name, own in sorted(values.items())}


def full(bench="digits", seed=0):
    """All cells and controls, with everything that a value may hold."""
    rng = np.random.default_rng(seed)
    found = {}
    for cell, name in zip(CELLS, NAMES, strict=True):
        if cell.omega == "identity" and bench == "digits":
            found[f"{bench}/{name}"] = {"why_not": IDENTITY}
            continue
        ratio = 1 + rng.exponential(0.1)
        shown = [[f"image {i}", picture(rng)] for i in range(3)]
        found[f"{bench}/{name}"] = value(
            rng.uniform(0.2, 0.95),
            runs=runs(rng.uniform(0.2, 0.95), rng.normal(0, 0.02, 5), shifted=SHIFTED),
            bytes=int(10 ** rng.uniform(3, 6)),
            operations={"bare": 1.2e7, "program": 1.2e7 * ratio**2},
            latency={"bare": 0.001, "program": 0.001 * ratio},
            tokens=42.0,
            sites="site    λ         ℓ      τ\ninput   learnable input  additive " * 8,
            pictures=shown,
        )
    for i, name in enumerate(("no-prompt-rule", "no-prompt-linear", "linear-probe")):
        found[f"{bench}/control-{name}"] = value(0.5 + 0.2 * i, bytes=20_000)
    for few in (16, 64, 1024):
        for i in (3, 7, 11):
            job = f"{bench}/examples-{few}/{NAMES[i]}"
            found[job] = value(0.3 + 0.05 * np.log2(few) + i / 100)
    return found


SHIFTED = {"noise": 0.5, "blur": 0.4, "other font": 0.3}


def picture(rng):
    return b64encode(png(rng.uniform(size=(32, 32, 3)))).decode()


def read(folder):
    text = (folder / "report.html").read_text()
    return text, Page(text)


def board_of(values, bench="digits"):
    (board,) = boards(table({f"{bench}/{name}": own for name, own in values.items()}))
    return board


def difference(mean, other):
    a, b = ([own["test"] for own in value(m)["runs"]] for m in (mean, other))
    return paired(a, b).interval


# -- sentences


def test_no_cell_beats_the_control():
    board = board_of({NAMES[1]: value(0.8), "control-linear-probe": value(0.9)})
    assert sentences.verdict(board) == (
        "On digits, no cell beats the linear probe (0.900 ± 0.002): the best, "
        "learnable input additive → rule, has 0.800 ± 0.002; the paired difference is "
        f"{difference(0.8, 0.9)}."
    )


def test_cells_beat_the_control_by_the_interval_of_the_paired_difference():
    """One is above it in each seed; one has a higher mean, and may be no better."""
    wild, steady = np.array([-0.2, 0.3, -0.1, 0.2, 0.05]), SMALL[::-1]
    values = {
        NAMES[1]: value(0, runs=runs(0.9, wild)),
        NAMES[2]: value(0, runs=runs(0.92, steady)),
        NAMES[3]: value(0.1),
        "control-linear-probe": value(0, runs=runs(0.9)),
        "control-no-prompt-rule": value(0.2),
    }
    text = sentences.verdict(board_of(values))
    own = paired((0.9 + wild).tolist(), (0.9 + SMALL).tolist()).interval
    assert "1 of 3 cells beats the linear probe (0.900 ± 0.002): the best" in text
    assert f"the paired difference is {own}, which may be none." in text
    values[NAMES[3]] = value(0.91)
    assert "2 of 3 cells beat the linear probe" in sentences.verdict(board_of(values))


def test_seeds_are_paired_by_name_not_by_place():
    cell = value(0, runs=runs(0.5, 100 * SMALL)[::-1][:4])
    board = board_of({NAMES[0]: cell, "control-linear-probe": value(0, runs=runs(0.4))})
    (best,), (control,) = board.ranked, board.controls
    ours, theirs = (0.5 + 100 * SMALL[1:]).tolist(), (0.4 + SMALL[1:]).tolist()
    assert best.over(control).interval == paired(ours, theirs).interval
    other = value(0, runs=[{"seed": 9, "test": 0.1}])
    board = board_of({NAMES[0]: cell, "control-linear-probe": other})
    assert sentences.verdict(board).endswith("; the two have no seed in common.")


def test_fine_tuning_is_told_apart_from_controls_that_keep_the_weights():
    values = {NAMES[0]: value(0.8), "control-fine-tuning": value(0.9)}
    only = sentences.verdict(board_of(values))
    assert "no cell beats fine-tuning of all weights" in only and "Among" not in only
    values["control-linear-probe"] = value(0.7)
    text = sentences.verdict(board_of(values))
    assert text.startswith(only) and text.endswith(
        "Among the controls that leave the weights as they are, 1 of 1 cells beats the "
        "linear probe (0.700 ± 0.002); of the best cell, the paired difference is "
        f"{difference(0.8, 0.7)}."
    )


def test_without_controls_or_means():
    board = board_of({NAMES[0]: value(0.8)})
    assert sentences.verdict(board).endswith("; no control is measured yet.")
    lost = value(0, runs=runs(0.9, [0, 0, np.nan, 0, 0]))
    board = board_of({NAMES[0]: lost, NAMES[1]: {"why_not": IDENTITY}})
    assert sentences.verdict(board) == "On digits, no cell has a mean yet."
    assert sentences.picked(board) == ""


def test_the_cell_that_validation_picks():
    values = {NAMES[0]: value(0.8), NAMES[1]: value(0.7)}
    assert sentences.picked(board_of(values)).endswith("the cell that is best on test.")
    for run in values[NAMES[1]]["runs"]:
        run["validation"] = 0.99
    assert sentences.picked(board_of(values)) == (
        "On digits, validation picks learnable input additive → rule, which has "
        "0.700 ± 0.002 on test."
    )


def test_the_overview_counts_what_there_is():
    found = table({f"digits/{NAMES[i]}": value(0.5) for i in range(3)})
    found |= table({f"maps/{NAMES[0]}": {"why_not": IDENTITY}})
    found["maps/control-linear-probe"] = outcome("maps/control-linear-probe", value(1))
    found[f"maps/{NAMES[1]}"] = outcome(f"maps/{NAMES[1]}", error="ValueError: no")
    found["maps/of another kind"] = outcome("maps/of another kind", 1)
    given = boards(found)
    assert [board.bench for board in given] == ["digits", "maps"]
    assert sentences.overview(given) == (
        "3 of 144 cells are measured on 2 tasks (digits, maps), each with 5 seeds; 1 "
        "cannot exist, 1 failed, 139 are not measured yet."
    )
    assert sentences.overview([]) == "Nothing has been measured yet."


# -- the page


def test_a_partial_map_shows_the_state_of_each_cell(tmp_path):
    lost = value(0, runs=runs(0.9, [0, 0, np.nan, 0, 0]))
    values = {NAMES[0]: value(0.5), NAMES[1]: value(0.75), NAMES[2]: lost}
    values |= {NAMES[3]: {"why_not": IDENTITY}, "control-linear-probe": value(0.9)}
    values |= {"control-no-prompt-linear": value(0.8)}
    found = table({f"digits/{name}": own for name, own in values.items()})
    bad = "ValueError: got <script>alert('x')</script> & \"more\""
    found[f"digits/{NAMES[4]}"] = outcome(f"digits/{NAMES[4]}", error=bad)
    page.write(tmp_path, found, plotted=False)
    text, read_ = read(tmp_path)
    assert read_.cells[5:10] == [
        "learnable",
        "input additive",
        ".500±.002",
        ".750±.002",
        "diverged",
    ]
    assert read_.cells[10:13] == ["—", "input concatenative", "failed"]
    assert read_.cells.count("…") == 72 - 5
    marked = [
        attrs["id"] for attrs in read_.all("td") if "best" in attrs.get("class", "")
    ]
    assert marked == [f"at.digits.{NAMES[1]}"]
    assert "<script" not in text and read_.texts.count(f"failed: {bad}") == 1
    assert f"The job failed: {bad}" in read_.texts
    assert f"No program can stand here. {IDENTITY}" in read_.texts
    assert "1 of 5 runs diverged, so there is no mean." in read_.texts


def test_links_lead_somewhere_and_nothing_leaves_the_page(quick):
    text, read_ = read(quick)
    ids = [attrs["id"] for _, attrs, _ in read_.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in read_.all("a") if attrs["href"][0] == "#"]
    assert len(links) > 2 * 72 and {link[1:] for link in links} <= {*ids}
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    for word in ("http:", "https:", "//", "@import", "<script", "url(", "onclick"):
        assert word not in bare
    assert not read_.all("link")
    assert {*map(size, map(png_of, read_.all("img")))} == {(32, 32)}


def png_of(attrs):
    return b64decode(attrs["src"].partition("base64,")[2], validate=True)


def test_a_cell_opens_what_its_value_holds(quick):
    text, _ = read(quick)
    name = f"digits.{NAMES[1]}"
    panel = text[text.index(f'<section class="panel" id="{name}"') :]
    panel = Page(panel[: panel.index("</section>") + len("</section>")])
    said = " ".join(panel.texts)
    for part in ("1,728", "12,000,000", "42.0", "learned at 0.01", "Learning rate"):
        assert part in said
    for part in (
        "shifted: other font",
        "training seconds",
        "seed 6",
        "learnable input",
    ):
        assert part in said
    assert len(panel.all("img")) == 3 and "Other numbers" not in said
    more = text[text.index(f'<section class="panel" id="digits.{NAMES[3]}"') :]
    more = Page(more[: more.index("</section>") + len("</section>")]).cells
    assert more[more.index("training examples") :][2::2] == ["16", "64", "256", "1,024"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A folder with the page of a task, without plots."""
    folder = tmp_path_factory.mktemp("quick")
    page.write(folder, table(full()), plotted=False)
    return folder


def test_the_file_of_runs_reads_back(quick):
    found = table(full())
    text = (quick / "map.csv").read_text()
    (link,) = [a for a in read(quick)[1].all("a") if "download" in a]
    assert b64decode(link["href"].partition("base64,")[2]).decode() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    count = lambda state: sum(row["state"] == state for row in rows)
    # 54 cells, 3 controls, 3 cells with 3 numbers of examples; of 5 seeds
    assert (count("measured"), count("impossible")) == (5 * (54 + 3 + 9), 18)
    own = [r for r in rows if r["control"] == "linear-probe"]
    runs_ = found["digits/control-linear-probe"].value["runs"]
    assert [float(row["test"]) for row in own] == [run["test"] for run in runs_]
    cell = [r for r in rows if tuple(r[n] for n in WORDS) == CELLS[1] and r["seed"]]
    cell = [row for row in cell if not row["examples"]]
    stored = found[f"digits/{NAMES[1]}"].value
    assert [float(r["test"]) for r in cell] == [r["test"] for r in stored["runs"]]
    assert {float(r["shifted: blur"]) for r in cell} == {SHIFTED["blur"]}
    assert {int(r["bytes"]) for r in cell} == {stored["bytes"]}
    assert {float(r["latency program"]) for r in cell} == {stored["latency"]["program"]}
    few = [row for row in rows if row["examples"] == "16"]
    assert len(few) == 15 and {row["message"] for row in few} == {""}


WORDS = ("configuration", "location", "operator", "alignment")


def test_messages_and_numbers_that_are_none_pass_through_the_file():
    lost = value(0, runs=runs(0.9, [0, 0, np.nan, 0, 0]))
    found = table({f"digits/{NAMES[0]}": lost})
    bad = 'ValueError: got "a, b"\nand another line'
    found[f"digits/{NAMES[1]}"] = outcome(f"digits/{NAMES[1]}", error=bad)
    rows = list(csv.DictReader(io.StringIO(as_csv(boards(found)))))
    assert [float(row["test"]) for row in rows[:5]] == pytest.approx(
        [0.9, 0.9, np.nan, 0.9, 0.9], nan_ok=True
    )
    assert rows[5]["state"] == "failed" and rows[5]["message"] == bad
    assert {row["state"] for row in rows[6:]} == {"waiting"} and len(rows) == 76


# -- plots


def test_the_front_is_what_nothing_equals_for_less():
    spot = board_of({NAMES[0]: value(0.5)}).cells[CELLS[0]]
    given = [(1, 0.5), (2, 0.5), (2, 0.7), (1, 0.4), (3, 0.6), (9, 0.71), (9, 0.7)]
    found = plots.front([plots.Point(*pair, spot) for pair in given])
    assert [(p.x, p.y) for p in found] == [(1, 0.5), (2, 0.7), (9, 0.71)]


def test_costs_are_read_from_the_values():
    own = {"operations": {"bare": 200.0, "program": 250.0}, "bytes": 12}
    own |= {"latency": {"bare": 0.5, "program": 0.6}}
    board = board_of({NAMES[0]: value(0.8, **own), NAMES[1]: value(0.7)})
    found = [plots.points(board.cells.values(), axis) for axis in plots.AXES]
    assert [[p.x for p in points] for points in found] == [[12, 7], [1.2], [25]]
    assert found[1][0].y == pytest.approx(0.8)


def test_a_plot_names_its_front_and_another_shows_examples():
    board = board_of({n.partition("/")[2]: v for n, v in full().items()})
    text = plots.trade_off(board, plots.AXES[0])
    best = plots.front(plots.points(board.all[:72] + board.controls, plots.AXES[0]))
    assert [a["href"] for a in Page(text).all("a")] == [
        f"#{plots.slug(point.spot)}" for point in best
    ]
    assert {image.size for image in Page(text).images()} == {(1040, 820)}
    assert "number of training examples" in plots.by_examples(board)
    row = board.by_examples(NAMES[3])
    assert [spot.examples for spot in row] == [16, 64, 256, 1024]
    assert row[2].mean.value == board.cells[CELLS[3]].mean.value
    alone = board_of({NAMES[0]: value(0.5)})
    assert plots.by_examples(alone) == plots.trade_off(alone, plots.AXES[1]) == ""


def test_a_large_picture_is_made_smaller():
    rng = np.random.default_rng(0)
    code = b64encode(png(rng.uniform(size=(200, 300, 3)))).decode()
    less = smaller(code, 20_000)
    assert len(less) <= 20_000 < len(code) and size(b64decode(less))[0] < 300
    assert smaller(code, len(code)) == code


# -- the command


def planted(settings):
    return value(settings["mean"])


def test_the_command_reads_a_folder_that_a_sweep_fills(tmp_path, capsys):
    jobs = {f"digits/{name}": {"mean": 0.5} for name in NAMES[:3]}
    with ThreadPoolExecutor(1) as pool:
        line = sweep.run(planted, jobs, tmp_path, executor=pool, progress=False)
        next(line)
        page.main(page.Config(tmp_path, tmp_path / "map.png"))
        assert len([*line]) == 2
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    assert "of 72 cells are measured on 1 task (digits)" in read(tmp_path)[0]
    assert 10_000 < (tmp_path / "map.png").stat().st_size < 300_000


def test_the_map_keeps_its_table_and_page_of_all_that_the_folder_holds(tmp_path):
    """Jobs of an earlier call too, such as cells before those on few examples."""
    for names in (NAMES[:1], [f"examples-16/{NAMES[0]}", "control-linear-probe"]):
        jobs = {f"digits/{name}": {"mean": 0.5} for name in names}
        with ThreadPoolExecutor(1) as pool:
            list(sweep.run(planted, jobs, tmp_path, executor=pool, progress=False))
    text = taxonomy_map.write(taxonomy_map.Config(("digits",), out=tmp_path), False)
    assert (tmp_path / "table.md").read_text() == text
    assert "| learnable input additive | 0.500 ± 0.002 |" in text
    assert "| linear-probe | 0.500 ± 0.002 |" in text
    assert "1 of 72 cells are measured" in read(tmp_path)[0]
    assert not read(tmp_path)[1].all("source"), "no plots in between"


def test_a_folder_without_cells_has_a_page_and_no_picture(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert not [*sweep.run(planted, {}, tmp_path, executor=pool, progress=False)]
    page.main(page.Config(tmp_path))
    assert "Nothing has been measured yet." in read(tmp_path)[0]
    with pytest.raises(ValueError, match="no finished cell yet, expected at least one"):
        page.main(page.Config(tmp_path, tmp_path / "map.png"))
    with pytest.raises(ValueError, match="holds no sweep, expected a folder"):
        page.main(page.Config(tmp_path / "other"))


# -- a browser


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of four tasks, with plots."""
    folder = tmp_path_factory.mktemp("map")
    names = ("figures", "digits", "maps", "functions")
    values = [full(name, seed) for seed, name in enumerate(names)]
    page.write(folder, table({k: v for own in values for k, v in own.items()}))
    return folder / "report.html"


def test_four_tasks_are_below_four_megabytes(whole):
    assert 1_000_000 < whole.stat().st_size < 4_000_000


@pytest.mark.slow
def test_it_fits_a_desk_and_a_phone_and_a_cell_opens(whole, tmp_path):
    wide = (
        "[...document.querySelectorAll(WHICH)]"
        ".filter(e => e.scrollWidth > e.clientWidth)"
    )
    with browser.chromium(tmp_path / "profile") as tab:
        for width, dark in ((1200, False), (390, True)):
            tab.open(whole, width, dark=dark)
            page_, seen = tab.run(
                "(e => [e.scrollWidth, e.clientWidth])(document.documentElement)"
            )
            assert page_ <= seen == width
            heats = wide.replace("WHICH", "'.heat, .heat td, .heat a, .bench'")
            assert tab.run(f"{heats}.length") == 0
            assert tab.run("document.querySelectorAll('.heat td a').length") == 4 * 75
            assert shown(tab) == []
            tab.run("document.querySelector('.heat td.best a').click()")
            (panel,) = shown(tab)
            assert panel["box"] <= panel["room"] and panel["left"] >= 0
            assert panel["right"] == width and "Runs" in panel["text"]
            assert panel["images"] == 3
            tab.run("document.querySelector('.panel:target .close').click()")
            assert shown(tab) == []
            place = "document.querySelector(':target').getBoundingClientRect()"
            assert 0 < tab.run(f"{place}.top") < 844


def shown(tab):
    """What is seen of the panels."""
    return tab.run(
        "[...document.querySelectorAll('.panel')].filter(e => e.offsetWidth)"
        ".map(e => ({box: e.scrollWidth, room: e.clientWidth, text: e.innerText, "
        "left: e.getBoundingClientRect().left, right: e.getBoundingClientRect().right, "
        "images: [...e.querySelectorAll('img')].filter(i => i.naturalWidth).length}))"
    )


@pytest.mark.slow
def test_colours_of_dark_cells_can_be_read(whole, tmp_path):
    """A contrast of 3 to 1 or more between each number and its cell, in both themes."""
    script = "[...document.querySelectorAll('.heat td:not(.none) a')].map(e => [" + (
        "getComputedStyle(e).color, getComputedStyle(e.parentElement).backgroundColor])"
    )
    paper = "getComputedStyle(document.body).backgroundColor"
    with browser.chromium(tmp_path / "profile") as tab:
        for dark in (False, True):
            tab.open(whole, 1200, dark=dark)
            ground = rgba(tab.run(paper))[0]
            found = [[rgba(c) for c in pair] for pair in tab.run(script)]
            ratios = [
                contrast(ink, alpha * fill + (1 - alpha) * ground)
                for (ink, _), (fill, alpha) in found
            ]
            assert len(ratios) > 200 and min(ratios) > 3


def rgba(text):
    numbers = [float(n) for n in re.findall(r"[\d.]+", text)]
    return np.array(numbers[:3]), numbers[3] if len(numbers) > 3 else 1.0


def contrast(*colours):
    """WCAG's ratio of two colours [3] from 0 to 255."""
    shares = [np.asarray(c) / 255 for c in colours]
    linear = [
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in shares
    ]
    low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (high + 0.05) / (low + 0.05)
