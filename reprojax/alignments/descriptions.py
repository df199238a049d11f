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
    [B K T m] in a row, as of the classifier that `image_text.of_descriptions` makes.

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
                "each as many; take image_text.of_descriptions"
            )
        return Params()

    def apply(params: Params, y: Float[Array, "B R"], scope: Scope) -> Array:
        found = y.reshape(len(y), len(shares), targets, -1)
        near = jax.lax.top_k(found, count)[0].mean(-1)
        return jnp.einsum("bkt,k->bt", near, jnp.asarray(shares, y.dtype))

    return Manipulation(init, apply)


def reweighted(targets: int, count: int = 3) -> Manipulation:
    """A weighted sum of the logits of each class's own texts, [B T n] in a row.

    A text's weight is how often it is among the `count` nearest of its class's own
    texts, over the images of the class (the probabilistic reweighting matrix of DVP,
    arXiv 2506.01000). Before it is estimated, and for a class without images, all
    weights are equal.
    """
    check_sizes("reweighted", targets=targets, count=count)

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        each = y.shape[-1] // targets
        if each * targets != y.shape[-1] or each < count:
            raise ValueError(
                f"reweighted got {y.shape[-1]} texts for {targets} classes, expected "
                f"as many for each, and at least {count}"
            )
        return Params(fixed=jnp.full((targets, each), 1 / each, jnp.float32))

    def apply(params: Params, y: Float[Array, "B R"], scope: Scope) -> Array:
        weights = params.fixed.astype(y.dtype)
        return jnp.einsum("btn,tn->bt", y.reshape(len(y), *weights.shape), weights)

    def observe(params: Params, y: Array, labels: Array) -> Float[Array, "T n"]:
        each = params.fixed.shape[-1]
        own = jnp.einsum(
            "btn,bt->bn",
            y.reshape(len(y), targets, each),
            jax.nn.one_hot(jnp.maximum(labels, 0), targets, dtype=y.dtype),
        )
        hits = jax.nn.one_hot(jax.lax.top_k(own, count)[1], each).sum(1)
        # a label of -1 is a row of zeros
        return jnp.einsum("bt,bn->tn", jax.nn.one_hot(labels, targets), hits)

    def refresh(params: Params, sums: Float[Array, "T n"]) -> Params:
        total = sums.sum(-1, keepdims=True)
        shares = sums / jnp.where(total > 0, total, 1)
        return params._replace(fixed=jnp.where(total > 0, shares, 1 / sums.shape[-1]))

    return Manipulation(init, apply, observe, refresh)


def related_classes(targets: int) -> Manipulation:
    """f (I + E), where f are softmax(P)-weighted sums of the logits of each class's own
    texts, [B T n] in a row; P [T n] and E [T T] are learned and start at zero (RVP, Li
    et al., "Reprogramming Vision-Language Models via Structured Prompt
    Reparameterization").

    After training it is one matrix, and with the texts' features one linear head: see
    `recipes.folding`.
    """
    check_sizes("related_classes", targets=targets)

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        each = y.shape[-1] // targets
        if not each or each * targets != y.shape[-1]:
            raise ValueError(
                f"related_classes got {y.shape[-1]} texts for {targets} classes, "
                "expected as many for each; take image_text.of_descriptions"
            )
        within = jnp.zeros((targets, each), jnp.float32)
        return Params({"within": within, "between": jnp.zeros((targets, targets))})

    def apply(params: Params, y: Float[Array, "B R"], scope: Scope) -> Array:
        own = params.learnable
        weights = jax.nn.softmax(own["within"]).astype(y.dtype)
        classes = jnp.einsum("btn,tn->bt", y.reshape(len(y), *weights.shape), weights)
        return classes + classes @ own["between"].astype(y.dtype)

    return Manipulation(init, apply)
