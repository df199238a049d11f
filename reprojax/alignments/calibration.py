"""What a language model says of labels without content, taken off.

Estimated as label maps are: `observe` sums what a batch of answers says, `refresh`
turns the sums into `params.fixed`. The answers may be to inputs without content, or to
the unlabelled inputs of the task itself; the labels count for nothing, but for -1, a
row that only fills a batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.core import Key, Manipulation, Params, PyTree, Scope
from reprojax.core.guards import check_sizes


def calibrated(
    targets: int, *, strength: float = 1.0, normalised: bool = True
) -> Manipulation:
    """y [*B T], log p(label | input), less strength * log of its estimated mean.

    Until it is estimated it changes nothing. On inputs without content it is the
    diagonal contextual calibration of Zhao et al. (arXiv 2102.09690), on a batch of the
    task's inputs the batch calibration of Zhou et al. (arXiv 2309.17249), on random
    words of these the domain-context calibration of Fei et al. (arXiv 2305.19148).

    Args:
        normalised: each row's probabilities are made to sum to one over the labels
            before their mean is taken, so that logits will do. Otherwise y are
            log-probabilities, and a row weighs as much as the labels have in it, as in
            the code of Zhao et al.; with one input both are the same. (For texts
            `contextual_calibration` sees to that.)
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
        share = jnp.maximum(sums, 1e-30) / jnp.maximum(total, 1e-30)
        return params._replace(fixed=jnp.where(total > 0, jnp.log(share), 0.0))

    return Manipulation(init, apply, observe, refresh)
