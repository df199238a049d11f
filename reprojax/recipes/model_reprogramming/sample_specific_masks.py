"""Sample-specific multi-channel masks, SMM (Cai et al., arXiv 2406.03150)."""

import jax
import optax
from jax.nn.initializers import zeros

from reprojax.alignments import one_to_one
from reprojax.core import Manipulation, Program, PyTree, reprogram
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.models.vision.mask_generator import MaskGenerator
from reprojax.models.vision.sizes import is_transformer, scaled
from reprojax.operators import augmented, masked_add, network, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adam_in_steps


@needs(Pixels)
def sample_specific_masks(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    layers: int | None = None,
    pools: int = 3,
    channels: int = 3,
    augment: bool = False,
) -> Program:
    """x + mask(x) * prompt; a small net makes each image's mask (arXiv 2406.03150).

    The prompt enters after normalisation. It starts at zero, so the masks get no
    gradient at the first step.

    Args:
        layers: of the mask network; by default 6 for transformers and 5 for others, as
            published.
        pools: the masks are constant over patches of 2^pools pixels.
        channels: 3 masks, one for each colour, or 1 for all.
        augment: in training, a random crop of 224 in 256 and a mirror, as published;
            `watermark` says why it is off.
    """
    layers = (6 if is_transformer(model) else 5) if layers is None else layers
    _check(layers, pools, channels)
    size = model.input.size
    whole = augmented(size, scaled(256, model)) if augment else resize(size)
    masks = network(MaskGenerator(layers, pools, channels))
    pattern = masked_add(learnable(zeros), masks)
    at = {"input": whole, "normalized": pattern}
    align = aligned(align, targets, one_to_one)
    return reprogram(model.forward, at, align)


def _check(layers: int, pools: int, channels: int) -> None:
    if layers < 2 or not 0 <= pools < layers or channels not in (1, 3):
        raise ValueError(
            f"sample_specific_masks got layers={layers}, pools={pools} and "
            f"channels={channels}, expected at least 2 layers, fewer pools than "
            "layers, and 1 or 3 channels; published are 5 or 6 layers and 3 pools"
        )


def _optimizer(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam in steps; a mask network of six layers has rate / 10, constant."""
    falling = adam_in_steps(learning_rate, steps, epochs)
    constant = optax.adam(learning_rate / 10)

    def groups(learnable: PyTree) -> PyTree:
        mask = learnable["normalized"]["mask"]
        how = "constant" if "BatchNorm_4" in mask else "falling"
        own = {"prompt": "falling", "mask": jax.tree.map(lambda _: how, mask)}
        return jax.tree.map(lambda _: "falling", learnable) | {"normalized": own}

    return optax.partition({"falling": falling, "constant": constant}, groups)


METHOD = Method(
    "smm",
    sample_specific_masks,
    preset=Preset(_optimizer, 0.01, epochs=200, batch=256),
    alignment="ilm",
    enters="after normalisation",
    source="arXiv 2406.03150. tmlr-group/SMM: Adam at .01, times .1 at epochs 100 and "
    "144 (the paper prints 145) of 200; the same for a mask network of five layers, "
    "for one of six .001 throughout. Batches of 256 (the paper: 64 for DTD and "
    "OxfordPets). Its crop and mirror are `augment`.",
)
register(METHOD)
