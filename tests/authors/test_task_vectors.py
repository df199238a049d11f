"""Task vectors beside a second implementation, a query at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_words import DEEP, LABELS, MIXES, texts
from task_vectors import METHOD, best_layer, of_demonstrations, task_vectors
from walk import walk

from reprojax.alignments import label_words
from reprojax.core import tokens

TASK = texts(tasks=1)
ALIGN = label_words(LABELS)
EMBED = np.asarray(DEEP.frozen["embed"])
DRAW = np.random.default_rng(3)
SHOWN = tokens(jnp.asarray(DRAW.integers(3, 30, (2, 11)), jnp.int32))
"""Demonstrations with a query of their own; two orders of them."""


def through(ids, layer=None, vector=None, before=False):
    """The states behind each layer [3 L D] of a text of ids."""
    length = len(ids)
    h = EMBED[ids] + np.sin(np.arange(length)[:, None] / 2.0 ** np.arange(8))
    out = []
    for i, mix in enumerate(MIXES):
        if before and i == layer:
            h[-1] = vector
        score = np.where(np.tri(length), np.exp(h @ mix @ h.T), 0)
        h = np.tanh(h + score / score.sum(1, keepdims=True) @ h @ mix)
        if not before and i == layer:
            h[-1] = vector
        out.append(h.copy())
    return np.stack(out)


def vector(layer):
    return np.mean([through(np.asarray(row))[layer, -1] for row in SHOWN.value], 0)


def answer(ids, layer, before=False):
    end = through(ids, layer, vector(layer), before)[-1, -1]
    return end @ EMBED[LABELS].T


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_query_goes_on_with_the_vector(layer):
    program = task_vectors(DEEP, ALIGN, layer=layer)
    params = of_demonstrations(program, DEEP, SHOWN)
    found = params.fixed[f"block_{layer}:out"]
    np.testing.assert_allclose(found, vector(layer), atol=1e-5)
    x = TASK.train.x
    found = program.apply(params, DEEP.frozen, x)
    rows = np.stack([answer(ids, layer) for ids in x.value])
    np.testing.assert_allclose(found, rows, rtol=1e-3, atol=1e-5)
    early = np.stack([answer(ids, layer, before=True) for ids in x.value])
    assert not np.allclose(found, early, atol=0.01)  # at what enters the layer
    assert (np.ptp(found, 0).max() < 1e-5) == (layer == 2)  # nothing of a query is left


def test_the_vector_stands_at_the_last_word_before_padding():
    program = task_vectors(DEEP, ALIGN, layer=0)
    params = of_demonstrations(program, DEEP, SHOWN)
    ids = jnp.asarray(TASK.train.x.value)
    weight = np.ones((len(ids), 8), np.float32)
    weight[:, 5:] = 0
    padded = tokens(jnp.pad(ids, ((0, 0), (0, 3))), jnp.asarray(weight))
    found = program.apply(params, DEEP.frozen, padded)
    short = program.apply(params, DEEP.frozen, tokens(ids))
    np.testing.assert_allclose(found, short, rtol=1e-4, atol=1e-6)


def test_the_layer_is_chosen_by_validation():
    x, y, _ = TASK.train
    said = [[answer(ids, layer).argmax() for ids in x.value] for layer in range(3)]
    right = [np.mean(one == y) for one in np.array(said)]
    assert len(set(right)) > 1
    assert best_layer(DEEP, ALIGN, SHOWN, TASK.train) == int(np.argmax(right))


def test_the_way(tmp_path):
    arguments = {"layer": 1, "labels": LABELS}
    train = lambda program: of_demonstrations(program, DEEP, SHOWN)
    says = "fixed hidden concatenative -> rule"
    walk(METHOD, DEEP, TASK, tmp_path, says, arguments=arguments, train=train)
