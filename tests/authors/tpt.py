"""Test-time prompt tuning, TPT (Shu et al., arXiv 2209.07511)."""

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import normal

from reprojax import Params, Scope, reprogram
from reprojax.alignments import identity
from reprojax.formats import learnable
from reprojax.models import Pixels, role
from reprojax.operators import augmented, insert, resize
from reprojax.recipes import Method, needs
from reprojax.training.steps import begin, train_step


@needs(Pixels, "words")
def tpt(model, align=None, *, targets=None, length=4):
    """Learned words in the names of the classes, behind the first word of each.

    Of a pair of towers whose card names the site of its names' vectors [T L D].
    """
    words = insert(learnable(normal(0.02)), length, at=1)
    at = {"input": resize(model.input.size), role(model, "words")[0]: words}
    return reprogram(model.forward, at, align or identity())


def views(key, image, count, size, larger):
    """The image [h w C] itself, and random squares of it, mirrored or not."""
    many = jnp.repeat(jnp.asarray(image)[None], count - 1, 0)
    squares, scope = augmented(size, larger), Scope(key=key)
    cut = squares.apply(squares.init(key, many, scope), many, scope)
    whole = resize(size).apply(Params(), jnp.asarray(image)[None], Scope())
    return jnp.concatenate([whole, cut])


def confident(share):
    """The entropy of the mean answer of the views that are surest."""

    def loss(seen):
        each = jax.nn.log_softmax(seen.output)
        sure = (jnp.exp(each) * each).sum(1)
        count = max(1, int(len(sure) * share))
        chosen = each[jax.lax.top_k(sure, count)[1]]
        mean = jax.nn.logsumexp(chosen, 0) - jnp.log(count)
        return -(jnp.exp(mean) * mean).sum()

    return loss


ADAMW, SUREST = optax.adamw(0.005, weight_decay=0.01), confident(0.1)


def tuned(program, params, frozen, views, steps=1, optimizer=ADAMW, loss=SUREST):
    """Params for one image: a step from those that all images begin with."""
    state = begin(program, optimizer, frozen, views, params=params)
    labels = jnp.zeros(len(views), jnp.int32)  # not read
    for _ in range(steps):
        state = train_step(program, optimizer, loss, (), state, frozen, views, labels)
    return state.params


METHOD = Method("tpt", tpt, source="arXiv 2209.07511", enters="in the names")
