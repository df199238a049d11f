"""Multi-modal prompt learning, MaPLe (Khattak et al., arXiv 2210.03117)."""

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    bare,
    fold,
    reprogram,
)
from reprojax.core.initial import dense
from reprojax.formats import learnable
from reprojax.models import Model, Pixels, role
from reprojax.models.vision.sizes import transformer_blocks
from reprojax.operators import insert, replace, resize
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    template_words,
)
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_by_epochs

Sites = tuple[str, ...]


@needs(Pixels, "text_embedding", "text_blocks")
def maple(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 2,
    depth: int = 9,
    words: bool = True,
) -> Program:
    """Prompts in both towers of a pair; a text prompt makes the image's (arXiv
    2210.03117).

    The model is a `classifier` of texts that begin with the same words. In the first
    `depth` layers P vectors are learned. In the text tower they stand in place of the
    first words, "a photo" of "a photo of a {}.", and in later layers of what these have
    become. A linear map for each layer makes the image tower's of them, which stand
    behind the patches, without positions, and in later layers in place of the last
    ones.

    Args:
        length: P, vectors a layer.
        depth: layers, at most those of the shallower tower.
        words: start the first layer's at the words that they replace; otherwise they
            are drawn, as all later ones are.
    """
    check_classes(model, targets)
    text, image = first_layers(model, depth)
    drawn = learnable(normal(0.02))
    start = template_words(model, length, None if words else drawn, "maple")
    coupling = coupled(length, len(text), start)
    at: dict = {"input": resize(model.input.size), (*text, *image): coupling}
    return reprogram(model.forward, at, align)


def first_layers(model: Model[Pixels], depth: int) -> tuple[Sites, Sites]:
    """Where prompts enter the text tower and the image tower, in layers 1 to depth
    (MaPLe, arXiv 2210.03117).

    The first sites are those of the towers' tokens as they are made: in front of the
    text's positions, and of the norm before CLIP's image blocks.
    """
    if depth < 1:
        raise ValueError(f"got a depth of {depth} layers, expected at least 1")
    words, patches = role(model, "text_embedding"), role(model, "embedding")
    texts, images = role(model, "text_blocks"), transformer_blocks(model)
    depth = min(depth, len(texts), len(images))
    return (words[0], *texts[1:depth]), (patches[0], *images[1:depth])


def coupled(length: int, depth: int, start: Format) -> Manipulation:
    """Prompts of `depth` sites of the text tower, then of `depth` of the image tower,
    which linear maps make of these (MaPLe, arXiv 2210.03117).

    Args:
        start: of the first text prompt.
    """

    def init(key: Key, specs: dict[str, PyTree], scope: Scope) -> Params:
        width, wide = (bare(list(specs.values())[i]).shape[-1] for i in (0, -1))
        drawn, first, later = jax.random.split(key, 3)
        prompts = normal(0.02)(drawn, (depth, length, width))
        own = start.init(fold(key, "start"), (length, width), scope)
        prompts = prompts.at[0].set(start.read(own, None, scope))
        maps = dense(first, width, (wide,)), dense(later, width, (wide,))
        # In the published code the maps of later layers start as copies of one.
        maps = jax.tree.map(lambda a, b: jnp.stack([a, *[b] * (depth - 1)]), *maps)
        return Params({"prompts": prompts, **maps})

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "P D"]:
        own, layer = params.learnable, scope.index % depth
        prompt = own["prompts"][layer]
        if scope.index < depth:
            return prompt
        return prompt @ own["kernel"][layer] + own["bias"][layer]

    prompt = Format(lambda key, shape, scope: Params(), read)
    text, image = replace(prompt, length, at=1), replace(prompt, length, at=None)
    first = insert(prompt, length, at=None)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        image_now = first if scope.index == depth else image
        here = text if scope.index < depth else image_now
        return here.apply(params, value, scope)

    return Manipulation(init, apply)


METHOD = Method(
    "maple",
    maple,
    preset=Preset(sgd_by_epochs, 0.0035, epochs=5, batch=4),
    enters="first layers of both towers",
    source="arXiv 2210.03117. muzairkhattak/multimodal-prompt-learning, base to new "
    "classes, 16 examples a class: SGD, momentum .9, decay 5e-4, rate .0035, 5 epochs "
    "of batches of 4, the first at rate 1e-5 and then a cosine by epochs (across data "
    "sets: rate .0026, 2 epochs, depth 3). There images are cropped at random and "
    "mirrored, and weights are half precision.",
)
register(METHOD)
