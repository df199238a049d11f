"""Vocabulary remapping (arXiv 1809.01829) against loops, torch, and the bare model.

The wrong variants: mixtures in evaluation, or noise; neighbours by index, so that
padding counts as letters; a kernel that is turned round; a temperature that stays.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_languages import KEY, QUERIES, WIDTH, V, card

from reprojax import chain, record, reprogram
from reprojax.alignments import label_words
from reprojax.core import HEAD, Params, Scope, padded
from reprojax.formats import learnable
from reprojax.models.language.remapping import remap
from reprojax.operators import insert
from reprojax.recipes.model_reprogramming import vocabulary_remapping
from reprojax.recipes.model_reprogramming.vocabulary_remapping import METHOD
from reprojax.taxonomy import describe
from reprojax.testing import contract
from reprojax.training.losses import Seen, cross_entropy
from reprojax.training.steps import begin, train_step

LETTERS, SITE, WORDS = 10, "embed:out", "embed:out/words"


def net(width=5, words=V, letters=LETTERS):
    random = np.random.default_rng(3)
    kernel, bias = (
        random.normal(size=(width, letters, words)),
        random.normal(size=words),
    )
    return {"kernel": jnp.asarray(kernel, "f4"), "bias": jnp.asarray(bias, "f4")}


def started(program, language, x, **kw):
    params = program.init(KEY, language.frozen, x)
    return params._replace(learnable={**params.learnable, SITE: net(**kw)})


def scores_by_hand(net, row):
    """[L N] of one text without padding: the letters beside each, in their order."""
    kernel, bias = (np.asarray(net[name], float) for name in ("kernel", "bias"))
    found = np.tile(bias, (len(row), 1))
    for i in range(len(row)):
        for j in range(len(kernel)):
            k = i + j - len(kernel) // 2
            if 0 <= k < len(row):
                found[i] += kernel[j, row[k]]
    return found


@pytest.mark.parametrize("kind", ["rotary", "learned"])
def test_evaluation_is_the_bare_model_on_true_words(kind):
    language = card(kind)
    program = vocabulary_remapping(language, letters=LETTERS)
    run = jax.jit(record(program.apply, [SITE, WORDS]))
    bare = jax.jit(record(language.forward, [SITE]))
    for side in ("left", "right"):
        x = padded(QUERIES, side, 8)
        params = started(program, language, x)
        y, seen = run(params, language.frozen, x)
        words = seen[WORDS]
        expected, plain = bare(language.frozen, x._replace(value=words))
        np.testing.assert_array_equal(seen[SITE].value, plain[SITE].value)
        np.testing.assert_allclose(y.value, expected.value, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(y.position, x.position)
        for i, row in enumerate(QUERIES):
            start = 8 - len(row) if side == "left" else 0
            by_hand = scores_by_hand(net(), row).argmax(-1)
            np.testing.assert_array_equal(words[i, start : start + len(row)], by_hand)


def alone(m, params, x, key=None):
    """(value, {tap: value}) of the manipulation at the embedding, without the model."""
    language, seen = card("rotary"), {}
    tap = lambda name, value: seen.setdefault(name, value)
    scope = Scope(SITE, frozen=language.frozen, x=x, key=key, tap=tap)
    value = x._replace(value=jnp.full((*x.value.shape, WIDTH), jnp.nan))
    return m.apply(params, value, scope).value, seen


def table():
    return np.asarray(card("rotary").frozen["params"]["embed"]["embedding"], float)


def test_training_mixes_the_table_by_a_gumbel_softmax_that_cools():
    """The noise and the temperature by hand, at four steps of the way."""
    x, key = padded([QUERIES[0], QUERIES[0][::-1]]), jax.random.key(7)
    m = remap(card("rotary"), LETTERS, temperatures=(2.0, 0.5), steps=10)
    noise = np.asarray(jax.random.gumbel(key, (2, 6, V)), float)
    scores = np.stack([scores_by_hand(net(), row) for row in np.asarray(x.value)])
    for step, temperature in ((0, 2.0), (4, 1.4), (10, 0.5), (99, 0.5)):
        found, news = alone(m, Params(net(), {"step": jnp.asarray(step)}), x, key)
        z = np.exp((scores + noise) / temperature)
        mixed = z / z.sum(-1, keepdims=True)
        np.testing.assert_allclose(found, mixed @ table(), rtol=2e-4, atol=2e-5)
        assert news["fixed"]["step"] == step + 1


def test_only_the_words_told_are_chosen():
    x, words = padded(QUERIES), [2, 19, 7]
    m = remap(card("rotary"), LETTERS, words=words)
    fixed = {"step": jnp.asarray(0), "words": jnp.asarray(words)}
    rows = table()[words]
    for key in (None, jax.random.key(1)):
        found, seen = alone(m, Params(net(words=3), fixed), x, key)
        found = np.asarray(found).reshape(-1, WIDTH)
        share = np.linalg.lstsq(rows.T, found.T, rcond=None)[0]
        np.testing.assert_allclose(rows.T @ share, found.T, atol=1e-4)
        np.testing.assert_allclose(share.sum(0), 1, atol=1e-4)
        if key is None:
            best = [
                words[i] for i in scores_by_hand(net(words=3), QUERIES[0]).argmax(1)
            ]
            assert seen["words"][0].tolist() == best


def test_an_unknown_letter_is_nan():
    x = padded([[1, 2], [3, LETTERS], [-1, 3]])
    m = remap(card("rotary"), LETTERS)
    params = Params(net(), {"step": jnp.asarray(0)})
    for key in (None, jax.random.key(0)):
        lost = np.isnan(alone(m, params, x, key)[0]).all(-1)
        assert lost.tolist() == [[False, False], [False, True], [True, False]]


def test_more_letters_than_words():
    """What the model makes of their ids itself is NaN, and dropped."""
    language, x = card("rotary"), padded([[V + 3, 2], [0, V + 9]])
    program = vocabulary_remapping(language, label_words([0, 1]), letters=V + 10)
    params = program.init(KEY, language.frozen, x)
    run = jax.jit(jax.value_and_grad(lambda learnable: program.apply(
        params._replace(learnable=learnable), language.frozen, x, key=KEY
    ).sum()))  # fmt: skip
    y, slope = run(params.learnable)
    assert np.isfinite(y) and all(np.isfinite(a).all() for a in jax.tree.leaves(slope))


def test_a_prompt_may_stand_behind_it_in_a_chain():
    language, x = card("rotary"), padded(QUERIES)
    soft = insert(learnable(jax.nn.initializers.normal(1.0)), 2)
    both = chain(words=remap(language, LETTERS), prompt=soft)
    program = reprogram(language.forward, {SITE: both})
    params = program.init(KEY, language.frozen, x)
    y = jax.eval_shape(program.apply, params, language.frozen, x)
    assert y.value.shape == (3, 8, V)


@pytest.mark.verify
def test_the_published_convolution():
    """Conv1d over one-hot letters, zeros beyond the ends (the code's seq_rewriter)."""
    torch = pytest.importorskip("torch")
    language, own = card("rotary"), net()
    x = padded([QUERIES[0], QUERIES[0][::-1]])
    one_hot = torch.nn.functional.one_hot(
        torch.tensor(np.asarray(x.value)).long(), LETTERS
    )
    kernel = torch.tensor(np.asarray(own["kernel"]).transpose(2, 1, 0))
    scores = torch.nn.functional.conv1d(
        one_hot.float().permute(0, 2, 1),
        kernel,
        torch.tensor(np.asarray(own["bias"])),
        padding=2,
    )
    _, seen = alone(remap(language, LETTERS), Params(own, {"step": jnp.asarray(0)}), x)
    np.testing.assert_array_equal(seen["words"], scores.argmax(1).numpy())


# -- it learns, and keeps the contract


def test_the_default_settings_learn():
    """A letter's parity: the loss of the words themselves falls below two thirds of
    what guessing has, in 200 steps. In the median of five seeds: the words are the
    likeliest ones, which a single step may still change, on each CPU at another one."""
    language, ids = card("rotary"), np.random.default_rng(0).integers(0, 8, (64, 5))
    x, labels = padded(ids.tolist()), jnp.asarray(ids[:, 0] % 2)
    program = vocabulary_remapping(language, label_words([0, 1]), letters=8, steps=100)
    optimizer = METHOD.preset.optimizer(METHOD.preset.learning_rate, 200, 1)
    hard = jax.jit(lambda p: program.apply(p, language.frozen, x))
    cost = lambda p: cross_entropy(Seen({"output": hard(p)}, labels)).mean()
    fixed, ends = (program, optimizer, cross_entropy, ()), []
    for seed in range(5):
        state = begin(program, optimizer, language.frozen, x, seed, 1)
        first = cost(state.params)
        for _ in range(200):
            state = train_step(*fixed, state, language.frozen, x, labels)
        assert state.params.fixed[SITE]["step"] == 200
        ends.append((first, cost(state.params)))
    first, last = np.median(ends, 0)
    assert last < 0.66 * np.log(2) < first, (first, last)


def test_the_contract():
    language, x = card("rotary"), padded(QUERIES, "left")
    program = vocabulary_remapping(
        language, label_words([0, 1, 2]), letters=LETTERS, width=3, words=range(8)
    )
    found = contract(
        program,
        language.frozen,
        x,
        jnp.array([0, 2, 1]),
        shape=(3, 3),
        key=jax.random.key(3),
        forward=language.forward,
    )
    assert found.learnable == 3 * LETTERS * 8 + 8 and found.fixed == 1 + 8
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "learnable embedding parametric -> rule"


# -- bad input


def test_what_does_not_fit_is_refused():
    language = card("rotary")
    for kw, match in (
        ({"letters": 0}, "letters=0"),
        ({"width": 4}, "an odd width"),
        ({"steps": 0}, "at least one step"),
        ({"words": [V]}, f"the ids {V}..{V}"),
        ({"words": []}, "no ids"),
    ):
        with pytest.raises(ValueError, match=match):
            vocabulary_remapping(language, **{"letters": LETTERS, **kw})
    x = padded(QUERIES)
    longer = chain(
        prompt=insert(learnable(jax.nn.initializers.normal(1.0)), 2),
        words=remap(language, LETTERS),
    )
    with pytest.raises(ValueError, match="8 words for a text of 6 letters"):
        reprogram(language.forward, {SITE: longer}).init(KEY, language.frozen, x)
    params = Params(net(), {"step": jnp.asarray(0)})
    with pytest.raises(ValueError, match="whole: False"):
        alone(remap(language, LETTERS), params, x._replace(span=HEAD))
    elsewhere = language._replace(roles={"embedding": ("block_0:in",)})
    with pytest.raises(ValueError, match="no table at params/block_0/embedding"):
        vocabulary_remapping(elsewhere, letters=LETTERS)
