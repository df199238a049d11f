"""Attentional mixtures of soft prompts, ATTEMPT: source prompts mixed by the input.

Asai et al., arXiv 2205.11961. The context is which of the target tasks a row is of.
"""

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import lecun_normal

from reprojax import Format, Params, reprogram
from reprojax.models import role
from reprojax.models.language import Words
from reprojax.models.language.starts import from_vocabulary
from reprojax.operators import insert
from reprojax.recipes import Method, Preset, needs


def mixed(start, tasks, sources, rank=100, temperature=2000.0):
    """The row's own prompt, and by attention all sources [S P D] and itself.

    The query is the text's largest values through a bottleneck of width `rank` and a
    layer norm; the keys are the prompts' largest values. The sources are fixed.
    """

    def init(key, shape, scope):
        *keys, down, up = jax.random.split(key, tasks + 2)
        own = jnp.stack([start.init(k, shape, scope).learnable for k in keys])
        (width, draw), tied = (shape[-1], lecun_normal()), jnp.zeros(shape[-1])
        bottleneck = {"down": draw(down, (width, rank)), "up": draw(up, (rank, width))}
        norm = {"scale": tied + 1, "bias": tied}
        return Params({"own": own, **bottleneck, **norm}, jnp.zeros((sources, *shape)))

    def read(params, text, scope):
        own = params.learnable
        mine = own["own"][scope.context]
        every = jnp.broadcast_to(params.fixed, (len(mine), *params.fixed.shape))
        every = jnp.concatenate([every, mine[:, None]], 1)
        real = jnp.where(text.weight[..., None] > 0, text.value, -jnp.inf)
        query = jax.nn.silu(real.max(1) @ own["down"]) @ own["up"]
        query = jax.nn.standardize(query, epsilon=1e-5) * own["scale"] + own["bias"]
        near = jnp.einsum("bd,bsd->bs", query, every.max(2)) / temperature
        return mine + jnp.einsum("bs,bspd->bpd", jax.nn.softmax(near), every)

    return Format(init, read)


@needs(Words, "embedding")
def attempt(model, align=None, *, length=100, initial=None, **sizes):
    """Prompts for several target tasks, which share the attention.

    `with_sources` puts trained prompts in the place of the zeros that stand for them.

    Args:
        sizes: tasks and sources, how many; and rank and temperature, as in `mixed`.
    """
    prompt = insert(mixed(initial or from_vocabulary(model), **sizes), length)
    return reprogram(model.forward, {role(model, "embedding")[0]: prompt}, align)


def with_sources(params, site, prompts):
    """The params with source prompts [S P D], each of a task's own prompt tuning."""
    return params._replace(fixed=params.fixed | {site: jnp.asarray(prompts)})


METHOD = Method(
    "attempt",
    attempt,
    source="arXiv 2205.11961, AkariAsai/ATTEMPT",
    enters="in front of the words' vectors",
    preset=Preset(lambda rate, steps, epochs: optax.adamw(rate), 0.3, 20, 16),
)
