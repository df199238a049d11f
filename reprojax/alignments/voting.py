"""A cache of labelled examples, whose features vote beside the model's own answer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reprojax.core import Given, Key, Manipulation, Params, PyTree, Scope
from reprojax.core.guards import check_sizes
from reprojax.core.vectors import unit


def voting(
    targets: int,
    examples: int,
    *,
    strength: float = 1.17,
    sharpness: float = 1.0,
    learned: bool = False,
) -> Manipulation:
    """Logits [B T] and features [B J] -> logits + strength * votes [B T].

    An example with the key k votes for its label by exp(-sharpness (1 - f . k)), f
    being the row's unit feature (Tip-Adapter, arXiv 2111.03930). Strength and sharpness
    are numbers among the fixed params; the defaults are the published code's for
    ImageNet. `filled` writes the examples. Before it, nobody votes.

    Args:
        examples: N.
        learned: train the keys (Tip-Adapter-F).
    """
    check_sizes("voting", targets=targets, examples=examples)

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        keys = {"keys": jnp.zeros((examples, _features(spec).shape[-1]))}
        fixed = {"labels": jnp.full(examples, -1)}
        fixed |= {"strength": jnp.float32(strength)}
        fixed |= {"sharpness": jnp.float32(sharpness)}
        return Params(keys, fixed) if learned else Params((), fixed | keys)

    def apply(params: Params, value: PyTree, scope: Scope) -> Array:
        own, logits = params.fixed, value[0]
        keys = params.learnable["keys"] if learned else own["keys"]
        near = affinity(value[1], keys)
        found = votes(near, own["labels"], targets, own["sharpness"])
        return logits + (own["strength"] * found).astype(logits.dtype)

    return Manipulation(init, apply)


def _features(spec: Any) -> Any:
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            f"voting got {spec!r:.80} at the output, expected a pair of logits and "
            "features; put it behind `beside(model.forward, features)`"
        )
    return spec[1]


def affinity(
    features: Float[Array, "B J"], keys: Float[Array, "N J"]
) -> Float[Array, "B N"]:
    """f . k of the rows' unit features, in float32 (Tip-Adapter, arXiv 2111.03930)."""
    return unit(features.astype(jnp.float32)) @ keys.T.astype(jnp.float32)


def votes(
    near: Float[Array, "B N"],
    labels: Int[Array, "N"],
    targets: int,
    sharpness: Float[Array, ""] | float,
) -> Float[Array, "B T"]:
    """The sum of each class's examples (Tip-Adapter, arXiv 2111.03930); one of label
    -1 does not vote."""
    return jnp.exp(-sharpness * (1 - near)) @ jax.nn.one_hot(labels, targets)


def filled(
    params: Params,
    features: Float[Given, "N J"],
    labels: Int[Given, "N"],
) -> Params:
    """The params of `voting` with unit features as keys, and their labels (Tip-Adapter,
    arXiv 2111.03930).

    Features of several random views of an image are averaged before. With fewer
    examples than the cache has room for, the rest does not vote.
    """
    where = params.learnable if params.learnable else params.fixed
    room, width = where["keys"].shape
    if features.shape != (len(labels), width) or len(labels) > room:
        raise ValueError(
            f"got features {list(features.shape)} and {len(labels)} labels, expected "
            f"features [N {width}] and a label for each, N at most {room}, the "
            "number of examples; build the program with more, or give fewer"
        )
    more = room - len(labels)
    keys = jnp.pad(unit(jnp.asarray(features, jnp.float32)), ((0, more), (0, 0)))
    own = jnp.pad(jnp.asarray(labels, jnp.int32), (0, more), constant_values=-1)
    fixed = params.fixed | {"labels": own}
    if params.learnable:
        return Params({"keys": keys}, fixed)
    return Params((), fixed | {"keys": keys})


def chosen(
    params: Params,
    logits: Float[Given, "B T"],
    features: Float[Given, "B J"],
    labels: Int[Given, "B"],
    most: tuple[float, float] = (7.0, 3.0),
    steps: tuple[int, int] = (200, 20),
) -> Params:
    """The params of `voting` with the sharpness and the strength that are best
    (Tip-Adapter, arXiv 2111.03930).

    Each is tried from .1 on in that many steps below its `most`, on validation images;
    of equals the smallest wins, sharpness first.
    """
    where = params.learnable if params.learnable else params.fixed
    near = affinity(jnp.asarray(features), where["keys"])
    own, targets = params.fixed["labels"], logits.shape[-1]
    own_logits, classes = np.asarray(logits), np.asarray(labels)
    found = jax.jit(votes, static_argnums=2)
    grid = lambda top, count: 0.1 + (top - 0.1) * np.arange(count) / count
    tried = grid(most[0], steps[0]), grid(most[1], steps[1])
    best: tuple[float, Any, Any] = (-1.0, None, None)
    for sharpness in tried[0]:
        each = np.asarray(found(near, own, targets, sharpness))
        for strength in tried[1]:
            right = (own_logits + strength * each).argmax(-1) == classes
            if right.mean() > best[0]:
                best = (right.mean(), sharpness, strength)
    fixed = {"sharpness": jnp.float32(best[1]), "strength": jnp.float32(best[2])}
    return params._replace(fixed=params.fixed | fixed)
