"""Conditional context optimisation, CoCoOp (Zhou et al., arXiv 2203.05557)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import (
    Edit,
    Format,
    Forward,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    fold,
    passthrough,
    reprogram,
)
from reprojax.core.initial import dense
from reprojax.core.slips import context_width
from reprojax.core.trees import tiled
from reprojax.core.vectors import unit
from reprojax.models import Model, Pixels, role
from reprojax.operators import replace, resize
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    template_words,
)
from reprojax.recipes.queries import asking
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_by_epochs


@needs(Pixels, "text_embedding", "features")
def cocoop(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 4,
    initial: Format | None = None,
) -> Program:
    """Learned words that an image's own feature moves (arXiv 2203.05557).

    They take the place of the template's own, "a photo of a", and start there. A small
    net makes one vector from the image's unit feature, which is added to each of them.
    So the texts run once for each image: time and memory grow with images x classes.

    Args:
        length: P, words of the template that are replaced.
        initial: by default the template's own words.
    """
    check_classes(model, targets)
    (site,) = role(model, "text_embedding")
    words = template_words(model, length, initial, "cocoop")
    to_size = resize(model.input.size)
    at = {"input": to_size, site: replace(conditional(words), length, at=1)}
    program = reprogram(image_by_image(model.forward), at, align)
    return asking(program, model, to_size)


def image_by_image(forward: Forward) -> Forward:
    """A pair's forward with its texts once for each image: rows [B*R ...] (CoCoOp,
    arXiv 2203.05557)."""

    def each(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        images = jax.tree.leaves(x)[0].shape[0]

        def inner(site: str, value: PyTree) -> PyTree:
            value = edit(site, value)
            if site != "text/input":
                return value
            return tiled(value, images)

        return forward(frozen, x, edit=inner)

    return each


def conditional(fmt: Format) -> Format:
    """A prompt [P D] plus one vector for each image, from its unit feature [B J]
    (CoCoOp, arXiv 2203.05557).

    The net has one hidden layer, a sixteenth as wide as the feature. Of B images it
    gives [B*R P D], each image's prompt for each of its R rows.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        joint = context_width("conditional", scope)
        hidden = max(joint // 16, 1)
        own = fmt.init(fold(key, "words"), shape, scope)
        net = {
            "first": dense(fold(key, "first"), joint, (hidden,)),
            "second": dense(fold(key, "second"), hidden, shape[-1:]),
        }
        return Params({"words": own.learnable, "net": net}, {"words": own.fixed})

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "N P D"]:
        own, net = params.learnable, params.learnable["net"]
        words = Params(own["words"], params.fixed["words"])
        prompt = fmt.read(words, value, scope)
        context_width("conditional", scope)
        seen = unit(jnp.asarray(scope.context, jnp.float32))
        hidden = jax.nn.relu(seen @ net["first"]["kernel"] + net["first"]["bias"])
        vector = hidden @ net["second"]["kernel"] + net["second"]["bias"]
        each = value.value.shape[0] // len(seen)
        return jnp.repeat(prompt + vector[:, None], each, axis=0)

    return Format(init, read)


METHOD = Method(
    "cocoop",
    cocoop,
    preset=Preset(sgd_by_epochs, 0.002, epochs=10, batch=1),
    enters="in front of the names of classes",
    source="arXiv 2203.05557 and KaiyangZhou/CoOp: 'a photo of a', 10 epochs of single "
    "images. What differs: no random crops and mirrors.",
)
register(METHOD)
