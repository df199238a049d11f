"""The table of `three_paradigms`, what it says, and its page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from experiments.three_paradigms.methods import Bench, Cell
from reprojax.commands import figures
from reprojax.commands.figures import Theme
from reprojax.commands.intervals import Mean, mean_of, paired
from reprojax.commands.page import captioned, write_page

TITLES = {
    "instruction": "Prompt instruction",
    "tuning": "Prompt tuning",
    "reprogramming": "Model reprogramming",
    "control": "Controls",
}
NONE = (float("nan"), float("nan"))
SHOTS = ("few-shot", "few-shot, calibrated")


def ks_of(cells: Sequence[Cell]) -> list[int]:
    return sorted({cell.k for cell in cells})


def own(cells: Sequence[Cell], method: str, k: int) -> dict[int, Cell]:
    """{seed: cell}"""
    return {c.seed: c for c in cells if c.method == method and c.k == k}


def header(cells: Sequence[Cell]) -> tuple[str, ...]:
    """An actual number of examples stands beside a k that is below the classes."""
    columns = []
    for k in ks_of(cells):
        used = max(c.examples for c in cells if c.k == k)
        columns.append(f"k = {k}" + (f" ({used})" if used != k else ""))
    return ("method", "coordinates", "learnable", "ms a query", *columns)


def rows(bench: Bench, cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """One line a method, an accuracy with its interval for each k."""
    seeds = len({cell.seed for cell in cells})
    return [
        _row([c for c in cells if c.method == name], ks_of(cells), seeds)
        for name in bench.methods
        if any(c.method == name for c in cells)
    ]


def _row(cells: Sequence[Cell], ks: Sequence[int], seeds: int) -> tuple[str, ...]:
    last = max(cells, key=lambda cell: cell.k)

    def accuracy(k: int) -> str:
        tests = [cell.test for cell in cells if cell.k == k]
        few = f" ({len(tests)})" if tests and len(tests) < seeds else ""
        return f"{mean_of(tests)}{few}" if tests else ""

    return (
        last.method,
        last.coordinates,
        f"{last.learnable:,}",
        f"{np.median([c.milliseconds for c in cells if c.k == last.k]):.1f}",
        *map(accuracy, ks),
    )


def best_shots(cells: Sequence[Cell], k: int) -> str | None:
    """The few-shot row that validation prefers at this k."""
    found = {name: own(cells, name, k).values() for name in SHOTS}
    scores = {n: np.mean([c.validation for c in f]) for n, f in found.items() if f}
    return max(scores, key=lambda name: scores[name]) if scores else None


def differences(
    bench: Bench, cells: Sequence[Cell]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What is learned over what it has to beat, seed by seed, at the largest k."""
    k = max(ks_of(cells), default=0)
    shots = best_shots(cells, k)
    against = [(shots, k)] if shots else []
    against += [("zero-shot", 0), ("linear probe", k)]
    against = [pair for pair in against if own(cells, *pair)]
    lines = []
    for name, method in bench.methods.items():
        if method.learned and (mine := own(cells, name, k)):
            pairs = [_pairs(mine, own(cells, *pair)) for pair in against]
            found = [paired(*zip(*some, strict=True)) for some in pairs]
            lines.append((name, *map(_difference, found)))
    return (f"k = {k}", *(f"over {name}" for name, _ in against)), lines


def _difference(one: Mean) -> str:
    """Of one seed there is no interval, and of none no number."""
    if np.isnan(one.half):
        return "" if np.isnan(one.value) else f"{one.value:+.3f}"
    return one.interval


def notes(bench: Bench, cells: Sequence[Cell]) -> list[str]:
    """What a reader of both tables has to know."""
    seeds = len({cell.seed for cell in cells})
    lines = [
        f"Accuracies are means over {seeds} seed{'s' * (seeds > 1)}"
        + (" with 95 % intervals of Student's t" if seeds > 1 else "")
        + "; k counts labelled examples in all, and one a class at least (in "
        "brackets). All methods get the same examples and choose by the same "
        "validation split. Times are those of the largest k, in batches of "
        f"{bench.rows}, a shared beginning read before."
    ]
    k = max(ks_of(cells), default=0)
    if shots := best_shots(cells, k):
        lines.append(f"Of the few-shot rows at k = {k}, validation prefers {shots}.")
    return [*lines, *bench.remarks]


def _pairs(a: dict[int, Cell], b: dict[int, Cell]) -> list[tuple[float, float]]:
    """Of the seeds that both have."""
    return [(a[seed].test, b[seed].test) for seed in a if seed in b] or [NONE]


# -- the page


def write(path: Path, bench: Bench, cells: Sequence[Cell], command: str) -> None:
    """One file that needs no other."""
    write_page(
        path,
        bench.title,
        [
            f"<h1>{escape(bench.title)}: three paradigms, one table</h1>",
            f'<pre class="command">{escape(command.strip())}</pre>',
            _table(bench, cells),
            _differences(bench, cells),
            "<h2>Accuracy by the number of examples</h2>\n" + _curves(bench, cells),
            *_programs(bench, cells),
        ],
    )


def _line(cells: Sequence[str], tag: str) -> str:
    """A word, then numbers."""
    first, *rest = cells
    inner = "".join(f'<{tag} class="number">{escape(cell)}</{tag}>' for cell in rest)
    return f"<tr><{tag}>{first}</{tag}>{inner}</tr>"


def _method(row: Sequence[str]) -> str:
    """Two lines, the coordinates in the second: a page is not wide enough for one."""
    name, coordinates, *numbers = row
    below = escape(coordinates).replace("-&gt;", "&rarr;")
    return (
        f"{_line((escape(name), *numbers), 'td')}\n<tr><td class='soft' style="
        f"'padding-top: 0' colspan='{len(row) - 1}'>{below}</td></tr>"
    )


def _table(bench: Bench, cells: Sequence[Cell]) -> str:
    head, lines = header(cells), {line[0]: line for line in rows(bench, cells)}
    parts = []
    for paradigm, title in TITLES.items():
        names = [n for n, m in bench.methods.items() if m.paradigm == paradigm]
        body = "\n".join(_method(lines[n]) for n in names if n in lines)
        span = f'<tr><th colspan="{len(head) - 1}" scope="rowgroup">{title}</th></tr>'
        parts += [f"<tbody>\n{span}\n{body}\n</tbody>"] if body else []
    below = "".join(f"\n<p>{escape(line)}</p>" for line in notes(bench, cells))
    return (
        '<h2>Result</h2>\n<div class="scroll"><table class="results">\n'
        f"<thead>{_line((head[0], *head[2:]), 'th')}</thead>\n"
        + "\n".join(parts)
        + f'\n</table></div>\n<div class="soft">{below}\n</div>'
    )


def _differences(bench: Bench, cells: Sequence[Cell]) -> str:
    head, lines = differences(bench, cells)
    if not lines or len({cell.seed for cell in cells}) < 2:
        return ""
    body = "\n".join(_line((escape(name), *rest), "td") for name, *rest in lines)
    return (
        "<h2>What is learned over what it has to beat</h2>\n<p class='soft'>Means of "
        "differences by seed, with 95 % intervals.</p>\n"
        f'<div class="scroll"><table class="results">\n<thead>{_line(head, "th")}'
        f"</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _curves(bench: Bench, cells: Sequence[Cell]) -> str:
    """One colour a paradigm, one marker a method."""
    ks = [k for k in ks_of(cells) if k]

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        colours = dict(
            zip(
                TITLES,
                (theme.accent, theme.lines[0], theme.lines[2], theme.lines[5]),
                strict=True,
            )
        )
        count = dict.fromkeys(TITLES, 0)
        for i, (name, method) in enumerate(bench.methods.items()):
            n = count[method.paradigm]
            count[method.paradigm] += 1
            style: dict[str, Any] = {"color": colours[method.paradigm], "label": name}
            style |= {"linestyle": ("-", "--", ":", "-.")[n % 4], "linewidth": 1.6}
            if not method.examples:
                if flat := own(cells, name, 0):
                    axes.axhline(np.mean([c.test for c in flat.values()]), **style)
                continue
            found = [[c.test for c in own(cells, name, k).values()] for k in ks]
            known = [j for j, tests in enumerate(found) if tests]
            if not known:
                continue
            means = [mean_of(found[j]) for j in known]
            error = [0 if np.isnan(m.half) else m.half for m in means]
            at = np.array(known) + 0.035 * (i - len(bench.methods) / 2)
            axes.errorbar(
                at,
                [m.value for m in means],
                error,
                marker="os^D"[n % 4],
                markersize=4.5,
                elinewidth=0.9,
                **style,
            )
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        means = [np.mean([c.test for c in group]) for group in _groups(cells)]
        axes.set(xlabel="labelled examples", ylabel="test accuracy")
        axes.set_ylim(max(0.0, min(means) - 0.08), 1.01)
        axes.grid(axis="y", linewidth=0.6, alpha=0.6)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9, ncols=2)

    k = max(ks, default=0)
    ends = [
        f"{name} {np.mean([c.test for c in found.values()]):.3f}"
        for name, method in bench.methods.items()
        if (found := own(cells, name, k if method.examples else 0))
    ]
    alt = f"Test accuracy by the number of examples; at {k}: {', '.join(ends)}"
    text = (
        "Mean test accuracy over the seeds, with 95 % intervals. One colour a "
        "paradigm; lines without markers use no examples."
    )
    return captioned([(figures.plot(draw, 6.4, 5.2, alt), text)])


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Those of one method and one k together."""
    names = dict.fromkeys((cell.method, cell.k) for cell in cells)
    return [list(own(cells, *name).values()) for name in names]


def _programs(bench: Bench, cells: Sequence[Cell]) -> list[str]:
    """Each method's sites, and what it made of the most examples that it had."""
    parts = [
        "<h2>The programs</h2>\n<p class='soft'>Coordinates (format, location, "
        "operator &rarr; alignment) were observed by running each part alone. Below "
        "them, what became of the first seed's largest draw.</p>"
    ]
    for name in bench.methods:
        found = [c for c in cells if c.method == name]
        if not found:
            continue
        cell = min(found, key=lambda c: (-c.k, c.seed))
        parts.append(
            f"<h3>{escape(name)}</h3>\n<pre>{escape(cell.program)}</pre>"
            + (f"\n<pre>{escape(_cut(cell.shown))}</pre>" if cell.shown else "")
        )
    return parts


def _cut(text: str, most: int = 1500) -> str:
    """A page shows the beginning of a long prompt, and says so."""
    if len(text) <= most:
        return text
    return f"{text[:most]} … ({len(text) - most:,} more characters)"
