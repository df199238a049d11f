"""Searches without gradients, and models that only answer."""

from reprojax.searches.evolution import cma_es, evolution_strategy
from reprojax.searches.oracle import Account, BudgetSpent, Oracle, logits
from reprojax.searches.search import Search
from reprojax.searches.zeroth_order import (
    falling,
    gaussian,
    rademacher,
    segmented,
    sphere,
    spsa,
    spsa_gc,
    zeroth_order,
)

__all__ = [
    "Account",
    "BudgetSpent",
    "Oracle",
    "Search",
    "cma_es",
    "evolution_strategy",
    "falling",
    "gaussian",
    "logits",
    "rademacher",
    "segmented",
    "sphere",
    "spsa",
    "spsa_gc",
    "zeroth_order",
]
