"""Prompts as values: a stacked batch is the separate batches, and so on.

The wrong variants: one index for the whole batch; a number that there is not served by
a neighbour; a table that is compared by its products; a path that misses its ends.
"""

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assets import smollm2
from recipes.small_languages import KEY, QUERIES, WIDTH, V, card

from reprojax import decoding, reprogram
from reprojax.alignments import columns, label_words, last
from reprojax.core import Params, chain, padded, tokens
from reprojax.core.many import interpolate, stack, stack_params, stacked
from reprojax.decoding import Sampling
from reprojax.formats import fixed, learnable, subspace
from reprojax.models.language import Tokenizer, load
from reprojax.models.language.starts import from_text
from reprojax.models.language.words import nearest_words
from reprojax.operators import add, insert
from reprojax.recipes import watermark
from reprojax.recipes.prompt_tuning import loreft, prefix_tuning, prompt_tuning
from reprojax.taxonomy import describe
from reprojax.testing import contract

P, K = 3, 4
INDEX = np.array([2, 0, 2])
ANSWERS = label_words((11, 6, 17))
MAKE = {
    "soft": lambda language: prompt_tuning(language, ANSWERS, length=P),
    "prefix": lambda language: prefix_tuning(language, ANSWERS, length=P, hidden=None),
    "mlp": lambda language: prefix_tuning(language, ANSWERS, length=P, hidden=8),
    "loreft": lambda language: loreft(language, ANSWERS, rank=2, first=2, last=2),
}
X = padded(QUERIES, "left")


def drawn(program, language, count=K):
    """Params as `init` makes them, and others beside."""
    first = program.init(KEY, language.frozen, X)
    draw = np.random.default_rng(count)
    moved = lambda a: a + draw.standard_normal(a.shape).astype(a.dtype)
    more = [jax.tree.map(moved, first.learnable) for _ in range(count - 1)]
    return [first, *(first._replace(learnable=own) for own in more)]


def soft(language, **more):
    """A program that writes, and K params of it."""
    program = prompt_tuning(language, length=P, **more)
    return program, drawn(program, language)


# -- many in one call


@pytest.mark.parametrize(
    "name, kind",
    [("soft", "rotary"), ("soft", "learned"), ("prefix", "learned")]
    + [("mlp", "rotary"), ("loreft", "rotary")],
)
def test_a_stacked_batch_is_the_separate_batches(name, kind):
    language = card(kind)
    program = MAKE[name](language)
    each = drawn(program, language)
    together = jax.jit(stacked(language.forward, program, K).apply)
    alone = jax.jit(program.apply)
    for x in (X, padded(QUERIES, "right")):
        y = together(stack_params(each), language.frozen, x, INDEX)
        every = np.stack([alone(own, language.frozen, x) for own in each])
        np.testing.assert_allclose(y, every[INDEX, range(3)], atol=1e-6)
        assert np.abs(every[2] - every[0]).max() > 1e-3


def test_images_and_their_label_maps_too():
    backbone, photos = backbones.transformer(), backbones.photos(3)
    program = watermark(backbone, targets=5)
    each = []
    for i in range(2):
        random = lambda a, i=i: jax.random.normal(jax.random.key(i), a.shape)
        first = program.init(KEY, backbone.frozen, photos)
        each.append(jax.tree.map(random, first))
    together = stacked(backbone.forward, program, 2)
    run, index = jax.jit(together.apply), np.array([1, 0, 1])
    y = run(stack_params(each), backbone.frozen, photos, index)
    every = [jax.jit(program.apply)(own, backbone.frozen, photos) for own in each]
    np.testing.assert_allclose(y, np.stack(every)[index, range(3)], atol=1e-6)


def test_its_params_are_the_vmapped_ones():
    language = card("rotary")
    program = MAKE["soft"](language)
    together = stacked(language.forward, program, K)
    params = together.init(KEY, language.frozen, X, INDEX)
    each = drawn(program, language)
    same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype
    assert jax.tree.all(jax.tree.map(same, params, stack_params(each)))
    assert len({leaf.tobytes() for leaf in np.asarray(*jax.tree.leaves(params))}) == K
    every = jax.jit(jax.vmap(program.apply, (0, None, None)))
    found = jax.jit(together.apply)(params, language.frozen, X, INDEX)
    expected = every(params, language.frozen, X)[INDEX, np.arange(3)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    seen = describe(together, language.frozen, X, INDEX, roles=language.roles)
    assert seen.coordinates == "learnable embedding concatenative -> rule"


def test_one_compilation_serves_all_prompts_and_numbers():
    language, traces = card("rotary"), []
    together = stacked(language.forward, MAKE["prefix"](language), K)

    @jax.jit
    def run(*given):
        traces.append(1)
        return together.apply(*given)

    params = stack_params(drawn(MAKE["prefix"](language), language))
    for seed in range(3):
        params = jax.tree.map(lambda a: 0.9 * a, params)
        index = np.random.default_rng(seed).integers(0, K, 3)
        run(params, language.frozen, X, index)
    assert len(traces) == 1


@pytest.mark.slow
def test_the_contract():
    """Among others: no frozen leaf is copied, and a row alone is its row."""
    language = card("rotary")
    together = stacked(language.forward, MAKE["soft"](language), 2)
    x = padded([*QUERIES, [4, 4, 4]], "left")
    labels, index = jnp.array([0, 2, 1, 1]), jnp.array([1, 0, 0, 1])
    found = contract(together, language.frozen, x, labels, index, shape=(4, 3))
    assert found.learnable == 2 * P * WIDTH


def test_no_frozen_leaf_is_copied_for_a_row():
    """Compiled, it holds no more than the one program beyond the rows' own prompts."""
    language = card("rotary")
    program = MAKE["soft"](language)
    x = padded(QUERIES * 20)
    each = drawn(program, language)

    def temporary(apply, *given):
        compiled = jax.jit(apply).lower(*given).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one = temporary(program.apply, each[0], language.frozen, x)
    index = np.arange(60) % K
    given = (stack_params(each), language.frozen, x, index)
    many = temporary(stacked(language.forward, program, K).apply, *given)
    prompts = 60 * P * WIDTH * 4
    frozen = sum(a.nbytes for a in jax.tree.leaves(language.frozen))
    assert many < one + 3 * prompts < one + 3 * frozen


def test_the_gradient_reaches_the_rows_that_are_used():
    language = card("rotary")
    program = MAKE["soft"](language)
    together, each = stacked(language.forward, program, K), drawn(program, language)

    @jax.jit
    def pull(params):
        cost = lambda p: (together.apply(p, language.frozen, X, INDEX) ** 2).sum()
        return jax.grad(cost)(params)

    (found,) = jax.tree.leaves(pull(stack_params(each)))
    np.testing.assert_array_equal(found[jnp.array([1, 3])], 0.0)
    cost = lambda p: (program.apply(p, language.frozen, X)[np.array([0, 2])] ** 2).sum()
    (own,) = jax.tree.leaves(jax.jit(jax.grad(cost))(each[2]))
    np.testing.assert_allclose(found[2], own, rtol=1e-4, atol=1e-5)
    assert np.abs(found[0]).max() > 0


def test_some_parts_may_be_for_all():
    """A head that all prompts share: the manipulation is stacked alone."""
    language = card("rotary")
    (site,) = language.roles["embedding"]
    one = insert(learnable(jax.nn.initializers.normal(1.0)), P)
    words = chain(last=last(), words=columns((1, 2)))
    moved = add(learnable(jax.nn.initializers.normal(1.0)))
    at = {site: stack(one, K), "output": chain(words=words, bias=moved)}
    program = reprogram(language.forward, at)
    params = program.init(KEY, language.frozen, X, INDEX)
    assert params.learnable[site].shape == (K, P, WIDTH)
    assert params.learnable["output"]["bias"].shape == (2,)
    y = jax.jit(program.apply)(params, language.frozen, X, INDEX)
    single = reprogram(language.forward, at | {site: one})
    own = params.learnable | {site: params.learnable[site][2]}
    expected = jax.jit(single.apply)(Params(own, params.fixed), language.frozen, X)
    np.testing.assert_allclose(y[0], expected[0], atol=1e-6)


def test_demonstrations_by_row():
    """Ids that are never trained: each row has its own text in front."""
    language, texts = card("rotary"), ([9, 4, 4], [5, 1, 7])
    shown = [
        reprogram(language.forward, {"input": insert(fixed(np.array(ids)), 3)})
        for ids in texts
    ]
    each = [program.init(KEY, language.frozen, X) for program in shown]
    together = jax.jit(stacked(language.forward, shown[0], 2).apply)
    index = np.array([1, 0, 1])
    y = together(stack_params(each), language.frozen, X, index)
    whole = padded([texts[i] + q for i, q in zip(index, QUERIES, strict=True)], "left")
    expected = language.forward(language.frozen, whole)
    np.testing.assert_allclose(
        y.value[:, -1], expected.value[:, -1], atol=3e-5
    )  # padding on the left: the last is real
    y = together(stack_params(each), language.frozen, X, np.array([1, 2, -1]))
    assert np.isnan(y.value[1:]).all() and np.isfinite(y.value[0]).all()


# -- they are written from


@pytest.mark.parametrize("name", ["soft", "prefix"])
def test_each_row_writes_by_its_own_prompt(name):
    language = card("rotary")
    make = prefix_tuning if name == "prefix" else prompt_tuning
    more = {"hidden": None} if name == "prefix" else {}
    program = make(language, length=P, **more)
    each = drawn(program, language)
    params, frozen = stack_params(each), language.frozen
    together = stacked(language.forward, program, K)
    keys, warm = jax.random.split(jax.random.key(5), 3), Sampling(0.7)
    write = jax.jit(decoding.generate(together, 5, samples=2))
    found = write(params, frozen, X, keys, warm, INDEX)
    alone = jax.jit(decoding.generate(program, 5, samples=2))
    every = [alone(own, frozen, X, keys, warm) for own in each]
    for row, k in enumerate(np.repeat(INDEX, 2)):
        np.testing.assert_array_equal(found.ids[row], every[k].ids[row])
        np.testing.assert_allclose(found.logp[row], every[k].logp[row], atol=1e-5)
    assert (np.asarray(every[0].ids) != every[2].ids).any()
    wrong = write(params, frozen, X, keys, warm, np.array([2, K, 2]))
    bad = np.isnan(wrong.logp).any(1)
    np.testing.assert_array_equal(bad, [False, False, True, True, False, False])


def test_what_is_shared_may_be_one_of_many():
    """The prompt lives in the cache from then on: a batch of its own for each."""
    language, frozen = card("rotary"), card("rotary").frozen
    program, each = soft(language)
    together = stacked(language.forward, program, K)
    share = jax.jit(lambda p, i: decoding.share(together, p, frozen, [7, 3], i))
    read = lambda p, x, *rest: decoding.prefill(
        together, p, frozen, x, *rest, last=True
    )
    go_on, alone = jax.jit(lambda *given: read(*given)[0]), jax.jit(program.apply)
    for k in (1, 3):
        cache = share(stack_params(each), jnp.array([k]))
        x = tokens(X.value, X.weight, start=2)
        numbers = jnp.full(3, k)
        y = go_on(stack_params(each), x, numbers, cache)
        whole = padded([[7, 3, *query] for query in QUERIES], "left")
        expected = alone(each[k], frozen, whole).value[:, -1]
        np.testing.assert_allclose(y.value[:, 0], expected, atol=3e-5)


def test_scores_are_each_rows_own():
    language, frozen = card("learned"), card("learned").frozen
    program, each = soft(language)
    together = stacked(language.forward, program, K)
    ids = jnp.array([[[3, 5], [8, 2]]] * 3)
    given = (frozen, X, ids, jnp.ones(ids.shape))
    found = jax.jit(decoding.log_probabilities(together))(
        stack_params(each), *given, INDEX
    )
    alone = jax.jit(decoding.log_probabilities(program))
    every = np.stack([alone(own, *given) for own in each])
    np.testing.assert_allclose(found, every[INDEX, range(3)], atol=1e-5)


# -- bad numbers, bad params


def test_a_wrong_number_is_refused_or_no_number():
    language = card("rotary")
    program = MAKE["soft"](language)
    together = stacked(language.forward, program, K)
    params, run = stack_params(drawn(program, language)), jax.jit(together.apply)
    whole = (None, 2, [0, 1, 2], np.zeros(2, int), np.zeros((3, 1), int), np.zeros(3))
    for index in (*whole, np.zeros(3, bool)):
        with pytest.raises(ValueError, match=r", expected an array \[3\] of num"):
            together.apply(params, language.frozen, X, index)
    for index in (np.array([0, K, 1]), np.array([0, -1, 1])):
        with pytest.raises(ValueError, match=r"index \[ ?0.* 0 to 3: which of the 4"):
            together.apply(params, language.frozen, X, index)
        y = run(params, language.frozen, X, index)
        assert np.isnan(y[1]).all() and np.isfinite(y[jnp.array([0, 2])]).all()
    with pytest.raises(ValueError, match="got the index .* expected an array"):
        run(params, language.frozen, X, np.zeros(2, int))
    with pytest.raises(ValueError, match=r"float32\[3, 16\].*a first axis of 4"):
        together.apply(drawn(program, language)[0], language.frozen, X, INDEX)
    with pytest.raises(ValueError, match=r"float32\[3, 3, 16\].*a first axis of 4"):
        few = stack_params(drawn(program, language)[:3])
        together.apply(few, language.frozen, X, INDEX)


def test_only_params_of_one_program_are_stacked():
    language = card("rotary")
    with pytest.raises(ValueError, match="got no params"):
        stack_params([])
    long = prompt_tuning(language, ANSWERS, length=P + 2)
    each = [drawn(make, language)[0] for make in (MAKE["soft"](language), long)]
    with pytest.raises(ValueError, match="params 1 and 0 are not of one prog") as error:
        stack_params([each[0], each[1]])
    line = "learnable/embed:out: got float32[5, 16], expected float32[3, 16]"
    assert line in str(error.value)
    with pytest.raises(ValueError, match="params 2 and 0"):
        prefix = drawn(MAKE["prefix"](language), language)[0]
        stack_params([each[0], each[0], prefix])


# -- between two


def test_a_path_has_its_ends_and_is_straight():
    language = card("rotary")
    program = MAKE["soft"](language)
    a, b = drawn(program, language)[:2]
    site = "embed:out"
    for t, end in ((0, a), (1, b), (0.0, a), (1.0, b)):
        found = interpolate(a, b, t)
        np.testing.assert_array_equal(found.learnable[site], end.learnable[site])
    # b is not far + (b - far) in float32
    far = a._replace(learnable=jax.tree.map(lambda v: 1000 * v, a.learnable))
    found = interpolate(far, b, 1)
    np.testing.assert_array_equal(found.learnable[site], b.learnable[site])
    path = interpolate(a, b, jnp.linspace(0, 1, 5))
    near = 0.75 * a.learnable[site] + 0.25 * b.learnable[site]
    np.testing.assert_allclose(path.learnable[site][1], near, rtol=1e-6)
    np.testing.assert_array_equal(path.learnable[site][0], a.learnable[site])
    np.testing.assert_array_equal(path.learnable[site][4], b.learnable[site])
    x = padded(QUERIES[:1] * 5)
    together = stacked(language.forward, program, 5)
    y = jax.jit(together.apply)(path, language.frozen, x, np.arange(5))
    alone = jax.jit(program.apply)
    for i, t in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        own = interpolate(a, b, t)
        expected = alone(own, language.frozen, x)[0]
        np.testing.assert_allclose(y[i], expected, atol=1e-6)


def test_what_is_fixed_is_one_for_both():
    fmt = subspace(2, learnable(jax.nn.initializers.normal(1.0)))
    language = card("rotary")
    program = prompt_tuning(language, ANSWERS, length=P, initial=fmt)
    keys = jax.random.split(KEY)
    a, b = (program.init(key, language.frozen, X) for key in keys)
    with pytest.raises(ValueError, match="whose fixed parts differ"):
        interpolate(a, b, 0.5)
    b = Params(jax.tree.map(lambda z: z + 2, b.learnable), a.fixed)
    found = interpolate(a, b, jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(found.learnable["embed:out"], [[0, 0], [1, 1]])
    matrix = lambda params: params.fixed["embed:out"]["matrix"]
    np.testing.assert_array_equal(matrix(found)[1], matrix(a))
    with pytest.raises(ValueError, match="not of one program"):
        interpolate(a, drawn(MAKE["soft"](language), language)[0], 0.5)


def test_a_half_precision_prompt_stays_one():
    a, b = (Params({"p": jnp.full(3, v, jnp.bfloat16)}, {"p": ()}) for v in (1.0, 3.0))
    found = interpolate(a, b, jnp.array([0.0, 0.5])).learnable["p"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), [[1] * 3, [2] * 3])


# -- what they read as


WORDS = Tokenizer(
    lambda text, special=True: [],
    lambda ids: "".join("" if i == 4 else f" w{i}" for i in ids),  # 4 is special
    lambda word: None,
    lambda i: f"<{i}>",
    V,
)


@pytest.mark.parametrize("kind", ["rotary", "learned"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_prompt_of_words_reads_as_these(kind, metric):
    language = card(kind)._replace(tokenizer=WORDS)
    text = [9, 4, 21, 0]
    program = prompt_tuning(language, length=4, initial=from_text(language, text))
    params = program.init(KEY, language.frozen, X)
    found = nearest_words(language, params, 2, metric=metric)
    assert [row[0].id for row in found] == text
    assert [row[0].word for row in found] == [" w9", "<4>", " w21", " w0"]
    best = 1.0 if metric == "cosine" else 0.0
    np.testing.assert_allclose([row[0].similarity for row in found], best, atol=1e-6)
    assert all(row[1].similarity < row[0].similarity for row in found)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_order_is_that_by_hand(metric, monkeypatch):
    from reprojax.models.language import words as prompts

    monkeypatch.setattr(prompts, "BLOCK", 7)  # 23 words in blocks of 7
    prompts._nearest.clear_cache()
    language = card("rotary")
    rows = np.random.default_rng(4).standard_normal((5, WIDTH))
    table = np.asarray(language.frozen["params"]["embed"]["embedding"], np.float64)
    if metric == "cosine":
        unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
        near = unit(rows) @ unit(table).T
    else:
        near = -np.linalg.norm(rows[:, None] - table, axis=-1)
    found = nearest_words(language, rows, V, metric)
    for own, row in zip(near, found, strict=True):
        ids = np.argsort(-own)
        assert [n.id for n in row] == ids.tolist()
        np.testing.assert_allclose([n.similarity for n in row], own[ids], atol=1e-5)
        assert row[0].word == str(row[0].id)  # a model without a tokeniser
    prompts._nearest.clear_cache()


def test_the_table_is_an_argument():
    """In a closure it would be text in the program."""
    from reprojax.models.language.words import _nearest

    language = card("rotary")
    args = (language.forward, "embed:out", V, 2, "cosine", language.frozen)
    text = _nearest.lower(*args, jnp.ones((P, WIDTH))).as_text()
    assert "dense_resource" not in text and len(text) < 20_000
    assert f"tensor<{V}x{WIDTH}xf32>" in text.split("{", 2)[2].split("->")[0]


def test_what_cannot_be_read_is_refused(unchecked):
    language = card("rotary")
    prefix = drawn(MAKE["prefix"](language), language)[0]
    rows = jnp.ones((P, WIDTH))
    for prompt in (prefix, rows[0], jnp.ones((P, 5)), jnp.ones((2, P, WIDTH))):
        with pytest.raises(ValueError, match=rf"expected vectors \[P, {WIDTH}\]"):
            nearest_words(language, prompt)
    with pytest.raises(ValueError, match="not finite"):
        nearest_words(language, rows.at[1, 2].set(jnp.nan))
    for count in (0, V + 1):
        with pytest.raises(ValueError, match=f"count={count}.*expected 1 to {V}"):
            nearest_words(language, rows, count)
    with pytest.raises(ValueError, match="'dot', expected .* 'cosine'"):
        nearest_words(language, rows, 2, "dot")


@pytest.mark.verify
def test_a_large_vocabulary():
    """SmolLM2's 49,152 words in blocks: a prompt of a text reads as this text."""
    language = load(smollm2(), dtype=jnp.bfloat16)
    text = "Classify the sentiment of this review:"
    ids = language.input.tokenizer.encode(text, special=False)
    program = prompt_tuning(language, length=len(ids), initial=from_text(language, ids))
    x = tokens(jnp.zeros((1, 4), int))
    params = program.init(KEY, language.frozen, x)
    for metric in ("cosine", "euclidean"):
        found = nearest_words(language, params, 1, metric)
        assert "".join(near.word for (near,) in found) == text
