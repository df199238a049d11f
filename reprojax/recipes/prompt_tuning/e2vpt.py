"""E2VPT: learned tokens and keys in a ViT, and their pruning (Han et al., arXiv
2307.13770).

Train `e2vpt`; rank its masks by `importance`; make `masks` that remove some `amounts`;
train `e2vpt(..., pruned=True)` again from `rewound` params, once for each amount; and
take the best by validation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import (
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    part,
    put,
    reprogram,
    shared,
    until,
)
from reprojax.data import Split, in_order
from reprojax.formats import learnable
from reprojax.formats import pruned as masked
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import as_patches, transformer_blocks
from reprojax.operators import dropped, in_depth, insert, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.prompt_tuning.pools import attention
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import head_at_rest, optimizer
from reprojax.recipes.registry import register
from reprojax.training.losses import Loss, cross_entropy, look, mean_loss

MASKS = ("tokens", "pieces")
Masks = Mapping[str, Float[Array, "..."]]
"""{"tokens": [P], "pieces": [P m]}"""


@needs(Pixels, "features", "keys", "values")
def e2vpt(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 5,
    keys: int = 5,
    pieces: int = 16,
    drop: float = 0.0,
    pruned: bool = False,
) -> Program:
    """VPT-deep with masks on its tokens, and in each block learned keys that are their
    own values (arXiv 2307.13770).

    All blocks share the masks: one for a token, and one for each of its pieces. They
    are learned at first. The head is VPT's.

    Args:
        length: P, tokens a block.
        keys: keys, and values, of a block.
        pieces: m, of a token; see `formats.pruned`.
        drop: dropout rate on tokens and keys in training, other numbers for each image.
        pruned: the masks are fixed: `rewound` sets them.
    """
    blocks = transformer_blocks(model)
    tokens = masked(pieces, as_patches(model), learned=not pruned)
    extra = dropped(learnable(_by_fan), drop, by_row=True)
    at: dict = {
        "input": resize(model.input.size),
        blocks: in_depth(dropped(tokens, drop, by_row=True), length, at=1),
    }
    for i in range(len(blocks)):
        at[attention(model, [i])] = shared(insert(extra, keys))
    align = aligned(align, targets, head_at_rest)
    return reprogram(until(model.forward, model.roles["features"][0]), at, align)


def _by_fan(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P H d"]:
    """PyTorch's Kaiming start of an array [H P d], whose fan is P d."""
    bound = (6 / (shape[0] * shape[2])) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def importance(
    program: Program,
    params: Params,
    frozen: PyTree,
    split: Split,
    batch: int = 64,
    loss: Loss = cross_entropy,
) -> Masks:
    """The gradient of the loss by each mask, its mean over batches of trained params
    (E2VPT, arXiv 2307.13770).

    The tokens' is zero but for a layer norm's epsilon, where each block has tokens of
    its own and begins with a norm: that cancels a factor of a whole token. So only
    pieces can be ranked there.
    """
    site = _site(params.learnable)

    @jax.jit
    def slope(masks: Any, params: Params, frozen: PyTree, x: PyTree, y: Any) -> Any:
        def cost(masks: Any) -> jax.Array:
            own = {site: params.learnable[site] | masks}
            learnable = {**params.learnable, **own}
            answer = program.apply(params._replace(learnable=learnable), frozen, x)
            seen = look({"output": answer}, y, learnable, x, None, None, 0)
            return mean_loss(loss(seen), y)

        return jax.grad(cost)(masks)

    masks = {name: params.learnable[site][name] for name in MASKS}
    found = [slope(masks, params, frozen, *b[:2]) for b in in_order(split, batch)]
    return jax.tree.map(lambda *each: sum(each) / len(each), *found)


def _site(tree: Any) -> str:
    """Where the masks are."""
    having = lambda own: isinstance(own, dict) and {*MASKS} <= {*own}
    found = [name for name, own in tree.items() if having(own)]
    if not found:
        raise ValueError(
            f"got the sites {[*tree]} without masks, expected params of e2vpt; with "
            "pruned=True the masks are among the fixed ones"
        )
    return found[0]


def masks(scores: Masks, tokens: int, pieces: int, signed: bool = False) -> Masks:
    """Ones, and zeros for so many whole tokens, and for so many pieces of each token
    (E2VPT, arXiv 2307.13770).

    Those whose score is nearest to zero go first.

    Args:
        scores: of `importance`.
        signed: as in the published code, those of the lowest score, sign included.
    """
    removed = {"tokens": tokens, "pieces": pieces}
    out = {}
    for name, count in removed.items():
        score = np.asarray(scores[name])
        if not 0 <= count < score.shape[-1]:
            raise ValueError(
                f"got {count} {name} to remove of {score.shape[-1]}, expected fewer"
            )
        order = np.argsort(score if signed else np.abs(score), axis=-1, kind="stable")
        mask = np.ones(score.shape, np.float32)
        np.put_along_axis(mask, order[..., :count], 0.0, axis=-1)
        out[name] = jnp.asarray(mask)
    return out


def amounts(
    length: int, pieces: int = 16, percents: Sequence[int] = range(10, 100, 10)
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many tokens, and pieces of each token, the published search removes: by
    percents, so that one token and four pieces are left at least (E2VPT, arXiv
    2307.13770)."""
    of = lambda n, least: tuple(
        dict.fromkeys(min(n * p // 100, max(n - least, 0)) for p in percents)
    )
    return of(length, 1), of(pieces, 4)


def rewound(
    program: Program, key: Key, frozen: PyTree, x: PyTree, masks: Masks
) -> Params:
    """The first params of `e2vpt(..., pruned=True)`, with these masks (arXiv
    2307.13770).

    With the key of the first training everything else starts as it did there.
    """
    params = program.init(key, frozen, x)
    site = _site(params.fixed)
    return put(params, site, part(params, site)._replace(fixed=dict(masks)))


METHOD = Method(
    "e2vpt",
    e2vpt,
    preset=Preset(optimizer(0.0001), 0.025, epochs=100, batch=64),
    enters="behind the class token, keys and values of each block",
    source="arXiv 2307.13770. ChengHan111/E2VPT: SGD, momentum .9, decay .0001, 100 "
    "epochs of batches of 64, ten of warm-up and a cosine; rate and decay by "
    "validation, as VPT's. Five tokens and five keys are its defaults. Ours: the clip, "
    "the standardised head and the rate by steps, as of VPT here.",
)
register(METHOD)
