"""Voice2Series: a series inside a waveform (Yang et al., arXiv 2106.09296)."""

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import glorot_uniform

from reprojax import chain, reprogram, stateless
from reprojax.alignments import groups
from reprojax.formats import learnable, through
from reprojax.models import Series
from reprojax.operators import dropout, pad
from reprojax.recipes import Method, Preset, needs
from reprojax.training.losses import with_norm


def many_to_one(targets, each):
    """log of the mean probability of so many source classes for each target class."""
    ids = [range(t * each, (t + 1) * each) for t in range(targets)]
    return chain(p=stateless(jax.nn.softmax), mean=groups(ids), log=stateless(jnp.log))


@needs(Series)
def voice2series(model, align=None, *, targets=None, length, each=6, rate=0.4):
    """A series [B length C] and, behind it, a prompt up to the waveform's length.

    Args:
        each: how many source classes one of the task's has.
        rate: of dropout of the prompt, in training.
    """
    prompt = through(learnable(glorot_uniform()), dropout(rate))
    behind = pad(prompt, (0, model.input.length - length), 0)
    align = align or many_to_one(targets, each)
    return reprogram(model.forward, {"input": behind}, align)


METHOD = Method(
    "voice2series",
    voice2series,
    source="arXiv 2106.09296; huckiyang/Voice2Series adds the prompt on the series too",
    enters="behind the series",
    preset=Preset(
        lambda rate, steps, epochs: optax.adam(rate), 0.05, 100, 32, with_norm(0.05)
    ),
)
