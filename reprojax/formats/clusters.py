"""One prompt for each cluster of inputs; a row has its nearest prototype's."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import Format, Given, Key, Params, PyTree, Scope, fold, inside, merge
from reprojax.core import part as part_of
from reprojax.core.guards import check_sizes
from reprojax.core.slips import check_format, context_width


def nearest_prototype(fmt: Format, size: int) -> Format:
    """`size` prompts of a format; a row has that of the prototype nearest to its
    context [B D], by Euclid's distance (DAM-VP, arXiv 2303.08138).

    All prompts start equal. `with_prototypes` sets the prototypes; before it does, all
    rows have the first prompt.
    """
    check_format("nearest_prototype", fmt)
    check_sizes("nearest_prototype", size=size)

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        one = fmt.init(fold(key, "prompts"), shape, inside(scope, "prompts"))
        every = jax.tree.map(lambda a: jnp.repeat(a[None], size, 0), one)
        width = context_width("nearest_prototype", scope)
        near = jnp.full((size, width), jnp.inf).at[0].set(0)
        return merge({"prompts": every, "prototypes": Params(fixed=near)})

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "B ..."]:
        context_width("nearest_prototype", scope)
        within = inside(scope, "prompts")
        prompts = jax.vmap(lambda own: fmt.read(own, value, within))(
            part_of(params, "prompts")
        )
        apart = jnp.float32(scope.context)[:, None] - params.fixed["prototypes"]
        return prompts[(apart**2).sum(-1).argmin(-1)]

    return Format(init, read)


def with_prototypes(params: Params, prototypes: Float[Given, "K D"]) -> Params:
    """A `nearest_prototype`'s params with K prototypes; its other prompts rest."""
    room = params.fixed["prototypes"]
    if len(prototypes) > len(room) or prototypes.shape[1:] != room.shape[1:]:
        raise ValueError(
            f"got prototypes of shape {tuple(prototypes.shape)}, expected at most "
            f"{len(room)} of {room.shape[1]} numbers; take fewer clusters, or a "
            "program with more"
        )
    far = jnp.full(room.shape, jnp.inf)
    new = far.at[: len(prototypes)].set(jnp.float32(prototypes))
    return params._replace(fixed={**params.fixed, "prototypes": new})
