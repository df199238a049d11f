"""Visual prompt tuning, VPT (Jia et al., arXiv 2203.12119)."""

from typing import Any

import jax
from jaxtyping import Array, Float

from reprojax.alignments import linear
from reprojax.core import Key, Manipulation, Program, reprogram
from reprojax.formats import learnable
from reprojax.models import Backbone
from reprojax.operators import insert, replace, resize
from reprojax.recipes.method import Method, Preset, sgd_cosine
from reprojax.recipes.sizes import patch, transformer_blocks
from reprojax.taps import until


def _uniform(side: int) -> Any:
    """U(-v, v), v = sqrt(6 / (3 side^2 + D)): Xavier's bound of the patches."""

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P D"]:
        bound = (6 / (3 * side**2 + shape[-1])) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initial


def vpt_deep(
    backbone: Backbone,
    targets: int,
    align: Manipulation | None = None,
    *,
    length: int = 5,
    depth: int | None = None,
) -> Program:
    """Learned tokens behind the class token, new ones at each block (arXiv 2203.12119).

    A later block's tokens *replace* what came out of the earlier ones. They get no
    position. The head is linear on the class token's feature [D], standardised so that
    one learning rate serves backbones whose features differ in scale.

    Args:
        length: P, tokens a block.
        depth: how many blocks have their own; by default all of them.
    """
    blocks = transformer_blocks(backbone)[:depth]
    prompt = learnable(_uniform(patch(backbone)))
    at: dict = {"input": resize(backbone.size), blocks[0]: insert(prompt, length, at=1)}
    at |= {block: replace(prompt, length, at=1) for block in blocks[1:]}
    head = linear(targets, standardised=True) if align is None else align
    at |= {"output": head}
    return reprogram(until(backbone.forward, backbone.roles["features"][0]), at)


def vpt_shallow(
    backbone: Backbone,
    targets: int,
    align: Manipulation | None = None,
    *,
    length: int = 5,
) -> Program:
    """Learned tokens at the first block alone (arXiv 2203.12119)."""
    return vpt_deep(backbone, targets, align, length=length, depth=1)


# The paper takes its rate from a grid, {.05 ... 50} * batch / 256, on validation
# images; this is its smallest. SGD, momentum .9, a tenth of the epochs as warm-up and
# the cosine are the paper's. The clip is ours: small tokens in front of a layer norm
# have large gradients, and without it .025 and .125 diverged on a ViT-Ti.
_PRESET = Preset(sgd_cosine(warmup=10, clip=1.0), 0.025, epochs=100, batch=128)
SHALLOW = Method(vpt_shallow, _PRESET, alignment=None, enters="behind the class token")
DEEP = Method(vpt_deep, _PRESET, alignment=None, enters="behind the class token")
