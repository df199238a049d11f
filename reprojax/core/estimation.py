"""Estimate label maps and running statistics from a program's own forward passes.

A label map is computed from sums over batches of the values at `"<site>/raw"`. Running
averages (the batch statistics of a mask network) arrive by a tap named "fixed".
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from reprojax.core import faults
from reprojax.core.program import part
from reprojax.core.vocabulary import Manipulation, Params, Program, PyTree

Refresh = Literal["epoch", "exact", "once"]
"""When label maps are estimated. All three estimate before the first step. Then "epoch"
uses the outputs of the epoch's own training steps, "exact" makes a second pass over the
training split after each epoch, and "once" keeps the first estimate."""


def estimated(program: Program) -> dict[str, Manipulation]:
    """{site: manipulation} of the manipulations that have an `observe`."""
    return {s[0]: m for s, m in program.at if m.observe is not None}


def raw_sites(program: Program) -> list[str]:
    """The sites to record for `observe`."""
    return [f"{site}/raw" for site in estimated(program)]


def real(labels: Any) -> Any:
    """Mask of the labels of real examples: -1 and NaN mean missing, or batch filler."""
    floats = jnp.issubdtype(labels.dtype, jnp.floating)
    return ~jnp.isnan(labels) if floats else labels >= 0


def observe(
    program: Program, params: Params, seen: Mapping[str, Any], labels: jax.Array
) -> dict[str, PyTree]:
    """{site: sums} of one batch; sums of several batches add up.

    A label of -1 marks a row without an example. If labels are neither classes nor
    words (floats, or several tags a row), `observe` gets label 0 for each row that has
    a label. Tags and words are both [B T]; they differ in the rank of the answer
    "output", which is 2 for tags.
    """
    sums, output = {}, seen.get("output")
    several = labels.ndim == 2 and getattr(output, "ndim", 0) == 2
    if several or jnp.issubdtype(labels.dtype, jnp.floating):
        labels = jnp.where(real(labels).any(1), 0, -1)
    for site, m in estimated(program).items():
        assert m.observe is not None
        own, value = part(params, site), seen[f"{site}/raw"]
        with faults.part_at(faults.at_sites((site,)), m, "observe", own, value):
            sums[site] = faults.check_sums(m.observe(own, value, labels))
    return sums


def refresh(program: Program, params: Params, sums: Mapping[str, PyTree]) -> Params:
    """The params whose `fixed` is re-estimated from the sums of an epoch."""
    fixed = dict(params.fixed)
    for site, m in estimated(program).items():
        assert m.refresh is not None
        own = part(params, site)
        with faults.part_at(faults.at_sites((site,)), m, "refresh", own):
            found = faults.given_params(m.refresh(own, sums[site]), "refresh")
            fixed[site] = faults.check_fixed(own.fixed, found.fixed, "refresh")
    return params._replace(fixed=fixed)


def is_news(site: str) -> bool:
    """Whether a tap's name means: a new value for a part of `params.fixed`."""
    return site.endswith("/fixed")


def put_news(params: Params, seen: Mapping[str, Any]) -> Params:
    """The params with the value of each tap "<site>/<parts>/fixed" put in `fixed`."""
    fixed = params.fixed
    for name, value in seen.items():
        if is_news(name):
            site = _site(name, fixed)
            path = name[len(site) + 1 :].split("/")[:-1]
            fixed = _put(fixed, [site, *path], value, name)
    return params._replace(fixed=fixed)


def _site(name: str, sites: Iterable[str]) -> str:
    """The site of a tap; among sites that share params only the first keeps them."""
    found = max((s for s in sites if name.startswith(f"{s}/")), key=len, default="")
    if not found:
        raise ValueError(
            f"got new statistics from the tap {name!r}, expected one below a site that "
            f"keeps params, one of {sorted(sites)}; give each site its own network"
        )
    return found


def _put(tree: PyTree, path: list[str], value: PyTree, name: str) -> PyTree:
    if not path:
        return faults.check_fixed(tree, value, f"the tap {name!r}")
    return {**tree, path[0]: _put(tree[path[0]], path[1:], value, name)}
