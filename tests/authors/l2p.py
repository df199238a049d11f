"""Learning to prompt, L2P: a pool of prompts with keys (Wang et al., 2112.08654)."""

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import uniform

from reprojax import Manipulation, Params, Scope, chain, informed, reprogram, until
from reprojax.alignments import linear
from reprojax.core import stateless
from reprojax.models import Pixels, outputs
from reprojax.operators import resize
from reprojax.recipes import Method, Preset, needs
from reprojax.training.losses import cross_entropy


def cosines(a, b):
    """[B D], [M D] -> [B M]."""
    unit = lambda v: v * jax.lax.rsqrt(jnp.maximum((v**2).sum(-1, keepdims=True), 1e-9))
    return unit(a) @ unit(b).T


def pool(size, length, most):
    """In front of x [B L D] the prompts whose keys are nearest to the context [B D]."""

    def init(key, x, scope):
        query, draw = scope.context.shape[-1], uniform()
        prompts = draw(jax.random.fold_in(key, 0), (size, length, x.shape[-1]))
        keys = draw(jax.random.fold_in(key, 1), (size, query))
        return Params({"keys": keys, "prompts": prompts})

    def apply(params, x, scope):
        near, which = jax.lax.top_k(
            cosines(scope.context, params.learnable["keys"]), most
        )
        scope.tap("pull", near.sum(1))
        chosen = params.learnable["prompts"][which]
        return jnp.concatenate([chosen.reshape(len(x), -1, x.shape[-1]), x], 1)

    return Manipulation(init, apply)


@needs(Pixels, "features", "blocks")
def l2p(model, align=None, *, targets=None, size=10, length=10, most=4, reads=None):
    """The query is the frozen model's own feature; the prompts' outputs are read.

    Args:
        reads: the site [B L D] whose first rows are averaged, behind the last norm; by
            default the last block's output.
    """
    to_size = resize(model.input.size)
    features = until(model.forward, model.roles["features"][0])
    look = lambda frozen, x: features(frozen, to_size.apply(Params(), x, Scope()))
    at = {"input": to_size, model.roles["blocks"][0]: pool(size, length, most)}
    mean = stateless(lambda y: y[:, : most * length].mean(1))
    head = chain(mean=mean, head=align or linear(targets))
    cut = until(model.forward, reads or outputs(model)[-1])
    return informed(reprogram(cut, at, head), look)


def pull_of(model):
    """The site of how near the chosen keys are, which the loss has recorded."""
    return f"{model.roles['blocks'][0]}/pull"


def pulled(model, weight=1.0):
    """Cross entropy less the cosines of query and chosen keys."""
    site = pull_of(model)
    return lambda seen: cross_entropy(seen) - weight * seen.recorded[site]


METHOD = Method(
    "l2p",
    l2p,
    source="arXiv 2112.08654, google-research/l2p, but that each row chooses its own",
    enters="in front of the patches",
    preset=Preset(lambda rate, steps, epochs: optax.adam(rate), 0.03, 5, 16),
)
