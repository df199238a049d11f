"""Prompts matched with patches by optimal transport, PLOT (Chen et al., arXiv
2210.01253)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from reprojax.core import (
    Edit,
    Forward,
    Manipulation,
    Program,
    PyTree,
    passthrough,
    reprogram,
)
from reprojax.core.trees import tiled
from reprojax.core.vectors import unit
from reprojax.formats import learnable, of_each
from reprojax.models import Model, Pixels, role
from reprojax.models.card import outputs
from reprojax.models.image_text.towers import patch_features
from reprojax.operators import insert, resize
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.names_of_classes import check_classes
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_by_epochs


@needs(Pixels, "text_embedding", "blocks")
def optimal_transport(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    prompts: int = 4,
    length: int = 16,
    sharpness: float = 10.0,
    iterations: int = 100,
) -> Program:
    """Several learned prompts in front of each class's name; an answer is how near they
    are to the patches of an image (arXiv 2210.01253).

    The model is `image_text.classifier(pair, names, ["{}."])` of a pair like CLIP. For
    each image and class a transport plan, without gradient, matches all patches with
    all prompts; the logit is the plan's mean cosine. A patch's feature is made of its
    last token as the image's is made of the class token.

    Args:
        prompts: N, the same ones for all classes.
        length: P, words of each.
        sharpness: of the plan, 1 over its entropy's weight.
        iterations: of Sinkhorn's algorithm.
    """
    check_classes(model, targets)
    _check(model, prompts)
    (site,) = role(model, "text_embedding")
    words = insert(of_each(learnable(normal(0.02)), prompts), length, at=1)
    at = {"input": resize(model.input.size), site: words}
    forward = transported(model, prompts, sharpness, iterations)
    return reprogram(forward, at, align)


def _check(model: Model[Pixels], prompts: int) -> None:
    who = "optimal_transport"
    if prompts < 1:
        raise ValueError(f"{who} got {prompts} prompts, expected at least 1")
    if "head" not in model.frozen["image"]["params"]:
        raise ValueError(
            f"{who} got {model.name}, whose image tower pools all its tokens, expected "
            "one that projects a class token, as CLIP's, so that patches have features"
        )
    if model.frozen["texts"].weights is not None:
        raise ValueError(
            f"{who} got several texts for a class, expected one, which its prompts "
            'share; call classifier(pair, names, ["{}."])'
        )


def transported(
    model: Model[Pixels], prompts: int, sharpness: float, iterations: int
) -> Forward:
    """The model with each text N times, whose answer [B T] is by transport (PLOT, arXiv
    2210.01253)."""
    last = outputs(model)[-1]

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        seen: dict[str, Any] = {}

        def inner(site: str, value: PyTree) -> PyTree:
            if site == "output":
                return value
            value = tiled(value, prompts) if site == "text/input" else value
            seen[site] = value = edit(site, value)
            if site == "text/features":  # the model's own answer is not used
                return value.reshape(prompts, -1, value.shape[-1]).mean(0)
            return value

        model.forward(frozen, x, edit=inner)
        patches = unit(patch_features(frozen["image"], seen[last]))
        texts = unit(seen["text/features"])
        texts = texts.reshape(prompts, -1, texts.shape[-1])
        cosine = jnp.einsum("bmj,ntj->btmn", patches, texts)
        near = (plans(cosine, sharpness, iterations) * cosine).sum((-2, -1))
        scale = jnp.exp(frozen["scale"]).astype(near.dtype)
        return edit("output", scale * near + frozen["bias"].astype(near.dtype))

    return forward


def plans(
    cosine: Float[Array, "*B M N"], sharpness: float, iterations: int
) -> Float[Array, "*B M N"]:
    """The transport with rows 1 / M and columns 1 / N, by Sinkhorn's algorithm; without
    gradient (PLOT, arXiv 2210.01253)."""
    wide = jax.lax.stop_gradient(cosine).astype(jnp.float32)
    kernel = jnp.exp((wide - 1) * sharpness)
    rows, columns = cosine.shape[-2:]

    def balanced(_: Any, scales: tuple[Array, Array]) -> tuple[Array, Array]:
        _, right = scales
        left = 1 / rows / jnp.einsum("...mn,...n->...m", kernel, right)
        return left, 1 / columns / jnp.einsum("...mn,...m->...n", kernel, left)

    ones = jnp.ones_like(kernel[..., 0]), jnp.ones_like(kernel[..., 0, :])
    left, right = jax.lax.fori_loop(0, iterations, balanced, ones)
    plan = left[..., :, None] * kernel * right[..., None, :]
    return plan.astype(cosine.dtype)


METHOD = Method(
    "plot",
    optimal_transport,
    preset=Preset(sgd_by_epochs, 0.002, epochs=50, batch=128),
    enters="in front of the names of classes",
    template="{}.",
    source="arXiv 2210.01253. CHENGY12/PLOT, plot-coop: 4 prompts of 16 words, SGD, "
    "momentum .9, decay 5e-4, rate .002, 50 epochs of batches of 128, the first at "
    "rate 1e-5 and then a cosine by epochs. There the image tower is ResNet-50, and "
    "its 7 x 7 features are the patches; iterations end for a whole batch once its "
    "scales move by less than .01 in the mean, so that an answer depends on its batch, "
    "and here they do not; images are cropped at random and mirrored.",
)
register(METHOD)
