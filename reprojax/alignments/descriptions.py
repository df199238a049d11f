"""From texts to the classes that they describe: several texts of each class."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import Key, Manipulation, Params, PyTree, Scope
from reprojax.core.guards import check_sizes


def nearest_texts(
    targets: int, count: int = 3, shares: Sequence[float] = (0.5, 0.5)
) -> Manipulation:
    """Each class's mean of its `count` largest logits, for each kind of texts; then
    the kinds' weighted sum (AttrVR, arXiv 2501.13982).

    The texts stand kind by kind, and in a kind class by class, each class with as many:
    [B K T m] in a row, as of the classifier that `image_text.described` makes.

    Args:
        shares: a weight for each of the K kinds.
    """
    check_sizes("nearest_texts", targets=targets, count=count)
    if not len(shares):
        raise ValueError("nearest_texts got no shares, expected one for each kind")

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        kinds, texts = len(shares), y.shape[-1]
        each = texts // (kinds * targets)
        if each * kinds * targets != texts or each < count:
            raise ValueError(
                f"nearest_texts got {texts} texts for {kinds} kinds of {targets} "
                f"classes, expected at least {count} for each class and kind, and for "
                "each as many; take image_text.described"
            )
        return Params()

    def apply(params: Params, y: Float[Array, "B R"], scope: Scope) -> Array:
        found = y.reshape(len(y), len(shares), targets, -1)
        near = jax.lax.top_k(found, count)[0].mean(-1)
        return jnp.einsum("bkt,k->bt", near, jnp.asarray(shares, y.dtype))

    return Manipulation(init, apply)
