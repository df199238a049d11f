"""DualPrompt (Wang et al., arXiv 2204.04799)."""

from collections.abc import Sequence

from jax.nn.initializers import uniform, zeros

from reprojax.alignments import linear
from reprojax.core import Manipulation, Program, reprogram, until
from reprojax.formats import learnable, pool
from reprojax.models import Model, Pixels
from reprojax.operators import prefix, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.prompt_tuning.pools import (
    MATCHES,
    attention,
    checked,
    pulled,
)
from reprojax.recipes.queries import asking
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adam_clipped


@needs(Pixels, "features", "keys", "values")
def dual_prompt(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    size: int = 10,
    length: int = 5,
    general: int = 5,
    blocks: Sequence[int] | None = None,
    general_blocks: Sequence[int] | None = None,
    transductive: bool = False,
) -> Program:
    """Keys and values before the image's own: the same for all images in the first
    blocks, and from a pool of experts in the next ones (arXiv 2204.04799).

    In training an image gets the expert of its task (`formats.begin_task`). Without
    tasks, and in evaluation, it gets the one whose key is nearest to its frozen
    feature. The head is linear on the class token's feature and starts at zero.

    Args:
        size: experts in the pool, one for each task.
        length, general: keys of an expert and of the general prompt, in each block.
        blocks: those with experts, by default 2, 3 and 4, or what a shallower
            model has of them.
        general_blocks: the blocks with general prompts, by default 0 and 1, or 0 in a
            model of two blocks.
        transductive: all images of a batch get the expert that most of them chose, as
            in published code for CIFAR-100, also in evaluation.
    """
    depth = len(model.roles["keys"])
    first = min(2, depth - 1)
    shared = checked(model, range(first) if general_blocks is None else general_blocks)
    own = checked(model, range(first, min(depth, 5)) if blocks is None else blocks)
    if {*own} & {*shared} or not own:
        raise ValueError(
            f"got experts in the blocks {own} and general prompts in {shared}, "
            "expected experts in at least one block, and one kind in a block"
        )
    chosen = pool(size, uniform(), axis=1, by_task=True, transductive=transductive)
    to_size = resize(model.input.size)
    at: dict = {"input": to_size}
    at[attention(model, own)] = prefix(chosen, length)
    if shared:
        at[attention(model, shared)] = prefix(learnable(uniform()), general)
    align = aligned(align, targets, lambda targets: linear(targets, initial=zeros))
    cut = until(model.forward, model.roles["features"][0])
    return asking(reprogram(cut, at, align), model, to_size)


METHOD = Method(
    "dualprompt",
    dual_prompt,
    preset=Preset(adam_clipped, 0.03, 5, 24, loss=pulled(1.0), sites=MATCHES),
    enters="keys and values of the first blocks",
    source="arXiv 2204.04799. google-research/l2p, configuration for CIFAR-100: Adam "
    "at .03, gradients clipped at norm 1, 5 epochs a task, batches of 24 (for "
    "ImageNet-R .005, 50 epochs and experts of 20 keys). What differs: in evaluation "
    "each image chooses its own expert, as there for ImageNet-R; for CIFAR-100 the "
    "whole batch votes there (`transductive`).",
)
register(METHOD)
