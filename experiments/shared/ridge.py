"""A pair of towers without a pair's weights: a ViT-Ti, and a sentence encoder whose
vectors a ridge regression maps to the rows of the ViT's head. `experiments.image_text`
takes it as `--pair ridge`.

It is called "ridge-aligned ViT-Ti + MiniLM", never CLIP: no image and text were trained
together. The map is fitted on the 1,000 names of ImageNet's classes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.shared import assets
from reprojax.core import Edit, PyTree, Tokens, passthrough, until
from reprojax.core.vectors import unit
from reprojax.models import Model
from reprojax.models.image_text import Pair
from reprojax.models.image_text.card import encoded, text_features

STRENGTH = 0.3
TEMPLATE = "a photo of a {}"
SCALE = 20.0  # of the cosines


def pooled(encoder: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of an encoder of Tokens: a map of each text's unit mean."""

    def forward(frozen: PyTree, x: Tokens, edit: Edit = passthrough) -> PyTree:
        def inner(site: str, value: PyTree) -> PyTree:
            return value if site == "output" else edit(site, value)

        out = encoder({"params": frozen["params"]}, x, edit=inner)
        weight = (out.weight > 0)[..., None]
        mean = (out.value * weight).sum(1) / weight.sum(1)
        return edit("output", unit(mean) @ frozen["map"] + frozen["middle"])

    return forward


@cache
def ridge_pair() -> Pair:
    """The pair of the assets' ViT-Ti and MiniLM."""
    vision = assets.load_backbone("vit_tiny_patch16_224")
    language = assets.load_language("all_MiniLM_L6_v2")
    (site,) = vision.roles["features"]
    image = vision._replace(
        forward=until(vision.forward, site),
        roles=dict(vision.roles) | {"features": ("output",)},
        classes=(),
    )
    width = language.width
    start = {"map": jnp.eye(width), "middle": jnp.zeros(width)}
    roles = {r: at for r, at in language.roles.items() if r != "features"}
    bare = Model(
        language.name,
        pooled(language.forward),
        {**language.frozen, **start},
        language.input,
        roles,
    )
    name = "ridge-aligned ViT-Ti + MiniLM"
    pair = Pair(name, image, bare, jnp.log(SCALE), jnp.zeros(()))
    texts = [TEMPLATE.format(label.split(",")[0]) for label in vision.classes]
    said = np.asarray(text_features(pair, encoded(pair, texts)))
    rows = np.asarray(vision.frozen["params"]["head"]["kernel"]).T
    own = bare.frozen | fitted(said, rows)
    text = bare._replace(frozen=own)
    return Pair(name, image, text, pair.scale, pair.bias)


def fitted(said: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """The ridge map from texts' vectors [S E] to rows of a head [S D], both centred."""
    x, y = said - said.mean(0), rows - rows.mean(0)
    both = x.T @ x + STRENGTH * np.eye(x.shape[1])
    own = np.linalg.solve(both, x.T @ y)
    middle = rows.mean(0) - said.mean(0) @ own
    return {"map": jnp.asarray(own), "middle": jnp.asarray(middle)}
