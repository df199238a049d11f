"""The papers' optimisers: (learning rate, steps an epoch, epochs) -> one of optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def adam_in_steps(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam; the rate is multiplied by .1 after 50 % and again after 72 % of the epochs.

    The schedule of iterative label mapping (arXiv 2211.11635).
    """
    at = {int(0.5 * epochs) * steps: 0.1, int(0.72 * epochs) * steps: 0.1}
    return optax.adam(optax.piecewise_constant_schedule(learning_rate, at))


def adam_decayed(b1: float = 0.9) -> Callable[..., optax.GradientTransformation]:
    """Adam; the rate is multiplied by .96 every two epochs.

    The schedule of adversarial reprogramming (arXiv 1806.11146).
    """

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        rate = optax.exponential_decay(learning_rate, 2 * steps, 0.96, staircase=True)
        return optax.adam(rate, b1=b1)

    return optimizer


def sgd_cosine(
    warmup: int | float,
    clip: float | None = None,
    decay: float = 0.0,
    head_bias: bool = True,
) -> Callable[..., optax.GradientTransformation]:
    """SGD with momentum .9, warm-up and a cosine to zero.

    The schedule of visual prompting (arXiv 2203.17274), and with another warm-up and a
    clip of VPT (arXiv 2203.12119). Step k of n warm-up steps has (k + 1) / n of the
    rate.

    Args:
        warmup: steps, at most a tenth of the run (a short run with the published 1000
            would never reach its rate); below 1, the share of the run.
        clip: the largest norm of a gradient.
        decay: this times the params is added to the gradient, as in PyTorch.
        head_bias: whether the head's bias decays too; see `decayed`.
    """

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        total = steps * epochs
        warm = int(total * warmup) if warmup < 1 else min(warmup, total // 10)

        def schedule(step: Any) -> Any:
            part = (step - warm) / max(total - warm, 1)
            down = (1 + jnp.cos(jnp.pi * part)) / 2
            up = (step + 1) / max(warm, 1)
            return learning_rate * jnp.where(step < warm, up, down)

        sgd = optax.sgd(schedule, momentum=0.9)
        if decay and not head_bias:
            sgd = optax.chain(decayed(decay), sgd)
        elif decay:
            sgd = optax.chain(optax.add_decayed_weights(decay), sgd)
        return optax.chain(optax.clip_by_global_norm(clip), sgd) if clip else sgd

    return optimizer


def decayed(decay: float) -> optax.GradientTransformation:
    """Add decay times the params to the gradient, except to that of the head's bias, as
    the published code of VPT does (arXiv 2203.12119)."""

    def kept(path: Any, leaf: Any) -> bool:
        names = [getattr(key, "key", "") for key in path]
        return names[0] != "output" or names[-1] != "bias"

    mask = lambda learnable: jax.tree_util.tree_map_with_path(kept, learnable)
    return optax.add_decayed_weights(decay, mask)


def sgd_in_steps(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """SGD with momentum .9 and decay 5e-4; the rate is multiplied by .8 after two
    thirds and again after 13/15 of the epochs, the schedule of REFINE (arXiv
    2502.18508)."""
    at = {(2 * epochs // 3) * steps: 0.8, (13 * epochs // 15) * steps: 0.8}
    schedule = optax.piecewise_constant_schedule(learning_rate, at)
    decayed, sgd = optax.add_decayed_weights(0.0005), optax.sgd(schedule, momentum=0.9)
    return optax.chain(decayed, sgd)


def unit_cosine(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """The gradient divided by its norm, times a rate that falls as a cosine of epochs.

    The schedule of EVP (arXiv 2212.10556): each step has the length of the rate.
    """

    def schedule(step: Any) -> Any:
        return learning_rate * (1 + jnp.cos(jnp.pi * (step // steps) / epochs)) / 2

    unit = optax.normalize_by_update_norm(eps=1e-10)
    return optax.chain(unit, optax.sgd(schedule))


def sgd_by_epochs(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """SGD with momentum .9 and a decay of 5e-4; the rate moves by epochs.

    The schedule of CoOp (arXiv 2109.01134): the first epoch has 1e-5, epoch e from 1 on
    (1 + cos(pi (e - 1) / epochs)) / 2 of the rate, so the last one is above zero.
    """

    def schedule(step: Any) -> Any:
        epoch = step // steps
        down = (1 + jnp.cos(jnp.pi * (epoch - 1) / epochs)) / 2
        return jnp.where(epoch < 1, 1e-5, learning_rate * down)

    return optax.chain(
        optax.add_decayed_weights(5e-4), optax.sgd(schedule, momentum=0.9)
    )


def adam(learning_rate: float, steps: int, epochs: int) -> optax.GradientTransformation:
    """Adam (arXiv 1412.6980) at a constant rate."""
    return optax.adam(learning_rate)


def adam_clipped(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam at a constant rate on gradients clipped at norm 1, as L2P and DualPrompt
    have it (arXiv 2112.08654, 2204.04799)."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))


def adamw_cosine(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """AdamW with a cosine to zero over all steps, a decay of .01 and an epsilon of
    1e-4, as Tip-Adapter-F has it (arXiv 2111.03930)."""
    rate = optax.cosine_decay_schedule(learning_rate, steps * epochs)
    return optax.adamw(rate, eps=1e-4, weight_decay=0.01)


def adamw_linear(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """AdamW without decay; the rate falls linearly to zero, as in prefix tuning (arXiv
    2101.00190)."""
    falling = optax.linear_schedule(learning_rate, 0.0, steps * epochs)
    return optax.adamw(falling, weight_decay=0.0)


def adafactor(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adafactor at a constant rate, not scaled by the size of the params, with the
    decays of prompt tuning (arXiv 2104.08691)."""
    return optax.adafactor(
        learning_rate,
        decay_rate=0.8,
        multiply_by_parameter_scale=False,
        weight_decay_rate=1e-5,
    )


def two_rates(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """AdamW with rates that fall linearly to zero. A and B have a sixtieth of the
    prompt's rate: .005 for .3, which is in the published script's grid (arXiv
    2309.05173)."""

    def adamw(rate: float) -> optax.GradientTransformation:
        falling = optax.linear_schedule(rate, 0.0, steps * epochs)
        return optax.adamw(falling, weight_decay=1e-5)

    def kind(path: Any, leaf: Any) -> str:
        return "pair" if getattr(path[-1], "key", "") in ("left", "right") else "prompt"

    rates: dict[Any, Any] = {
        "prompt": adamw(learning_rate),
        "pair": adamw(learning_rate / 60),
    }
    return optax.partition(rates, lambda p: jax.tree_util.tree_map_with_path(kind, p))
