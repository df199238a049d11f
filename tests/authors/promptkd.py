"""PromptKD: a student's prompts toward a teacher's answers (Li et al., 2403.02781)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import normal

from reprojax import Manipulation, Params, chain, reprogram, until
from reprojax.formats import learnable
from reprojax.models import Pixels
from reprojax.operators import insert, network, replace, resize
from reprojax.recipes import Method, Preset, needs


class Projector(nn.Module):
    """From the student's features to the teacher's."""

    width: int

    @nn.compact
    def __call__(self, y, train):
        y = nn.BatchNorm(not train, momentum=0.9)(nn.Dense(self.width)(y))
        return nn.Dense(self.width)(nn.relu(y))


def compared(scale=100.0):
    """y [B D] -> its cosines with the teacher's classes [T D] of the context."""

    def apply(params, y, scope):
        unit = y / jnp.linalg.norm(y, axis=-1, keepdims=True)
        return scale * unit @ scope.context["classes"].T

    return Manipulation(lambda key, y, scope: Params(), apply)


@needs(Pixels, "features", "blocks")
def promptkd(model, align=None, *, targets=None, width=768, length=4, depth=9):
    """Prompts at the first blocks and a projector; the context is the teacher's.

    Its "classes" are unit vectors [T width], one for all rows; its "logits" [N T].
    """
    first, *later = model.roles["blocks"][:depth]
    prompt = learnable(normal(0.02))
    at = {"input": resize(model.input.size), first: insert(prompt, length, at=1)}
    at |= {block: replace(prompt, length, at=1) for block in later}
    head = chain(project=network(Projector(width)), compare=align or compared())
    return reprogram(until(model.forward, model.roles["features"][0]), at, head)


def distilled(temperature=1.0, weight=1000.0):
    """Divergence from the teacher's answers, a row's mean over classes; no labels."""

    def loss(seen):
        student = jax.nn.log_softmax(seen.output / temperature)
        teacher = jax.nn.log_softmax(seen.context["logits"] / temperature)
        apart = (jnp.exp(teacher) * (teacher - student)).mean(1)
        return weight * temperature**2 * apart

    return loss


def sgd(rate, steps, epochs):
    return optax.sgd(optax.cosine_decay_schedule(rate, steps * epochs), momentum=0.9)


METHOD = Method(
    "promptkd",
    promptkd,
    source="arXiv 2403.02781, zhengli97/PromptKD",
    enters="behind the first token of each block",
    preset=Preset(sgd, 0.005, epochs=20, batch=8, loss=distilled()),
)
