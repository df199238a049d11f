"""A graph prompt: GPF and GPF-plus (Fang et al., arXiv 2209.15240)."""

import jax
import optax
from jax.nn.initializers import glorot_uniform

from reprojax import Manipulation, Params, reprogram
from reprojax.alignments import linear
from reprojax.models import role
from reprojax.recipes import Method, Preset


def node_prompts(count):
    """nodes [B n F] + for each a mean of prompts, weighted by softmax(nodes a)."""

    def init(key, nodes, scope):
        keys, shape = jax.random.split(key), (count, nodes.shape[-1])
        draw = glorot_uniform()
        return Params({"prompts": draw(keys[0], shape), "a": draw(keys[1], shape)})

    def apply(params, nodes, scope):
        share = jax.nn.softmax(nodes @ params.learnable["a"].T)
        return nodes + share @ params.learnable["prompts"]

    return Manipulation(init, apply)


def gpf(model, align=None, *, targets=None, count=1):
    """Of a model whose card names the site of its nodes; one prompt is GPF, more are
    GPF-plus."""
    at = {role(model, "nodes")[0]: node_prompts(count)}
    return reprogram(model.forward, at, align or linear(targets))


METHOD = Method(
    "gpf",
    gpf,
    source="arXiv 2209.15240, zjunet/GPF",
    enters="on the nodes",
    preset=Preset(lambda rate, steps, epochs: optax.adam(rate), 0.001, 50, 32),
)
