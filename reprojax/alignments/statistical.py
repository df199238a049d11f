"""Label maps, estimated from what the model answers to the target's training images.

A map is a matrix [S T] in `params.fixed`; the task's logits are the *logits* of the
model times that matrix, as in the published code. Each map is two pure functions.
`observe` sums what a batch shows in a matrix of counts [S T], so that sums of batches
and of devices add up; `refresh` turns the counts into a map. A row with the label -1
counts for nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.core import Key, Manipulation, Params, PyTree, Scope
from reprojax.core.guards import check_sizes

Counts = Float[Array, "S T"]
Map = Float[Array, "S T"]


def pair_counts(
    y: Float[Array, "B S"], labels: Int[Array, "B"], targets: int
) -> Counts:
    """How often each source class was the answer to images of each target class.

    An answer with NaN makes the counts NaN, and is not counted as class 0.
    """
    answers = jax.nn.one_hot(y.argmax(-1), y.shape[-1])
    broken = jnp.isnan(y).any(-1, keepdims=True)
    answers = jnp.where(broken, jnp.nan, answers)
    return answers.T @ jax.nn.one_hot(labels, targets)


def soft_pair_counts(
    y: Float[Array, "B S"], labels: Int[Array, "B"], targets: int, k: int
) -> Counts:
    """The sums of each row's k largest probabilities, instead of its one answer."""
    top, at = jax.lax.top_k(jax.nn.softmax(y.astype(jnp.float32)), k)
    row = jnp.arange(len(y))[:, None]
    kept = jnp.zeros(y.shape, jnp.float32).at[row, at].set(top)
    return kept.T @ jax.nn.one_hot(labels, targets)


def one_to_one_map(counts: Counts, several: int = 1) -> Map:
    """Greedy: the largest count first (the first of equals in [S T] order wins).

    A source class serves one target class; a target class has `several` source classes,
    each with the weight 1 / several.
    """
    sources, targets = counts.shape

    def pick(carry: tuple, _: None) -> tuple[tuple, None]:
        left, chosen = carry
        s, t = jnp.divmod(left.argmax(), targets)
        chosen = chosen.at[s, t].set(1.0)
        full = chosen[:, t].sum() >= several
        left = left.at[s].set(-1.0)
        return (jnp.where(full, left.at[:, t].set(-1.0), left), chosen), None

    start = (counts.astype(jnp.float32), jnp.zeros((sources, targets)))
    (_, chosen), _ = jax.lax.scan(pick, start, length=targets * several)
    return chosen / several


def bayesian_map(counts: Counts, smoothing: float = 1.0) -> Map:
    """p(target | source) with additive smoothing, then *columns* that sum to one.

    A target class that was never seen gets the mean of all source classes, so that no
    absent class breaks anything.
    """
    seen = counts.sum(1, keepdims=True) + smoothing
    weight = jnp.where(counts > 0, counts / jnp.where(seen > 0, seen, 1), 0)
    total = weight.sum(0, keepdims=True)
    share = weight / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, share, 1 / len(counts))


def _check_enough(y: PyTree, targets: int, several: int, who: str) -> None:
    if y.shape[-1] < targets * several:
        raise ValueError(
            f"{who} maps {targets} target classes to {several} source class(es) each, "
            f"and the model has {y.shape[-1]}; expected at least {targets * several}; "
            "use a model with more classes, or bayesian(...) or linear(...)"
        )


def _mapping(
    initial: Callable[[Key, PyTree], Map],
    observe: Callable | None = None,
    to_map: Callable[[Counts], Map] | None = None,
) -> Manipulation:
    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        return Params(fixed=initial(key, y))

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        return y @ params.fixed.astype(y.dtype)

    if observe is None or to_map is None:
        return Manipulation(init, apply)

    def refresh(params: Params, sums: Counts) -> Params:
        return params._replace(fixed=to_map(sums))

    return Manipulation(init, apply, observe, refresh)


def random_map(targets: int) -> Manipulation:
    """RLM: a source class drawn for each target class, without replacement, and kept.

    Source: Elsayed et al. (arXiv 1806.11146); Chen et al. (arXiv 2211.11635) name it.
    """

    check_sizes("random_map", targets=targets)

    def initial(key: Key, y: PyTree) -> Map:
        _check_enough(y, targets, 1, "random_map")
        chosen = jax.random.permutation(key, y.shape[-1])[:targets]
        return jax.nn.one_hot(chosen, y.shape[-1]).T

    return _mapping(initial)


def one_to_one(targets: int, several: int = 1) -> Manipulation:
    """The greedy frequency map: FLM when estimated once, ILM when refreshed each epoch.

    Source: Chen et al. (arXiv 2211.11635); several source classes a target as in BAR
    (Tsai et al., arXiv 2007.08714). It starts as the first T source classes.
    """

    check_sizes("one_to_one", targets=targets, several=several)

    def initial(key: Key, y: PyTree) -> Map:
        _check_enough(y, targets, several, "one_to_one")
        return jnp.eye(y.shape[-1], targets)

    def observe(params: Params, y: Array, labels: Array) -> Counts:
        return pair_counts(y, labels, targets)

    return _mapping(initial, observe, lambda counts: one_to_one_map(counts, several))


def bayesian(targets: int, smoothing: float = 1.0) -> Manipulation:
    """BLM: weights from the joint counts of answer and label.

    Source: Cai et al. (arXiv 2410.24018). It starts as the first T source classes.
    """
    check_sizes("bayesian", targets=targets)

    def initial(key: Key, y: PyTree) -> Map:
        return jnp.eye(y.shape[-1], targets)

    def observe(params: Params, y: Array, labels: Array) -> Counts:
        return pair_counts(y, labels, targets)

    return _mapping(initial, observe, lambda counts: bayesian_map(counts, smoothing))


def bayesian_plus(
    targets: int, k: int | None = None, smoothing: float = 1.0
) -> Manipulation:
    """BLM+: weights from the k largest probabilities instead of the one answer.

    Source: Cai et al. (arXiv 2410.24018).

    Args:
        k: by default max(1, floor(.15 T)); the published int(.15 T) is 0, and its map
            empty, for six classes or fewer.
    """
    check_sizes("bayesian_plus", targets=targets)
    k = max(1, int(0.15 * targets)) if k is None else k

    def initial(key: Key, y: PyTree) -> Map:
        if not 1 <= k <= y.shape[-1]:
            raise ValueError(
                f"bayesian_plus got k={k}, expected 1 <= k <= {y.shape[-1]}, the "
                "number of source classes"
            )
        return jnp.eye(y.shape[-1], targets)

    def observe(params: Params, y: Array, labels: Array) -> Counts:
        return soft_pair_counts(y, labels, targets, k)

    return _mapping(initial, observe, lambda counts: bayesian_map(counts, smoothing))
