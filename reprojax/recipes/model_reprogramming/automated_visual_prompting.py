"""AutoVP: a learned scale in a frame, and its search (arXiv 2310.08381)."""

from itertools import product
from typing import Any

from reprojax.alignments.named import find_alignment
from reprojax.core import Manipulation, Program, chain, reprogram
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import border_around, scaled
from reprojax.operators import resize, scaled_in_frame
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adam_in_steps


@needs(Pixels)
def automated_visual_prompting(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
    scale: float = 1.5,
    trained: bool = True,
) -> Program:
    """The image at a learned scale, in a learned frame (arXiv 2310.08381).

    The frame enters before normalisation, and starts at grey. `search_space` lists the
    published choices of scale and label map.

    Args:
        inner: side of the image in pixels before it is scaled; by default 128 in 224.
        scale: the first one, of images enlarged from `inner`; or, with trained=False,
            images are resized to `inner` times this.
    """
    inner = scaled(128, model) if inner is None else inner
    size = model.input.size
    if trained:
        border_around(inner, model)  # there is room for it
        place = {"resize": resize(inner), "frame": scaled_in_frame(size, scale)}
    else:
        whole = int(inner * scale)
        border_around(whole, model)
        still = scaled_in_frame(size, trained=False)
        place = {"resize": resize(whole), "frame": still}
    align = aligned(align, targets, find_alignment("linear").build)
    return reprogram(model.forward, {"input": chain(**place)}, align)


def search_space(targets: int, sources: int) -> list[dict[str, Any]]:
    """AutoVP's grid for one model (arXiv 2310.08381): what it tries, as arguments of
    `recipes.build`.

    Each entry builds one program: `build("autovp", model, targets, **entry)`. Train
    each for a few epochs, as the paper does for 2 to 5, and take the best on
    validation (its code takes the best on training). The semantic map, which needs
    names, is not in the list: `alignments.semantic`.

    Args:
        sources: the model's classes. Maps of 1, 5 and 10 of them a class are listed,
            as far as there are enough.
    """
    several = [m for m in (1, 5, 10) if m * targets <= sources]
    maps = ["linear", *(f"{kind}{m}" for kind in ("flm", "ilm") for m in several)]
    return [
        {"alignment": name, "scale": scale, "trained": trained}
        for name, scale, trained in product(maps, (0.5, 1.0, 1.5), (True, False))
    ]


METHOD = Method(
    "autovp",
    automated_visual_prompting,
    preset=Preset(adam_in_steps, 0.001, epochs=200, batch=128),
    alignment="linear",
    enters="before normalisation",
    source="arXiv 2310.08381. IBM/AutoVP, for models other than CLIP: Adam at .001, "
    "times .1 at 50 % and 72 % of 200 epochs, batches of 128 (for most sets), images "
    "of 128 at a scale of 1.5, a linear map of the logits (there with a bias). Its "
    "demo leaves the scale as it is; here it is learned by default. There a scale is "
    "put back to .1 or 5 after each step; here one beyond acts as these.",
)
register(METHOD)
