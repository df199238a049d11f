"""Black-box adversarial reprogramming, BAR (Tsai et al., arXiv 2007.08714)."""

from reprojax.alignments import mean_probability
from reprojax.core import Manipulation, Program
from reprojax.models import Model, Pixels
from reprojax.recipes.method import BlackBox, Method, aligned, needs
from reprojax.recipes.model_reprogramming.adversarial_reprogramming import (
    adversarial_reprogramming,
)
from reprojax.recipes.registry import register
from reprojax.searches import Search, sphere, zeroth_order
from reprojax.training.losses import balance, focal
from reprojax.training.optimizers import adam_decayed


@needs(Pixels, access="answers")
def black_box_reprogramming(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
) -> Program:
    """The image in a learned frame, several classes a target (arXiv 2007.08714).

    The frame is that of adversarial reprogramming. It starts near grey as in the
    published code (a standard deviation of .0047 there, .01 here). Answers are
    log-probabilities.

    Args:
        inner: side of the image in pixels; by default 28 in 224.
    """
    align = aligned(align, targets, mean_probability)
    return adversarial_reprogramming(model, align, inner=inner, deviation=0.01)


def one_sided(learning_rate: float = 0.05, steps: int = 100) -> Search:
    """BAR's estimator over 25 directions on the sphere, with Adam (arXiv 2007.08714).

    The paper's factor b is the number of learnable numbers, for which the estimate's
    mean is the gradient. (The published code estimates it, but descends the true one.)

    Args:
        steps: of an epoch; after every two epochs the rate is multiplied by .96.
    """
    optimizer = adam_decayed()(learning_rate, steps, 1)
    return zeroth_order(optimizer, sphere(), count=25, radius=0.1, sides=1)


METHOD = Method(
    "bar",
    black_box_reprogramming,
    preset=BlackBox(
        one_sided,
        0.05,
        batch=10,
        loss=lambda labels, targets: focal(weights=balance(labels, targets)),
    ),
    alignment="bar",
    enters="before normalisation",
    source="arXiv 2007.08714: the focal loss with weights of 1 / n_t and power 2. "
    "Radius .1, b = d, six classes a target and batches of 10: its code "
    "(yunyuntsai/Black-box-Adversarial-Reprogramming), which takes one direction a "
    "step; here 25. Rate .05 and its decay: adversarial reprogramming's; that code has "
    "Adam at .01, along the true gradient.",
    probable=True,
)
register(METHOD)
