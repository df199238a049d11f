"""Steering (arXiv 2308.10248, 2312.06681) against the bare model with other words or
other weights.

The wrong variants: the block before or behind, its input for its output; places by
index where there is padding; a mean over words, or over padding; what is written is not
steered, or the text is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assets import folder_of, official
from small_languages import KEY, QUERIES, WIDTH, V, card

from reprojax.alignments import label_words
from reprojax.core import Scope, last_value, padded, reprogram, tokens
from reprojax.core.sequence import HEAD, STEP
from reprojax.decoding import generate, log_probabilities, share
from reprojax.formats import fixed
from reprojax.models.language import load
from reprojax.models.language.states import contrast, steering
from reprojax.operators import to_answers
from reprojax.recipes.prompt_tuning import activation_addition
from reprojax.taxonomy import describe
from reprojax.testing import contract

SLOW = pytest.mark.slow
KINDS = pytest.mark.parametrize(
    "kind", ["rotary", *(pytest.param(k, marks=SLOW) for k in ("learned", "encoder"))]
)
T, ANSWERS = 5, (11, 6, 17)


def begun(program, language):
    return program.init(KEY, language.frozen, padded(QUERIES))


def plain(language):
    program = reprogram(language.forward, {})
    return program, begun(program, language)


# -- the vectors


@KINDS
@pytest.mark.parametrize("layer", [pytest.param(0, marks=SLOW), 1])
def test_a_prompt_less_the_query_makes_the_query_that_prompt(kind, layer):
    """Behind the block all is the other prompt's; half of it twice is the same."""
    language, query, other = card(kind), QUERIES[0], [8, 8, 2, 20, 1, 7]
    vector = steering(language, other, query, layer)
    assert vector.shape == (6, WIDTH)
    for weight, x in ((1.0, padded([query])), (2.0, padded([query], "left", 9))):
        program = activation_addition(
            language, vector=vector / weight, layer=layer, coefficient=weight
        )
        y = jax.jit(program.apply)(begun(program, language), language.frozen, x)
        expected = jax.jit(language.forward)(language.frozen, padded([other]))
        np.testing.assert_allclose(y.value[:, -6:], expected.value, atol=1e-4)


def test_the_shorter_prompt_is_filled_behind():
    language = card("learned")
    vector = steering(language, [9, 4], [7, 2, 5, 5], 1, fill=3)
    same = steering(language, [9, 4, 3, 3], [7, 2, 5, 5], 1)
    np.testing.assert_array_equal(vector, same)
    np.testing.assert_array_equal(
        -vector, steering(language, [7, 2, 5, 5], [9, 4], 1, 3)
    )


@KINDS
def test_a_contrast_is_the_difference_of_means_at_the_last_words(kind):
    language, wanted = card(kind), [[3, 1, 4], [1, 5, 9, 2, 6], [5], [3, 5]]
    unwanted = [[8, 9, 7, 9], [3, 2]]
    middles = []
    for group in (wanted, unwanted):
        rows = []
        for text in group:
            seen = {}
            spy = lambda site, value, seen=seen: seen.setdefault(site, value)
            language.forward(language.frozen, padded([text], "right", 5), spy)
            ends = [seen[f"block_{i}:out"].value[0] for i in (0, 1)]
            rows.append([np.asarray(words)[len(text) - 1] for words in ends])
        middles.append(np.mean(np.asarray(rows, np.float64), 0))
    for layer in (0, 1):
        found = contrast(language, wanted, unwanted, layer, batch=3)
        right = (middles[0] - middles[1])[layer]
        np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.verify
def test_layers_are_those_of_the_literatures_code(tmp_path):
    """Vectors at the output of each block, the last one's too, and what they do."""
    case = official("caa")
    language = load(folder_of(case, tmp_path))
    groups = case["positive"].tolist(), case["negative"].tolist()
    query = tokens(jnp.asarray(case["query"]))
    for layer, (vector, logits) in enumerate(
        zip(case["vectors"], case["logits_steered"], strict=True)
    ):
        found = contrast(language, *groups, layer)
        np.testing.assert_allclose(found, vector, atol=1e-5)
        times = float(case["multiplier"])
        program = activation_addition(
            language, vector=found, layer=layer, coefficient=times
        )
        params = program.init(KEY, language.frozen, query)
        y = program.apply(params, language.frozen, query).value[0]
        np.testing.assert_allclose(y, logits, atol=1e-5)
        assert np.abs(logits - case["logits_bare"]).max() > 1e-3


# -- where they are added, against a model that holds them in its weights


def with_positions(language, rows):
    """Rows added to the first vectors of positions: that is what enters block 0."""
    own = language.frozen["params"]
    table = own["positions"]["embedding"].at[: len(rows)].add(rows)
    return {"params": own | {"positions": {"embedding": table}}}


def with_bias(language, vector):
    """A vector added to the bias of block 0's last layer: block 0 puts it out."""
    own = language.frozen["params"]
    block = own["block_0"]
    down = block["mlp"]["down"]
    down = down | {"bias": down["bias"] + vector}
    mlp = block["mlp"] | {"down": down}
    return {"params": own | {"block_0": block | {"mlp": mlp}}}


def vectors(*shape):
    return 2 * jax.random.normal(jax.random.key(3), (*shape, WIDTH))


CASES = {
    "first words": (with_positions, vectors(4), 0),
    "every word": (with_bias, vectors(), 0),
}
GENERAL = pytest.mark.parametrize("case", CASES)


@GENERAL
def test_it_is_added_to_the_first_words_or_to_all(case):
    change, vector, layer = CASES[case]
    language = card("learned")
    program = activation_addition(language, vector=vector, layer=layer)
    params, run = begun(program, language), jax.jit(program.apply)
    assert not jax.tree.leaves(params.learnable)
    frozen, bare = change(language, vector), jax.jit(language.forward)
    for query in QUERIES:
        expected = bare(frozen, padded([query], "right", 8))
        for side in ("left", "right"):
            y = run(params, language.frozen, padded([query], side, 8))
            real = np.asarray(y.weight[0]) > 0
            found, right = np.asarray(y.value)[0, real], expected.value[0]
            right = np.asarray(right)[: len(query)]
            np.testing.assert_allclose(found, right, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    "case", ["first words", pytest.param("every word", marks=SLOW)]
)
def test_it_is_written_from(case):
    """A query that is shorter than the steering is steered in what is written."""
    change, vector, layer = CASES[case]
    language = card("learned")
    program, (bare, nothing) = (
        activation_addition(language, vector=vector, layer=layer),
        plain(language),
    )
    params, frozen = begun(program, language), change(language, vector)
    keys, x = jax.random.split(KEY, 3), padded(QUERIES, "left")
    run = jax.jit(generate(program, T))
    out = run(params, language.frozen, x, keys)
    same = jax.jit(generate(bare, T))(nothing, frozen, x, keys)
    np.testing.assert_array_equal(out.ids, same.ids)
    np.testing.assert_allclose(out.logp, same.logp, atol=1e-4)
    other = jax.jit(generate(bare, T))(nothing, language.frozen, x, keys)
    assert (other.ids != out.ids).any()
    head = share(program, params, language.frozen, [4, 1])
    rest = tokens(x.value, x.weight, start=2)
    out = run(params, language.frozen, rest, keys, cache=head)
    whole = padded([[4, 1, *query] for query in QUERIES])
    same = jax.jit(generate(bare, T))(nothing, frozen, whole, keys)
    np.testing.assert_array_equal(out.ids, same.ids)


@pytest.mark.parametrize("head", [pytest.param(0, marks=SLOW), 2])
def test_the_answer_alone_may_be_steered(head):
    """The bare model on each word with the vector from the query's last word on; a part
    of the query may have been read before."""
    language, vector = card("rotary"), vectors()
    program = activation_addition(language, vector=vector, layer=0, answer=True)
    params = begun(program, language)

    query = QUERIES[0]

    @jax.jit
    def forced(x):
        def edit(site, value):
            if site != "block_0:out":
                return value
            late = value.position >= len(query) - 1
            return value._replace(value=value.value + late[..., None] * vector)

        return language.forward(language.frozen, x, edit).value[0]

    def logits(row):
        return np.asarray(forced(padded([row], "right", len(query) + T)))[: len(row)]

    cache = share(program, params, language.frozen, query[:head]) if head else None
    x = padded([query[head:]], "left", 7)
    x = tokens(x.value, x.weight, start=head)
    keys = jax.random.split(KEY, 1)
    run = jax.jit(generate(program, T))
    out = run(params, language.frozen, x, keys, cache=cache)
    row = list(query)
    for word, logp in zip(out.ids[0].tolist(), out.logp[0], strict=True):
        right = np.asarray(jax.nn.log_softmax(logits(row)[-1]))
        assert word == right.argmax()
        np.testing.assert_allclose(logp, right[word], atol=1e-3)
        row.append(word)
    ends = jnp.array([[[7, 2, 3]]])
    asked = (params, language.frozen, x, ends, jnp.ones(ends.shape))
    found = jax.jit(log_probabilities(program))(*asked, cache=cache)[0, 0]
    whole = jax.nn.log_softmax(logits(query + [7, 2, 3]))
    right = [whole[len(query) - 1 + i, word] for i, word in enumerate((7, 2, 3))]
    np.testing.assert_allclose(found, right, atol=1e-3)


# -- the contract, and what is refused


@pytest.mark.parametrize("answer", [pytest.param(False, marks=SLOW), True])
def test_the_contract(answer):
    language = card("rotary")
    vector = vectors() if answer else vectors(4)
    program = activation_addition(
        language, label_words(ANSWERS), vector=vector, layer=1, answer=answer
    )
    x = padded(QUERIES + [[4, 4, 4, 4, 4, 4]], "left")
    still = lambda p: p._replace(fixed=jax.tree.map(jnp.zeros_like, p.fixed))

    def bare(frozen, x):
        return last_value(language.forward(frozen, x))[:, jnp.array(ANSWERS)]

    found = contract(
        program,
        language.frozen,
        x,
        jnp.array([0, 2, 1, 1]),
        shape=(4, 3),
        neutral=still,
        bare=bare,
    )
    assert found.learnable == 0 and found.fixed == vector.size
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "fixed hidden additive -> rule"


def test_what_does_not_fit_is_refused():
    language = card("rotary")
    for layer in (-1, 2):
        with pytest.raises(
            ValueError, match=f"got the layer {layer}, expected one of 0..1"
        ):
            activation_addition(language, vector=vectors(), layer=layer)
        with pytest.raises(ValueError, match=f"got the layer {layer}"):
            steering(language, [1], [2], layer)
        with pytest.raises(ValueError, match=f"got the layer {layer}"):
            contrast(language, [[1]], [[2]], layer)
    for vector in (jnp.zeros(WIDTH + 1), jnp.zeros((2, 3, WIDTH)), jnp.zeros(())):
        with pytest.raises(ValueError, match=r"got a vector .* expected \[16\]"):
            activation_addition(language, vector=vector, layer=0)
    with pytest.raises(
        ValueError, match="got answer=True with a vector for the first 4"
    ):
        activation_addition(language, vector=vectors(4), layer=0, answer=True)
    with pytest.raises(ValueError, match="prompts of 1 and 3 tokens"):
        steering(language, [1, 2, 3], [4], 0)
    with pytest.raises(ValueError, match=f"fill got the ids {V}"):
        steering(language, [1, 2], [4], 0, fill=V)
    with pytest.raises(ValueError, match="a prompt got no ids"):
        steering(language, [], [4], 0)
    with pytest.raises(ValueError, match="the unwanted texts are none"):
        contrast(language, [[1]], [], 0)
    with pytest.raises(ValueError, match="the wanted texts got no ids"):
        contrast(language, [[1], []], [[2]], 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_given_word_and_all_that_are_written_are_moved(side):
    part, move = to_answers(fixed(jnp.ones(3))), np.ones(3)
    x = padded([[1, 2, 3], [4, 5]], side, 4)
    value = x._replace(value=jnp.zeros((2, 4, 3)))
    params = part.init(jax.random.key(0), value, Scope())
    found = part.apply(params, value, Scope()).value
    last = {"left": (3, 3), "right": (2, 1)}[side]
    wanted = np.zeros((2, 4, 3))
    wanted[[0, 1], last] = move
    real = np.asarray(x.weight > 0)  # what becomes of padding, nobody sees
    np.testing.assert_array_equal(found[real], wanted[real])
    for span, moved in ((HEAD, 0.0), (STEP, 1.0)):  # a beginning, and what is written
        found = part.apply(params, value._replace(span=span), Scope()).value
        np.testing.assert_array_equal(found[real], moved)
