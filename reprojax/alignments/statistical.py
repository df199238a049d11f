"""Label maps, means and biases, estimated from the model's outputs.

A map is a matrix [S T] in `params.fixed`; the task's logits are the model's *logits*
times that matrix, as in the published code. Each map is two pure functions: `observe`
turns a batch into a matrix of counts [S T], which add up over batches and devices, and
`refresh` turns the counts into a map. Rows with label -1 are not counted.
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
    """How often each source class was predicted for inputs of each target class.

    A row of y with NaN makes the counts NaN; argmax alone would count it as class 0.
    """
    answers = jax.nn.one_hot(y.argmax(-1), y.shape[-1])
    broken = jnp.isnan(y).any(-1, keepdims=True)
    answers = jnp.where(broken, jnp.nan, answers)
    return answers.T @ jax.nn.one_hot(labels, targets)


def soft_pair_counts(
    y: Float[Array, "B S"], labels: Int[Array, "B"], targets: int, k: int
) -> Counts:
    """As `pair_counts`, with each row's k largest probabilities for its argmax."""
    top, at = jax.lax.top_k(jax.nn.softmax(y.astype(jnp.float32)), k)
    row = jnp.arange(len(y))[:, None]
    kept = jnp.zeros(y.shape, jnp.float32).at[row, at].set(top)
    return kept.T @ jax.nn.one_hot(labels, targets)


def one_to_one_map(counts: Counts, several: int = 1) -> Map:
    """Greedy matching by largest count; of equal counts the first in [S T] order wins.

    A source class serves one target class. A target class gets `several` source
    classes, each with weight 1 / several.
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


def favourites_map(counts: Counts) -> Map:
    """Each target class's most frequent source class; several may share one.

    Of equal counts the first source class wins.
    """
    return jax.nn.one_hot(counts.argmax(0), len(counts)).T


def bayesian_map(counts: Counts, smoothing: float = 1.0) -> Map:
    """p(target | source) with additive smoothing, then *columns* that sum to one.

    A target class that was never seen gets the mean of all source classes.
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
    """RLM: one random source class for each target class, without replacement, fixed.

    Source: Elsayed et al. (arXiv 1806.11146); the name is Chen et al.'s (2211.11635).
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
    (Tsai et al., arXiv 2007.08714). Before it is estimated it picks the first T source
    classes.
    """

    check_sizes("one_to_one", targets=targets, several=several)

    def initial(key: Key, y: PyTree) -> Map:
        _check_enough(y, targets, several, "one_to_one")
        return jnp.eye(y.shape[-1], targets)

    def observe(params: Params, y: Array, labels: Array) -> Counts:
        return pair_counts(y, labels, targets)

    return _mapping(initial, observe, lambda counts: one_to_one_map(counts, several))


def favourites(targets: int) -> Manipulation:
    """The source class that each target class's images get most often.

    Source: EVP for models other than CLIP (Wu et al., arXiv 2212.10556), without a
    prompt. Target classes that share a source class have equal logits. Before it is
    estimated it picks the first T source classes.
    """
    check_sizes("favourites", targets=targets)

    def initial(key: Key, y: PyTree) -> Map:
        return jnp.eye(y.shape[-1], targets)

    def observe(params: Params, y: Array, labels: Array) -> Counts:
        return pair_counts(y, labels, targets)

    return _mapping(initial, observe, favourites_map)


def bayesian(targets: int, smoothing: float = 1.0) -> Manipulation:
    """BLM: weights from the joint counts of predicted source class and label.

    Source: Cai et al. (arXiv 2410.24018). Before it is estimated it picks the first T
    source classes.
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


def mean_probability(targets: int, several: int = 6) -> Manipulation:
    """log of the mean probability of each target's source classes (arXiv 2007.08714).

    The greedy frequency map chooses them: `several` a target, or as many as there are.
    """

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        if y.shape[-1] < targets:
            raise ValueError(
                f"mean_probability maps {targets} target classes, and the model has "
                f"{y.shape[-1]}; expected at least as many; take bayesian(...)"
            )
        return Params(fixed=jnp.eye(y.shape[-1], targets))

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        mean = jax.nn.softmax(y) @ params.fixed.astype(y.dtype)
        # The floor keeps the log and its gradient finite.
        return jnp.log(jnp.maximum(mean, 1e-30))

    def observe(params: Params, y: Array, labels: Array) -> Array:
        return pair_counts(y, labels, targets)

    def refresh(params: Params, sums: Array) -> Params:
        most = min(several, len(sums) // targets)
        return params._replace(fixed=one_to_one_map(sums, most))

    return Manipulation(init, apply, observe, refresh)


def calibrated(
    targets: int, *, strength: float = 1.0, normalised: bool = True
) -> Manipulation:
    """y [*B T], log p(label | input), minus strength * log of its estimated mean.

    Before it is estimated it changes nothing. Estimated on content-free inputs it is
    the diagonal contextual calibration of Zhao et al. (arXiv 2102.09690), on a batch of
    the task's inputs the batch calibration of Zhou et al. (arXiv 2309.17249), on random
    words of these the domain-context calibration of Fei et al. (arXiv 2305.19148).

    Args:
        normalised: softmax each row over the labels before taking the mean, so y may be
            logits. False: y are log-probabilities, and a row counts by the total
            probability of the labels, as in the code of Zhao et al.; with one input the
            two agree. (For texts `contextual_calibration` chooses.)
    """

    check_sizes("calibrated", targets=targets)

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        return Params(fixed=jnp.zeros(targets))

    def apply(params: Params, y: Float[Array, "*B T"], scope: Scope) -> Array:
        return y - (strength * params.fixed).astype(y.dtype)

    def observe(
        params: Params, y: Float[Array, "B T"], labels: Int[Array, "B"]
    ) -> Float[Array, "T"]:
        y = y.astype(jnp.float32)
        p = jax.nn.softmax(y) if normalised else jnp.exp(y)
        return jnp.where(labels[:, None] >= 0, p, 0).sum(0)

    def refresh(params: Params, sums: Float[Array, "T"]) -> Params:
        total = sums.sum()
        # A label that never had any probability gets a finite log.
        share = jnp.maximum(sums, 1e-30) / jnp.maximum(total, 1e-30)
        return params._replace(fixed=jnp.where(total > 0, jnp.log(share), 0.0))

    return Manipulation(init, apply, observe, refresh)


def centred(label_map: Manipulation) -> Manipulation:
    """y [*B S] minus its mean [S] over the examples, then a label map.

    A logit that is high for every input says nothing about the class. But a map's
    columns sum to one, so without centring a class whose source classes are high
    throughout leads; docs/results.md measures what that costs. The map is estimated on
    uncentred answers, and the mean is zero until it is estimated.
    """
    count, remap = label_map.observe, label_map.refresh
    if count is None or remap is None:
        raise ValueError(
            "centred got a map that is not estimated, expected one that is, such as "
            "bayesian(...); take a drawn or a named map as it is"
        )

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        own = label_map.init(key, y, scope)
        mean = jnp.zeros(y.shape[-1])
        return own._replace(fixed={"map": own.fixed, "mean": mean})

    def inner(params: Params) -> Params:
        return params._replace(fixed=params.fixed["map"])

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        moved = y - params.fixed["mean"].astype(y.dtype)
        return label_map.apply(inner(params), moved, scope)

    def observe(
        params: Params, y: Float[Array, "B S"], labels: Int[Array, "B"]
    ) -> PyTree:
        real = (labels >= 0).astype(jnp.float32)
        counts = count(inner(params), y, labels)
        return {"map": counts, "sum": real @ y.astype(jnp.float32), "rows": real.sum()}

    def refresh(params: Params, sums: PyTree) -> Params:
        new = remap(inner(params), sums["map"])
        mean = sums["sum"] / jnp.maximum(sums["rows"], 1)
        return new._replace(fixed={"map": new.fixed, "mean": mean})

    return Manipulation(init, apply, observe, refresh)
