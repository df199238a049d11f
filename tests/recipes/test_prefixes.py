"""Prefix tuning (arXiv 2101.00190) against the bare model on a text that is there, and
against the MLP in torch's own words.

The wrong variants: a text whose positions begin before the prefix's end; keys for
values; an MLP that makes another layer's keys; a prefix behind the text.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_languages import KEY, KV, POSITIONS, QUERIES, V, card, losses

from reprojax.alignments import label_words
from reprojax.core import Scope, last_value, padded
from reprojax.decoding import generate
from reprojax.formats import reparametrised
from reprojax.models.language.states import keys_and_values
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning, without_mlp
from reprojax.recipes.prompt_tuning.prefixes import METHOD, PLAIN
from reprojax.taxonomy import describe
from reprojax.testing import contract
from reprojax.training.optimizers import adamw_linear

P, UNITS, TEXT = 3, 24, [9, 4, 12]
KINDS = pytest.mark.parametrize("kind", ["rotary", "learned"])
ANSWERS = (11, 6, 17)


def begun(program, language):
    return program.init(KEY, language.frozen, padded(QUERIES))


@pytest.mark.parametrize("kind, hidden", [("rotary", UNITS), ("learned", None)])
def test_a_texts_keys_and_values_are_the_text(kind, hidden):
    """At the start the answers are those to the text and the query together."""
    language = card(kind)
    start = keys_and_values(language, TEXT)
    program = prefix_tuning(language, length=P, hidden=hidden, start=start)
    params = begun(program, language)
    whole = padded([TEXT + query for query in QUERIES])
    expected = last_value(language.forward(language.frozen, whole))
    run = jax.jit(program.apply)
    for x in (padded(QUERIES), padded(QUERIES, "left"), padded(QUERIES, "left", 11)):
        y = last_value(run(params, language.frozen, x))
        np.testing.assert_allclose(y, expected, atol=2e-4)


def made_by_hand(net):
    """Each layer's keys and values [P H d], one unit at a time."""
    net = jax.tree.map(lambda a: np.asarray(a, np.float64), net)
    first, second = net["first"], net["second"]
    n, heads, size = second["bias"].shape
    out = np.zeros((n, len(net["vectors"]), heads, size))
    for p, vector in enumerate(net["vectors"]):
        units = np.tanh(vector @ first["kernel"] + first["bias"])
        for i in range(n):
            out[i, p] = second["bias"][i]
            for unit, weights in zip(units, second["kernel"][:, i], strict=True):
                out[i, p] += unit * weights
    return out


@KINDS
def test_the_mlp_makes_a_prefix_and_is_dropped(kind):
    """The same answers, learned or not, and those of the prefix made by hand."""
    language = card(kind)
    program = prefix_tuning(language, length=P, hidden=UNITS)
    plain = prefix_tuning(language, length=P, hidden=None)
    params = begun(program, language)
    dropped = without_mlp(language, params)
    spec = jax.tree.map(jnp.shape, begun(plain, language))
    assert jax.tree.map(jnp.shape, dropped) == spec
    hand = made_by_hand(params.learnable[KV[0]])
    np.testing.assert_allclose(dropped.learnable[KV[0]], hand, atol=1e-5)
    x = padded(QUERIES, "left")
    y = program.apply(params, language.frozen, x)
    z = plain.apply(dropped, language.frozen, x)
    np.testing.assert_allclose(last_value(y), last_value(z), atol=1e-5)
    bare = last_value(language.forward(language.frozen, x))
    assert np.abs(last_value(y) - bare).max() > 0.1


def test_each_layer_has_its_own_keys_and_values():
    """Of the 2 n parts each reaches its own place in the cache."""
    from reprojax.decoding import share

    language = card("rotary")
    program = prefix_tuning(language, length=P, hidden=None)
    params = begun(program, language)
    cache = share(program, params, language.frozen)
    found = [part[0] for site in KV for part in cache[site].value]
    np.testing.assert_array_equal(np.stack(found), params.learnable[KV[0]])


def test_it_is_written_from():
    language = card("learned")
    start = keys_and_values(language, TEXT)
    program = prefix_tuning(language, length=P, start=start)
    plain = prompt_tuning(language, length=P)  # its prompt: the text's own words
    words = language.frozen["params"]["embed"]["embedding"][jnp.array(TEXT)]
    given = begun(plain, language)._replace(learnable={"embed:out": words})
    keys, x = jax.random.split(KEY, 3), padded(QUERIES)
    out = jax.jit(generate(program, 4))(
        begun(program, language), language.frozen, x, keys
    )
    same = jax.jit(generate(plain, 4))(given, language.frozen, x, keys)
    np.testing.assert_array_equal(out.ids, same.ids)


def test_the_mlp_starts_as_torchs_layers_do():
    language = card("rotary")
    net = begun(prefix_tuning(language), language).learnable[KV[0]]
    width = 2 * 4  # keys of all heads
    assert net["vectors"].shape == (10, width)
    assert net["first"]["kernel"].shape == (width, 512)
    assert net["second"]["kernel"].shape == (512, 4, 2, 4)
    assert abs(float(net["vectors"].std()) - 1) < 0.2
    for name, into in (("first", width), ("second", 512)):
        largest = np.abs(net[name]["kernel"]).max()
        assert 0.99 * into**-0.5 < largest <= into**-0.5


# -- it learns, and keeps the contract


def test_adamw_linear_falls_to_zero_at_the_last_step():
    """Of a constant gradient Adam moves by its rate; nothing decays."""
    optimizer, p = adamw_linear(0.1, 4, 3), jnp.array([5.0])
    state, moved = optimizer.init(p), []
    for _ in range(13):
        update, state = optimizer.update(jnp.ones(1), state, p)
        moved.append(-float(update[0]))
    np.testing.assert_allclose(moved, 0.1 * (1 - np.arange(13) / 12), atol=1e-6)


def test_the_default_settings_learn():
    """The loss of 32 rows falls below a third of what guessing has, in 100 steps, and
    the MLP can be dropped then."""
    language = card("rotary")
    program = prefix_tuning(language, label_words([0, 1]))
    found, params = losses(program, language, METHOD.preset, 100)
    assert found[-1] < np.log(2) / 3, found[::10]
    plain = prefix_tuning(language, label_words([0, 1]), hidden=None)
    x = padded(QUERIES)
    np.testing.assert_allclose(
        program.apply(params, language.frozen, x),
        plain.apply(without_mlp(language, params), language.frozen, x),
        atol=1e-4,
    )


def test_the_default_settings_without_an_mlp_learn():
    """Below a half, in 100 steps."""
    language = card("rotary")
    program = prefix_tuning(language, label_words([0, 1]), hidden=None)
    found, _ = losses(program, language, PLAIN, 100)
    assert found[-1] < np.log(2) / 2, found[::10]


@pytest.mark.parametrize("hidden", [UNITS, pytest.param(None, marks=pytest.mark.slow)])
def test_the_contract(hidden):
    language = card("rotary")
    program = prefix_tuning(language, label_words(ANSWERS), length=P, hidden=hidden)
    x = padded(QUERIES + [[4, 4, 4, 4, 4, 4]], "left")
    labels = jnp.array([0, 2, 1, 1])
    found = contract(program, language.frozen, x, labels, shape=(4, 3))
    made, width = 2 * 2 * 8, 8
    mlp = P * width + (width + 1) * UNITS + (UNITS + 1) * made
    assert found.learnable == (P * made if hidden is None else mlp)
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "learnable hidden concatenative -> rule"


# -- bad input


def test_what_does_not_fit_is_refused():
    language, x = card("rotary"), padded(QUERIES)
    start = keys_and_values(language, TEXT)
    for hidden, who in ((None, "learnable got"), (UNITS, "a prefix of")):
        program = prefix_tuning(language, length=4, hidden=hidden, start=start)
        with pytest.raises(ValueError, match=who):
            program.init(KEY, language.frozen, x)
    for length in (0, POSITIONS):
        with pytest.raises(ValueError, match=f"prompt of {length} tokens, expected"):
            prefix_tuning(language, length=length)
    long = prefix_tuning(language, length=POSITIONS - 5)
    with pytest.raises(ValueError, match="6 tokens behind a prefix of 27"):
        long.init(KEY, language.frozen, x)
    with pytest.raises(ValueError, match=f"the ids {V}"):
        keys_and_values(language, [V])
    plain = prefix_tuning(language, hidden=None)
    with pytest.raises(ValueError, match="hold no MLP"):
        without_mlp(language, begun(plain, language))


def test_a_reparametrised_prefix_is_the_mlp_by_hand_and_begins_where_it_is_told():
    shape, start = (4, 3, 2, 5), np.random.default_rng(0).normal(size=(4, 3, 2, 5))
    for given in (None, jnp.asarray(start, jnp.float32)):
        fmt = reparametrised(7, given)
        params = fmt.init(jax.random.key(0), shape, Scope())
        net = jax.tree.map(lambda a: np.asarray(a, np.float64), params.learnable)
        units = np.tanh(net["vectors"] @ net["first"]["kernel"] + net["first"]["bias"])
        second = net["second"]
        rows = np.einsum("ph,hnkd->npkd", units, second["kernel"])
        rows = rows + second["bias"][:, None]
        made = fmt.read(params, None, Scope())
        np.testing.assert_allclose(made, rows, atol=1e-5)
        if given is not None:
            np.testing.assert_allclose(made, start, atol=1e-4)
