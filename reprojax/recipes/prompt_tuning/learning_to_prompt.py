"""Learning to prompt, L2P (Wang et al., arXiv 2112.08654)."""

from jax.nn.initializers import uniform, zeros

from reprojax.alignments import linear
from reprojax.core import Manipulation, Program, chain, reprogram, stateless, until
from reprojax.formats import pool
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import transformer_blocks
from reprojax.operators import insert, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.prompt_tuning.pools import MATCHES, pulled
from reprojax.recipes.queries import asking
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adam_clipped


@needs(Pixels, "features", "blocks", "tokens")
def learning_to_prompt(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    size: int = 10,
    length: int = 10,
    top: int = 4,
    transductive: bool = False,
) -> Program:
    """Tokens from a pool, chosen for each image by its frozen feature (arXiv
    2112.08654).

    They stand after the class token and get no position. The head is linear on the mean
    of their outputs, behind the last norm, and starts at zero.

    Args:
        size, top: prompts in the pool, and how many are chosen for an image.
        length: tokens of each.
        transductive: all images of a batch get the prompts that most of them chose, as
            published code does by default, also in evaluation.
    """
    count, to_size = top * length, resize(model.input.size)
    fmt = pool(size, uniform(), top=top, transductive=transductive)
    place = transformer_blocks(model)[0]
    at = {"input": to_size, place: insert(fmt, count, at=1)}
    mean = stateless(lambda tokens: tokens[:, 1 : 1 + count].mean(1))
    align = aligned(align, targets, lambda targets: linear(targets, initial=zeros))
    cut = until(model.forward, model.roles["tokens"][0])
    program = reprogram(cut, at, chain(mean=mean, head=align))
    return asking(program, model, to_size)


METHOD = Method(
    "l2p",
    learning_to_prompt,
    preset=Preset(adam_clipped, 0.03, 5, 16, loss=pulled(1.0), sites=MATCHES),
    enters="behind the class token",
    source="arXiv 2112.08654. google-research/l2p, configuration for CIFAR-100: Adam "
    "at .03, gradients clipped at norm 1, 5 epochs a task, batches of 16, 4 of 10 "
    "prompts of 10 tokens, all U(0, .01). What differs: each image chooses its own "
    "prompts; there the whole batch votes (`transductive`).",
)
register(METHOD)
