"""A run on the cached values of texts is the run on the texts.

The wrong variants: the words alone, without their places and padding; a value whose
padding the blocks above take from the texts anew; one file for several arrays.
"""

import jax
import numpy as np
import optax
import pytest
from fitting import bits
from jax.nn.initializers import normal
from recipes.small_languages import V, card

from reprojax import record, reprogram
from reprojax.alignments import linear, mean
from reprojax.core import Tokens, chain, padded
from reprojax.data import Split, Task
from reprojax.formats import learnable
from reprojax.models import role
from reprojax.operators import insert, prefix
from reprojax.testing.compiled import operations
from reprojax.training.caches import cached
from reprojax.training.loop import fit

PROMPT = learnable(normal(0.1))
RUN = {"epochs": 3, "batch": 4, "optimizer": optax.sgd(0.05), "progress": False}


def split(count, seed):
    """Texts of two to six words, whose class is that of the first one."""
    draw = np.random.default_rng(seed)
    rows = [draw.integers(2, V, draw.integers(2, 7)).tolist() for _ in range(count)]
    x = jax.tree.map(np.asarray, padded(rows, "left", 6))
    return Split(x, np.array([row[0] % 2 for row in rows], np.int32))


TASK = Task("words", split(11, 1), split(7, 2), split(5, 3), ("a", "b"), holds="tokens")


def programs(language):
    """{what: (program, the role of the site whose values are kept, its index)}"""
    end = chain(read=mean(), head=linear(2))
    block, kv = (role(language, name)[1] for name in ("blocks", "kv"))
    at = {
        "words in front of a block": {block: insert(PROMPT, 2), "output": end},
        "keys and values": {kv: prefix(PROMPT, 2), "output": end},
        "an alignment alone": {"output": end},
    }
    return {what: reprogram(language.forward, own) for what, own in at.items()}


@pytest.mark.parametrize("kind", ["rotary", "learned", "encoder"])
@pytest.mark.parametrize("what", programs(card("rotary")))
def test_a_run_on_values_is_the_run_on_texts(what, kind, tmp_path):
    language = card(kind)
    program = programs(language)[what]
    above, frozen, task = cached(
        program, language.frozen, TASK, batch=4, folder=tmp_path, progress=False
    )
    wanted = "output/raw" if what == "an alignment alone" else "block_1:in"
    assert task.holds.removesuffix("/raw") == wanted.removesuffix("/raw")
    assert isinstance(task.train.x, Tokens)
    _, seen = record(language.forward, [wanted.removesuffix("/raw")])(
        frozen, TASK.train.x
    )
    (found,) = seen.values()
    for a, b in zip(*map(jax.tree.leaves, (task.train.x, found)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    one = fit(program, frozen, TASK, **RUN)
    two = fit(above, frozen, task, **RUN)
    assert one.score == two.score
    for a, b in zip(*map(jax.tree.leaves, (one[:2], two[:2])), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    again = cached(program, frozen, TASK, folder=tmp_path, batch=4, progress=False)
    assert bits(again[2].test.x) == bits(task.test.x)


def test_what_lies_below_is_not_in_the_compiled_step():
    language = card("rotary")
    program = programs(language)["words in front of a block"]
    above, frozen, task = cached(program, language.frozen, TASK, progress=False)
    params = program.init(jax.random.key(0), frozen, TASK.train.x)
    whole = operations(program.apply, params, frozen, TASK.train.x)
    assert operations(above.apply, params, frozen, task.train.x) < 0.8 * whole


def test_each_array_has_a_file_and_a_torn_one_is_told(tmp_path):
    language = card("rotary")
    program = programs(language)["an alignment alone"]
    given = program, language.frozen, TASK
    cached(*given, folder=tmp_path, progress=False)
    names = sorted(path.name for path in tmp_path.glob("*.npy"))
    assert len(names) == 9 and names[:3] == ["test.0.npy", "test.1.npy", "test.2.npy"]
    path = tmp_path / "train.2.npy"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"train\.2\.npy is damaged"):
        cached(*given, folder=tmp_path, progress=False)


def test_other_weights_of_the_same_words_are_another_cache(tmp_path):
    language = card("rotary")
    given = programs(language)["an alignment alone"], language.frozen
    cached(*given, TASK, folder=tmp_path, progress=False)
    x = TASK.test.x
    moved = TASK.test._replace(x=x._replace(weight=x.weight / 2))
    with pytest.raises(ValueError, match="data: got"):
        cached(*given, TASK._replace(test=moved), folder=tmp_path, progress=False)
