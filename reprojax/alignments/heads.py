"""Several alignments of one output, computed from one forward pass."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.core import Key, Manipulation, Params, PyTree, Scope, fold, inside, merge
from reprojax.core import part as part_of


def heads(**maps: Manipulation) -> Manipulation:
    """K alignments side by side: y [B S] -> [B K T], in the order of their names.

    `estimate` estimates all of them in one pass, and `evaluate` gives K accuracies:
    `heads(flm=one_to_one(10), blm=bayesian(10), plus=bayesian_plus(10, k=5))`.
    """

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        return merge(
            {
                name: m.init(fold(key, name), spec, inside(scope, name))
                for name, m in maps.items()
            }
        )

    def apply(
        params: Params, y: Float[Array, "*B S"], scope: Scope
    ) -> Float[Array, "*B K T"]:
        each = {
            name: m.apply(part_of(params, name), y, inside(scope, name))
            for name, m in maps.items()
        }
        if len({a.shape for a in each.values()}) > 1:
            raise ValueError(
                f"heads got alignments to { {n: a.shape for n, a in each.items()} }, "
                "expected one number of target classes; put an alignment to another "
                "number into a program of its own"
            )
        return jnp.stack(list(each.values()), axis=-2)

    def observe(params: Params, y: PyTree, labels: Int[Array, "B"]) -> PyTree:
        return {
            name: m.observe(part_of(params, name), y, labels)
            for name, m in maps.items()
            if m.observe is not None
        }

    def refresh(params: Params, sums: PyTree) -> Params:
        new = {name: part_of(params, name) for name in maps}
        for name, m in maps.items():
            if m.refresh is not None:
                new[name] = m.refresh(new[name], sums[name])
        return merge(new)

    if any(m.observe is not None for m in maps.values()):
        return Manipulation(init, apply, observe, refresh)
    return Manipulation(init, apply)
