"""Multitask prompt tuning, MPT: a shared prompt times rank-one matrices of the tasks.

Wang et al., arXiv 2303.02861. The context is {"task": [B]}, which task a row is of; in
training on teachers also what these answer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn.initializers import normal

from reprojax import Format, Params, record, reprogram
from reprojax.models import role
from reprojax.models.language import Words
from reprojax.models.language.starts import from_vocabulary
from reprojax.operators import insert
from reprojax.recipes import Method, Preset, needs
from reprojax.training.losses import cross_entropy


def decomposed(tasks, start):
    """P_k = P * (u_k v_k^T): one prompt [P D] for all, u [K P] and v [K D]."""

    def init(key, shape, scope):
        keys, draw = jax.random.split(key), normal(0.02)
        u, v = (draw(k, (tasks, n)) for k, n in zip(keys, shape, strict=True))
        shared = start.init(key, shape, scope).learnable
        return Params({"shared": shared, "u": u, "v": v})

    def read(params, value, scope):
        own, task = params.learnable, scope.context["task"]
        return own["shared"] * own["u"][task][:, :, None] * own["v"][task][:, None]

    return Format(init, read)


@needs(Words, "embedding", "features")
def mpt(model, align=None, *, tasks, length=100, initial=None):
    """One prompt of `length` tokens in front, for so many tasks."""
    prompt = insert(decomposed(tasks, initial or from_vocabulary(model)), length)
    return reprogram(model.forward, {role(model, "embedding")[0]: prompt}, align)


def taught(split, model, teachers, params):
    """The split with what its rows' teachers answer and hold behind the last layer.

    Args:
        teachers: the tasks' own prompts, as `core.stacked` puts them into one program.
    """
    (site,) = role(model, "features")
    look = record(teachers.apply, [site])
    y, seen = look(params, model.frozen, split.x, split.context["task"])
    told = jax.tree.map(np.asarray, {"logits": y, "hidden": seen[site].value})
    return split._replace(context=split.context | told)


def distilled(model, weight=0.9):
    """Cross entropy, KL from the teacher's answer, and the hidden states' distance."""
    (site,) = role(model, "features")

    def loss(seen):
        wanted, hidden = (seen.context[name] for name in ("logits", "hidden"))
        own, other = jax.nn.log_softmax(seen.output), jax.nn.log_softmax(wanted)
        kl = optax.losses.kl_divergence_with_log_targets(own, other)
        state = seen.recorded[site]
        real = state.weight / state.weight.sum(1, keepdims=True)
        gap = (jnp.square(state.value - hidden).mean(-1) * real).sum(1)
        return cross_entropy(seen) + weight * (kl + gap)

    return loss


def onto_target(params, site):
    """A new task starts at the mean of the tasks' vectors and the shared prompt."""
    own = params.learnable[site]
    mean = {name: own[name].mean(0, keepdims=True) for name in ("u", "v")}
    return params._replace(learnable=params.learnable | {site: own | mean})


METHOD = Method(
    "mpt",
    mpt,
    source="arXiv 2303.02861; first u and v as in PEFT; tasks are mixed by the order",
    enters="in front of the words' vectors",
    preset=Preset(lambda rate, steps, epochs: optax.adamw(rate), 0.3, 5, 32),
)
