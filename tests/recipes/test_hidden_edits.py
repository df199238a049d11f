"""LoReFT (arXiv 2404.03592) against its formula in NumPy, token by token.

The wrong variants: rows that are not orthonormal; padding that counts as last tokens;
words that are written and edited; the input of the first block for its answer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_languages import KEY, QUERIES, WIDTH, card, losses

from reprojax.core import Scope
from reprojax.engine import generate
from reprojax.recipes.prompt_tuning import label_words, loreft, low_rank_edit
from reprojax.recipes.prompt_tuning.hidden_edits import PRESET
from reprojax.sequence import last_value, padded, tokens
from reprojax.taxonomy import describe
from reprojax.testing import contract

ANSWERS, RANK = (11, 6, 17), 3


def by_hand(language, net, query, asked, first, last):
    """Logits behind a query, of which the `asked` first words are the prompt."""
    net = jax.tree.map(lambda a: np.asarray(a, np.float64), net)
    rows = np.linalg.qr(net["basis"])[0].T
    np.testing.assert_allclose(rows @ rows.T, np.eye(RANK), atol=1e-6)
    weight, bias = net["target"]["kernel"].T, net["target"]["bias"]

    def edit(site, value):
        if site != "block_0:out":
            return value
        h = np.array(value.value, np.float64)
        for i in range(asked):
            if i < first or i >= asked - last:
                old = h[0, i].copy()
                h[0, i] = old + rows.T @ (weight @ old + bias - rows @ old)
        return value._replace(value=jnp.asarray(h, jnp.float32))

    y = language.forward(language.frozen, padded([query]), edit)
    return np.asarray(y.value[0, -1])


@pytest.mark.parametrize("kind, first, last", [("rotary", 1, 2), ("learned", 0, 1)])
def test_the_first_and_last_tokens_are_edited(kind, first, last):
    language = card(kind)
    program = loreft(language, rank=RANK, first=first, last=last)
    params = program.init(KEY, language.frozen, padded(QUERIES))
    net = params.learnable["block_1:in"]
    expected = [by_hand(language, net, q, len(q), first, last) for q in QUERIES]
    run = jax.jit(program.apply)
    for x in (padded(QUERIES), padded(QUERIES, "left"), padded(QUERIES, "right", 9)):
        y = last_value(run(params, language.frozen, x))
        np.testing.assert_allclose(y, expected, atol=1e-4)
    bare = last_value(language.forward(language.frozen, padded(QUERIES)))
    assert np.abs(bare - np.stack(expected)).max() > 0.1


def test_an_edit_sets_one_subspace_and_leaves_the_rest():
    """Behind it R h is W h + b; what is orthogonal to R's rows is as it was."""
    h = np.random.default_rng(0).standard_normal((1, 4, WIDTH)).astype(np.float32)
    x = tokens(jnp.zeros((1, 4), int))._replace(value=jnp.asarray(h))
    edit, scope = low_rank_edit(RANK, first=1, last=2), Scope("block_1:in")
    params = edit.init(KEY, x, scope)
    net, y = params.learnable, np.asarray(edit.apply(params, x, scope).value)
    rows = np.linalg.qr(net["basis"])[0].T
    target = h @ net["target"]["kernel"] + net["target"]["bias"]
    rest = np.eye(WIDTH) - rows.T @ rows
    edited = [0, 2, 3]
    np.testing.assert_allclose((y @ rows.T)[:, edited], target[:, edited], atol=1e-5)
    np.testing.assert_allclose(y @ rest, h @ rest, atol=1e-5)
    np.testing.assert_array_equal(y[:, 1], h[:, 1])


def test_words_that_are_written_are_not_edited():
    """Even where the prompt is shorter than the number of first tokens."""
    language, query = card("rotary"), [8, 7]
    program = loreft(language, rank=RANK, first=4, last=1)
    params = program.init(KEY, language.frozen, padded([query]))
    net = params.learnable["block_1:in"]
    net = jax.tree.map(lambda a: 3 * a, net)  # large enough to be seen in words
    params = params._replace(learnable={"block_1:in": net})
    run = jax.jit(generate(program, 5))
    out = run(params, language.frozen, padded([query]), jax.random.split(KEY, 1))
    whole = list(query)
    for word, logp in zip(out.ids[0].tolist(), out.logp[0], strict=True):
        logits = by_hand(language, net, whole, 2, 4, 1)
        assert word == logits.argmax()
        expected = jax.nn.log_softmax(jnp.asarray(logits))[word]
        np.testing.assert_allclose(logp, expected, atol=1e-3)
        whole.append(word)


def test_the_default_settings_learn():
    """The loss of 32 rows falls below half of what guessing has, in 100 steps."""
    language = card("rotary")
    program = loreft(language, label_words([0, 1]))
    found, _ = losses(program, language, PRESET, 100)
    assert found[-1] < np.log(2) / 2, found[::10]


def test_the_contract():
    language = card("rotary")
    program = loreft(language, label_words(ANSWERS), rank=RANK, first=1, last=1)
    x = padded(QUERIES + [[4, 4, 4, 4, 4, 4]], "left")
    labels = jnp.array([0, 2, 1, 1])
    found = contract(program, language.frozen, x, labels, shape=(4, 3))
    assert found.learnable == 2 * WIDTH * RANK + RANK
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "learnable hidden parametric -> rule"


def test_what_does_not_fit_is_refused():
    language = card("rotary")
    for layers in ([], [1], [-1]):
        with pytest.raises(ValueError, match="expected some of 0..0"):
            loreft(language, layers=layers)
    with pytest.raises(ValueError, match="first=0 and last=0 came"):
        loreft(language, first=0, last=0)
    wide = loreft(language, rank=WIDTH + 1)
    with pytest.raises(ValueError, match=f"a rank of {WIDTH + 1} came"):
        wide.init(KEY, language.frozen, padded(QUERIES))
