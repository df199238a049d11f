"""How much of the variance of a map each dimension of the taxonomy explains.

The mixed model of statsmodels, by REML:

    accuracy ~ configuration + location + operator + alignment  (the same on all tasks)
             + task + (each dimension's effect that differs by task)
             + (each cell of a task) + (each seed of a cell)

It is fitted to the means of the cells: where all cells have as many seeds, that gives
the same estimates as the model of all rows, in a tenth of the time. What is left of a
cell's mean is then the variance between cells (interactions) plus that between seeds
divided by their number, and the seeds' own is measured within the cells.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.map.rows import Estimate, Row, benches_of, ends, seeds_of
from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS

DIMENSIONS = {
    "configuration": FORMATS,
    "location": LOCATIONS,
    "operator": OPERATORS,
    "alignment": OMEGAS,
}
ASSUMPTIONS = """\
Assumptions: effects and residuals are normal; the residual variance is the same in all
cells, also in those near accuracy 0 or 1; the effects of tasks, and of dimensions on
tasks, are independent draws. Identity stands only on tasks in the model's own label
space, so that its effect comes from those alone. With few tasks the parts that differ
by task are rough. A dimension's share is the variance of its fitted term over the cells
that were measured (as of Nakagawa and Schielzeth, 2013), less what the errors of the
estimated effects add to it. Intervals: a parametric bootstrap, percentiles of refits to
tables drawn from the fitted model."""
DRAWS = 200


class Shares(NamedTuple):
    """Of the variance of accuracy over all runs."""

    names: list[str]
    shares: Estimate
    deviation: float
    """The square root of the whole variance, in accuracy."""
    tasks: int
    seeds: int
    cells: int
    unconverged: int
    """Refits whose optimiser did not converge, left out of the intervals."""


class Means(NamedTuple):
    """The means of the cells, and the variance of seeds within a cell."""

    columns: dict[str, list[Any]]
    """"task", the dimensions, and "accuracy"."""
    seeds: int
    within: float


def means(found: Sequence[Row]) -> Means:
    """Cell means, and the pooled variance within cells."""
    by_cell: dict[tuple[str, ...], list[float]] = {}
    for row in found:
        by_cell.setdefault(row[:5], []).append(row.accuracy)
    columns = dict(zip(("task", *DIMENSIONS), zip(*by_cell, strict=True), strict=True))
    values = np.array([*by_cell.values()])
    within = float(values.var(1, ddof=1).mean()) if len(seeds_of(found)) > 1 else 0.0
    own: dict[str, list[Any]] = {name: [*column] for name, column in columns.items()}
    return Means(own | {"accuracy": values.mean(1).tolist()}, values.shape[1], within)


def mixed(found: Sequence[Row], draws: int = DRAWS) -> Shares:
    """The shares of a mixed model.

    Raises:
        ValueError: statsmodels is missing, or the table is too small: see `why_not`.
    """
    formulas, frame = statsmodels()
    if why := why_not(found):
        raise ValueError(f"no mixed model: {why}")
    given = means(found)
    kept = [n for n in DIMENSIONS if len({*given.columns[n]}) > 1]
    model = formulas.mixedlm(
        f"accuracy ~ {' + '.join(f'C({name})' for name in kept) or '1'}",
        frame(given.columns),
        groups="task",
        vc_formula={"task": "1"} | {name: f"0 + C({name})" for name in kept},
    )
    fit = _fitted(model, model.endog)
    if not fit.converged:
        raise ValueError(
            "the mixed model did not converge, expected a table with more cells; pass "
            "--no-mixed"
        )
    names, own, scaled = _parts(model, fit, given.seeds, given.within)
    simulate = _simulation(model, fit, scaled, given)
    refits = []
    for _ in range(draws):
        y, within = simulate()
        again = _fitted(model, y)
        if again.converged:
            refits.append(_parts(model, again, given.seeds, within)[1])
    if len(refits) <= draws / 2:
        raise ValueError(
            f"{len(refits)} of {draws} refits of the mixed model converged, expected "
            "more than half; pass --no-mixed"
        )
    table = np.array([r / r.sum() for r in refits])
    shares = Estimate(own / own.sum(), *ends(table))
    return Shares(
        names,
        shares,
        float(own.sum() ** 0.5),
        len(benches_of(found)),
        given.seeds,
        len(model.endog),
        draws - len(refits),
    )


def why_not(found: Sequence[Row]) -> str:
    """Why there can be no mixed model, or ""."""
    if len(tasks := benches_of(found)) < 2:
        return (
            f"got the tasks {tasks}, expected two or more, because what differs by "
            "task cannot be told from one"
        )
    cells = np.array([*{row[:5] for row in found}])
    words = [{*column} for column in cells.T[1:]]
    design = [np.ones(len(cells))] + [
        column == word
        for column, own in zip(cells.T[1:], words, strict=True)
        for word in own
    ]
    effects = 1 + sum(len(own) - 1 for own in words)
    rank = np.linalg.matrix_rank(np.array(design, float))
    if rank < effects or len(cells) < 2 * effects:
        return (
            f"got {len(cells)} cells for {effects} effects, expected at least twice as "
            "many, in which no dimension follows from the others"
        )
    return ""


def statsmodels() -> tuple[Any, Any]:
    """Its formulas, and the table that they take; ValueError if it is missing."""
    try:
        import pandas
        from statsmodels.formula import api
    except ImportError as error:
        raise ValueError(
            "the mixed model needs statsmodels, which is not installed; "
            "pip install 'reprojax[map]', or pass --no-mixed"
        ) from error
    return api, pandas.DataFrame


class Fit(NamedTuple):
    """Of a model's design to some values."""

    effects: np.ndarray
    components: np.ndarray
    """The variances of `model.exog_vc.names`."""
    rest: float
    """What is left of a cell's mean: its variance."""
    converged: bool


def _fitted(model: Any, y: np.ndarray) -> Fit:
    """By the likelihood of statsmodels, and a bounded optimiser: its own `fit` may end
    in a singular matrix where a component is nearly 0. A component is at least a
    millionth of the rest."""
    from scipy import optimize
    from statsmodels.regression.mixed_linear_model import MixedLM

    own = MixedLM(y, model.exog, model.groups, exog_vc=model.exog_vc)
    own.cov_pen = None  # `fit` sets it, and the likelihood reads it
    count = len(model.exog_vc.names)
    found = optimize.minimize(
        lambda roots: -own.loglike(roots),
        np.ones(count),
        bounds=[(1e-3, 1e2)] * count,
        method="L-BFGS-B",
    )
    nothing = np.zeros((0, 0))  # tasks are a component as the others are
    effects, _ = own.get_fe_params(nothing, found.x**2)
    rest = float(own.get_scale(effects, nothing, found.x**2))
    return Fit(np.asarray(effects), found.x**2 * rest, rest, bool(found.success))


def _parts(
    model: Any, fit: Fit, seeds: int, within: float
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(names, their variances, effects [F] shrunk to these variances)."""
    terms, effects = _terms(model), fit.effects
    errors = _errors(model, fit)
    centred = model.exog - model.exog.mean(0)
    parts, scaled = {}, effects.copy()
    for name, at in terms.items():
        raw = float(np.var(centred[:, at] @ effects[at]))
        noise = np.einsum("nf,fg,ng->", centred[:, at], errors[at, at], centred[:, at])
        parts[name] = max(0.0, raw - float(noise) / len(centred))
        scaled[at] *= (parts[name] / raw) ** 0.5 if raw else 1.0
    alone = sum(float(np.var(centred[:, at] @ scaled[at])) for at in terms.values())
    parts["overlap of the dimensions"] = float(np.var(centred @ scaled)) - alone
    for name, variance in zip(model.exog_vc.names, fit.components, strict=True):
        parts["task" if name == "task" else f"{name} by task"] = float(variance)
    parts["cells (interactions)"] = max(0.0, fit.rest - within / seeds)
    parts["seeds"] = within
    return [*parts], np.array([*parts.values()]), scaled


def _terms(model: Any) -> dict[str, slice]:
    """The columns of each dimension in the design."""
    first = [name.partition("[")[0][2:-1] for name in model.exog_names]
    found = {}
    for name in DIMENSIONS:
        at = [i for i, own in enumerate(first) if own == name]
        if at:
            found[name] = slice(at[0], at[-1] + 1)
    return found


def _blocks(model: Any) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """For each task the rows, and the design of each variance component."""
    return [
        (
            np.asarray(model.row_indices[task]),
            [np.asarray(own[i]) for own in model.exog_vc.mats],
        )
        for i, task in enumerate(model.group_labels)
    ]


def _errors(model: Any, fit: Fit) -> np.ndarray:
    """Covariance of the effects, given the variances: (X' V⁻¹ X)⁻¹, [F F]."""
    total = 0.0
    for at, designs in _blocks(model):
        v = fit.rest * np.eye(len(at))
        for variance, z in zip(fit.components, designs, strict=True):
            v += variance * z @ z.T
        x = model.exog[at]
        total = total + x.T @ np.linalg.solve(v, x)
    return np.linalg.inv(total)


def _simulation(model: Any, fit: Fit, effects: np.ndarray, given: Means) -> Any:
    """Draws of (means of the cells, variance of seeds) from the fitted model."""
    rng, blocks = np.random.default_rng(0), _blocks(model)
    freedom = len(model.endog) * (given.seeds - 1)
    scale = max(fit.rest, given.within / given.seeds)

    def draw() -> tuple[np.ndarray, float]:
        y = model.exog @ effects + rng.normal(0, scale**0.5, len(model.endog))
        for at, designs in blocks:
            for variance, z in zip(fit.components, designs, strict=True):
                y[at] += z @ rng.normal(0, variance**0.5, z.shape[1])
        return y, given.within * (rng.chisquare(freedom) / freedom if freedom else 1.0)

    return draw


# -- without a model


class Squares(NamedTuple):
    """Sums of squares of a table without gaps, divided by the whole."""

    shares: dict[str, float]
    tasks: int
    prompts: int
    seeds: int


def squares(accuracy: np.ndarray) -> Squares | None:
    """Of [T 2 3 3 A N], after the level that lacks most (such as a location that half
    of the tasks have no program for) was left out until no gap was left; None if fewer
    than two cells are.

    Shares of tasks, dimensions, these by task, the cells left, and seeds, which add up
    to 1 without any assumption. They are of these cells, and tasks are no draws here.
    """
    whole = _without_gaps(accuracy)
    if whole.size < 2 or not whole.var():
        return None
    tasks, seeds = whole.shape[0], whole.shape[-1]
    cells = whole.mean(-1)
    found = {"task": _main(cells, (0,))}
    for axis, name in enumerate(DIMENSIONS, 1):
        if cells.shape[axis] == 1:
            continue
        found[name] = _main(cells, (axis,))
        found[f"{name} by task"] = _main(cells, (0, axis)) - found["task"] - found[name]
    found["cells (interactions)"] = float(cells.var()) - sum(found.values())
    found["seeds"] = float(whole.var(-1).mean())
    shares = {name: part / float(whole.var()) for name, part in found.items()}
    return Squares(shares, tasks, int(np.prod(whole.shape[1:4])), seeds)


def _without_gaps(accuracy: np.ndarray) -> np.ndarray:
    while accuracy.size and not np.isfinite(accuracy).all():
        lacking = [
            (float(gap), len(each), axis, level)
            for axis in range(accuracy.ndim - 1)
            for each in [_gaps(accuracy, axis)]
            for level, gap in enumerate(each)
        ]
        *_, axis, level = max(lacking)
        accuracy = np.delete(accuracy, level, axis)
    return accuracy


def _gaps(accuracy: np.ndarray, axis: int) -> np.ndarray:
    """The share of cells without a value at each level of a dimension."""
    others = tuple(i for i in range(accuracy.ndim) if i != axis)
    return (~np.isfinite(accuracy)).mean(others)


def _main(cells: np.ndarray, axes: tuple[int, ...]) -> float:
    """The variance of the means over all other axes."""
    others = tuple(i for i in range(cells.ndim) if i not in axes)
    return float(cells.mean(others).var())
