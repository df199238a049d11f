"""describe(program): the coordinates (lambda, ell, tau, omega), observed.

Nothing is declared. Each manipulation is run alone on random prompts and values, so a
user's own operator is described like the library's.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from itertools import chain, product
from math import prod
from operator import or_
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from reprojax.core import (
    CONTEXT,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    Sites,
    part,
    spec_of,
    watching,
)
from reprojax.data.rows import unshared
from reprojax.taxonomy.manipulations import (
    Alone,
    acting,
    alignment,
    draw_task,
    operator,
    real,
)
from reprojax.taxonomy.watched import Cut, Watched, is_own, is_same, is_whole, watch

FORMATS = ("learnable", "fixed")
LOCATIONS = ("input", "embedding", "hidden")
OPERATORS = ("additive", "concatenative", "parametric")
OMEGAS = ("identity", "rule", "statistical", "linear")


class Row(NamedTuple):
    """One site. Texts are "" if there is no prompt (a resize)."""

    site: str
    format: str
    """lambda: "learnable" or "fixed"."""
    location: str
    """ell: "input", "embedding" or "hidden"; "output" for the alignment."""
    operator: str
    """tau: "additive", "concatenative" or "parametric"; omega at "output"."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the learnable leaves, or of the fixed ones if nothing is learnable."""
    learnable: int
    """Number of learnable parameters."""
    acting: int
    """How many of these were seen to change the answer: inside a frame, none. Those
    that the context's integers can select count, whether or not they do."""
    fixed: int
    """Number of fixed parameters."""


class Description(NamedTuple):
    """The coordinates of a program; `str` adds a table."""

    rows: tuple[Row, ...]
    """One for each site. Sites that share params show them at the first."""
    omega: str
    """The alignment: "identity", "rule", "linear" or "statistical"."""

    @property
    def learnable(self) -> int:
        """Number of learnable parameters."""
        return sum(row.learnable for row in self.rows)

    @property
    def acting(self) -> int:
        """How many of them have an effect; papers report this number."""
        return sum(row.acting for row in self.rows)

    @property
    def coordinates(self) -> str:
        """Such as "learnable input additive -> statistical"."""
        prompts = {row[1:4] for row in self.rows if row.operator}
        inside = [at for at in prompts if at[1] in LOCATIONS]
        inside.sort(key=lambda at: (LOCATIONS.index(at[1]), at))
        return f"{' + '.join(map(' '.join, inside)) or 'no prompt'} -> {self.omega}"

    def __str__(self) -> str:
        head = (
            "site",
            "format",
            "location",
            "operator",
            "shapes",
            "learnable",
            "fixed",
        )
        fixed = sum(row.fixed for row in self.rows)
        total = (
            "total",
            "",
            "",
            "",
            "",
            _count(self.learnable, self.acting),
            f"{fixed:,}",
        )
        return f"{self.coordinates}\n{_table([head, *map(_cells, self.rows), total])}"


def describe(
    program: Program,
    frozen: PyTree,
    x: PyTree,
    context: PyTree = None,
    *,
    roles: Mapping[str, Sites] | None = None,
    embedding: Iterable[str] = (),
    inputs: Iterable[str] = ("input", "normalized"),
    seed: int = 0,
) -> Description:
    """The coordinates of a program, its sites, shapes and counts, all observed.

    Args:
        x: the program's input, or its shapes; likewise the context, where `Shared` is
            replaced by its value.
        roles: a card's. Its "embedding", "text_embedding" and "input" sites join the
            next two.
        embedding: sites with the embedded input. A site named nowhere is hidden.
        inputs: sites with the input itself.
    """
    context = unshared(context)
    random, roles = np.random.default_rng(seed), {} if roles is None else roles
    named = (*roles.get("embedding", ()), *roles.get("text_embedding", ()))
    place = {site: "embedding" for site in (*embedding, *named)}
    place |= {site: "input" for site in (*inputs, *roles.get("input", ()))}
    place["output"] = "output"
    params = program.init(jax.random.key(seed), frozen, x, context)
    specs, looped, plain = _raw_specs(program, params, frozen, x, context)
    if not plain:
        x, context = draw_task(random, x), real(random, context)
        found = watch(program, params, frozen, x, context)
        return _description(_watched_rows(found, place, seed))
    # A loop's one site is the input of all its layers, so it is hidden, not embedding.
    place |= {site: "hidden" for site in looped if place.get(site) == "embedding"}
    context = specs.get(CONTEXT) if context is None else context
    x, context = draw_task(random, x), real(random, context)
    rows = []
    for sites, manipulation in program.at:
        scopes = [Scope(s, i, frozen, x, context) for i, s in enumerate(sites)]
        own = manipulation, part(params, sites[0])
        group = [Alone(*own, specs[scope.site], scope, seed) for scope in scopes]
        rows += _rows(
            group, [place.get(s.removesuffix("/raw"), "hidden") for s in sites]
        )
    return _description(rows)


def _description(rows: Sequence[Row]) -> Description:
    omega = next((row.operator for row in rows if row.location == "output"), "identity")
    return Description(tuple(rows), omega)


def _raw_specs(
    program: Program, *args: Any
) -> tuple[dict[str, PyTree], set[str], bool]:
    """{site: spec} of the manipulations' inputs, the sites inside loops, and whether
    the program is plain: all of `program.at`, and nothing else, acts, on own params and
    the program's own arguments, and nothing else is learned."""
    specs, made, plain = {}, {}, True

    def spy(site: str, value: PyTree) -> PyTree:
        if site.endswith("/raw"):  # nested programs: the outer one comes last
            site = site.removesuffix("/raw")
            specs[site] = spec_of(value)
            return jax.tree.map(partial(_marked, site), value)
        if site == CONTEXT:
            made[site] = value
        return value

    def apply(params: Params, frozen: PyTree, x: PyTree, context: PyTree) -> PyTree:
        def act(
            m: Manipulation, own: Params, value: PyTree, scope: Scope, inner: bool
        ) -> Any:
            nonlocal plain
            given = scope.frozen, scope.x, scope.context
            plain &= is_own(program, params, m, own)
            # A context made by `informed` counts as the program's own.
            own_context = made.get(CONTEXT) if context is None else context
            plain &= is_same((frozen, x, own_context), given)
            return m.apply(own, value, scope)

        with watching(act):
            return program.apply(params, frozen, x, context, edit=spy)

    jaxpr = jax.make_jaxpr(apply)(*args)
    known = {site for sites, _ in program.at for site in sites} == {*specs}
    plain &= known and is_whole(program, args[0])
    specs |= spec_of(made)
    return specs, _in_loops(jaxpr.jaxpr), plain


def _marked(site: str, a: Any) -> Any:
    return checkpoint_name(a, site) if isinstance(a, jax.Array) else a


def _in_loops(jaxpr: Any, inside: bool = False) -> set[str]:
    """Names of marked values inside scan or while, where one site is many layers."""
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "name" and inside:
            found.add(eqn.params["name"])
        loop = inside or eqn.primitive.name in ("scan", "while")
        for leaf in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(leaf, "jaxpr", leaf)
            found |= _in_loops(inner, loop) if hasattr(inner, "eqns") else set()
    return found


def _rows(group: Sequence[Alone], locations: Sequence[str]) -> list[Row]:
    """The rows of sites that share params."""
    where = [_at(*one) for one in zip(group, locations, strict=True)]
    return _counted(where, group)


def _at(alone: Alone, location: str) -> tuple[str, str, str, str]:
    """(site, lambda, ell, tau)."""
    tau = alignment(alone) if location == "output" else operator(alone)
    lam = "learnable" if jax.tree.leaves(alone.params.learnable) else "fixed"
    lam = "" if tau in ("", "identity", "rule") else lam
    return alone.scope.site, lam, location, tau


def _counted(
    where: Iterable[tuple[str, str, str, str]], group: Sequence[Alone]
) -> list[Row]:
    """Rows of these sites; shared params are counted at the first."""
    params = group[0].params
    leaves = [[tuple(np.shape(a)) for a in jax.tree.leaves(tree)] for tree in params]
    counts = sum(map(prod, leaves[0])), acting(group), sum(map(prod, leaves[1]))
    first = tuple(leaves[0] or leaves[1]), *counts
    return [Row(*at, *((), 0, 0, 0) if i else first) for i, at in enumerate(where)]


# -- programs that compute or select their manipulations' params


def _watched_rows(found: Watched, place: Mapping[str, str], seed: int) -> list[Row]:
    """The rows of manipulations cut out of a program's trace."""
    groups: list[list[Cut]] = []
    for cut in found.cuts:
        mine = [group for group in groups if any(_shares(cut, one) for one in group)]
        groups = [group for group in groups if group not in mine]
        groups.append([*chain.from_iterable(mine), cut])
    rows = [row for group in groups for row in _cut_rows(group, place, seed)]
    known = frozenset().union(*(cut.leaves for cut in found.cuts))
    rest = [i for i in range(found.learned) if i not in known]
    sizes = {i: np.size(found.leaves[i]) for i in rest}
    if rest:
        acts = sum(sizes[i] for i in rest if found.used[i])
        shapes = tuple(np.shape(found.leaves[i]) for i in rest)
        rows.append(Row("", "learnable", "", "", shapes, sum(sizes.values()), acts, 0))
    return rows


def _shares(cut: Cut, other: Cut) -> bool:
    """Whether two cuts share numbers, or are one manipulation that acts twice."""
    same = cut.manipulation == other.manipulation
    again = same and cut.alone.scope.site == other.alone.scope.site
    return bool(cut.leaves & other.leaves) or again


def _cut_rows(group: Sequence[Cut], place: Mapping[str, str], seed: int) -> list[Row]:
    """The rows of cuts that share params; one that acts twice at a site has one row."""
    where: dict[Any, tuple[str, str, str, str]] = {}
    for cut in group:
        alone = cut.alone._replace(seed=seed)
        site = alone.scope.site
        location = place.get(site.removesuffix("/raw"), "hidden")
        if cut.looped and location == "embedding":
            location = "hidden"
        at = _at(alone, location)
        if location == "output" and jax.tree.leaves(cut.held):
            omega = "linear" if jax.tree.leaves(cut.held.learnable) else "statistical"
            at = (*at[:3], omega)
        where.setdefault((cut.manipulation, site), at)
    params = [cut.alone.params for cut in group if cut.leaves]
    together = group[0].alone.params
    if params:
        together = Params(*(reduce(or_, side) for side in zip(*params, strict=True)))
    counted = [cut.alone._replace(params=together, seed=seed) for cut in group]
    return _counted(where.values(), counted)


# -- all cells


class Cell(NamedTuple):
    """A cell of the survey's table, which has 2 formats x 3 locations x 3 operators x 4
    alignments = 72."""

    format: str
    location: str
    operator: str
    omega: str


def cells(coordinates: Mapping[str, str]) -> dict[Cell, list[str]]:
    """The 72 cells in order, each with the names of its programs.

    A program with prompts at several places is in a cell for each of them; one without
    a prompt is in none.

    Args:
        coordinates: {name: `Description.coordinates`}.
    """
    found: dict[Cell, list[str]] = {
        Cell(*at): [] for at in product(FORMATS, LOCATIONS, OPERATORS, OMEGAS)
    }
    for name, text in coordinates.items():
        prompts, _, omega = text.partition(" -> ")
        for prompt in dict.fromkeys(prompts.split(" + ")):
            if prompt != "no prompt":
                found[_cell(f"{prompt} {omega}", found)].append(name)
    return found


def _cell(text: str, known: Iterable[Cell]) -> Cell:
    cell = next((cell for cell in known if " ".join(cell) == text), None)
    if cell is None:
        raise ValueError(
            f"got the coordinates {text!r}, expected a format of {FORMATS}, a "
            f"location of {LOCATIONS}, an operator of {OPERATORS} and an alignment of "
            f"{OMEGAS}; pass what Description.coordinates gives"
        )
    return cell


def grid(found: Mapping[Cell, Sequence[str]]) -> str:
    """The result of `cells` as a Markdown table: a line for each kind of prompt."""
    lines = [f"| prompt | {' | '.join(OMEGAS)} |", "|---" * 5 + "|"]
    for at in product(FORMATS, LOCATIONS, OPERATORS):
        names = [", ".join(found[Cell(*at, omega)]) or "–" for omega in OMEGAS]
        lines.append(f"| {' '.join(at)} | {' | '.join(names)} |")
    return "\n".join(lines)


# -- the table


def _count(learnable: int, acting: int) -> str:
    return f"{learnable:,}" + ("" if acting == learnable else f" ({acting:,} act)")


def _cells(row: Row) -> tuple[str, ...]:
    """One line: at most three shapes, a dash for an empty entry."""
    shapes = ["x".join(map(str, shape)) or "1" for shape in row.shapes]
    more = [f"+{len(shapes) - 3} more"] if len(shapes) > 3 else []
    shown = ", ".join(shapes[:3] + more)
    counts = (_count(row.learnable, row.acting), f"{row.fixed:,}")
    return (*(word or "-" for word in (*row[:4], shown)), *counts)


def _table(lines: Sequence[tuple[str, ...]]) -> str:
    """Aligned columns; the two counts are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = "<" * (len(widths) - 2) + ">>"
    return "\n".join(
        "  ".join(f"{c:{s}{w}}" for c, s, w in zip(cells, sides, widths, strict=True))
        for cells in lines
    )
