"""Task vectors: what demonstrations leave at a layer answers a query without them.

Hendel et al., arXiv 2310.15916.
"""

import jax
import jax.numpy as jnp

from reprojax import Manipulation, Params, record, reprogram
from reprojax.core import last_position, last_value
from reprojax.models import outputs
from reprojax.models.language import Words
from reprojax.recipes import Method, needs
from reprojax.training.steps import evaluate


def patched():
    """The last word's state is the fixed vector [D], whatever the query says."""

    def init(key, spec, scope):
        return Params((), jnp.zeros(spec.value.shape[-1], spec.value.dtype))

    def apply(params, value, scope):
        hit = (value.position == last_position(value)) & (value.weight > 0)
        return value._replace(
            value=jnp.where(hit[..., None], params.fixed, value.value)
        )

    return Manipulation(init, apply)


@needs(Words, "blocks")
def task_vectors(model, align=None, *, layer):
    """The vector stands at what a layer puts out, at the end of a query."""
    return reprogram(model.forward, {outputs(model)[layer]: patched()}, align)


def of_demonstrations(program, model, shown):
    """The params: the state at the end of demonstrations and a query of their own,
    Tokens [1 L]; of several of them their mean."""
    (site,), _ = program.at[0]
    params = program.init(jax.random.key(0), model.frozen, shown)
    _, seen = record(model.forward, [site])(model.frozen, shown)
    return params._replace(fixed=params.fixed | {site: last_value(seen[site]).mean(0)})


def best_layer(model, align, shown, split, batch=16):
    """The layer that answers most of a split of bare queries."""

    def score(layer):
        program = task_vectors(model, align, layer=layer)
        params = of_demonstrations(program, model, shown)
        return evaluate(program, params, model.frozen, split, batch)

    return max(range(len(outputs(model))), key=score)


METHOD = Method(
    "task-vectors",
    task_vectors,
    source="arXiv 2310.15916, roeehendel/icl_task_vectors",
    enters="at what a block puts out, at the last word",
)
