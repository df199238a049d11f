"""What of a program is estimated from its own forward passes, over batches.

Label maps come from sums of what `"<site>/raw"` showed; running averages (the batch
statistics of a mask network) come by a tap named "fixed".
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from reprojax.core import faults
from reprojax.core.program import part
from reprojax.core.vocabulary import Manipulation, Params, Program, PyTree

Refresh = Literal["epoch", "exact", "once"]
"""When maps are estimated. Always before the first step; then after each epoch from its
own steps' outputs, after each epoch by a second pass, or never again."""


def estimated(program: Program) -> dict[str, Manipulation]:
    """{site: manipulation} of those that `observe`."""
    return {s[0]: m for s, m in program.at if m.observe is not None}


def raw_sites(program: Program) -> list[str]:
    """What has to be recorded to `observe`."""
    return [f"{site}/raw" for site in estimated(program)]


def real(labels: Any) -> Any:
    """Which labels are examples: not -1, nor NaN, which are missing or only fill."""
    floats = jnp.issubdtype(labels.dtype, jnp.floating)
    return ~jnp.isnan(labels) if floats else labels >= 0


def observe(
    program: Program, params: Params, seen: Mapping[str, Any], labels: jax.Array
) -> dict[str, PyTree]:
    """{site: sums} of one batch, which add up over batches. A label of -1 is none.

    Where labels are no classes and no words, manipulations get 0 for each row that has
    one: `seen` tells several at once [B T] from words by the answer "output".
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
    """The params with what the sums of an epoch say in `fixed`."""
    fixed = dict(params.fixed)
    for site, m in estimated(program).items():
        assert m.refresh is not None
        own = part(params, site)
        with faults.part_at(faults.at_sites((site,)), m, "refresh", own):
            found = faults.given_params(m.refresh(own, sums[site]), "refresh")
            fixed[site] = faults.check_fixed(own.fixed, found.fixed, "refresh")
    return params._replace(fixed=fixed)


def is_news(site: str) -> bool:
    """Whether a tap carries new values for a part of `params.fixed`."""
    return site.endswith("/fixed")


def put_news(params: Params, seen: Mapping[str, Any]) -> Params:
    """The params with every tap "<site>/<parts>/fixed" in its place in `fixed`."""
    fixed = params.fixed
    for name, value in seen.items():
        if is_news(name):
            site = _site(name, fixed)
            path = name[len(site) + 1 :].split("/")[:-1]
            fixed = _put(fixed, [site, *path], value, name)
    return params._replace(fixed=fixed)


def _site(name: str, sites: Iterable[str]) -> str:
    """Where a tap came from; of sites that share params, only the first has a place."""
    found = max((s for s in sites if name.startswith(f"{s}/")), key=len, default="")
    if not found:
        raise ValueError(
            f"new statistics came by {name!r}, expected a site with params of its own, "
            f"one of {sorted(sites)}; give each site its own network"
        )
    return found


def _put(tree: PyTree, path: list[str], value: PyTree, name: str) -> PyTree:
    if not path:
        return faults.check_fixed(tree, value, f"the tap {name!r}")
    return {**tree, path[0]: _put(tree[path[0]], path[1:], value, name)}
