"""LoReFT (arXiv 2404.03592) against its formula in NumPy, token by token, and against
what the authors' code trained.

The wrong variants: rows that are not orthonormal, or a basis that Adam hardly turns;
padding that counts as last tokens; words that are written and edited; the input of a
block for its output; short prompts whose middle token is edited.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from assets import official
from small_languages import KEY, QUERIES, WIDTH, card, losses

from reprojax.alignments import label_words
from reprojax.core import Params, Scope, last_value, padded, tokens
from reprojax.decoding import generate, share
from reprojax.operators import low_rank_edit
from reprojax.recipes.prompt_tuning import loreft
from reprojax.recipes.prompt_tuning.hidden_edits import METHOD
from reprojax.taxonomy import describe
from reprojax.testing import contract

ANSWERS, RANK = (11, 6, 17), 3
PLACES = ("block_0:out", "block_1:out")


def rows_of(net):
    """R [r D]: the orthonormal basis whose triangle is positive."""
    columns, triangle = np.linalg.qr(np.asarray(net["basis"], np.float64))
    rows = (columns * np.sign(np.diagonal(triangle))).T
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-6)
    return rows


def edited(net, old):
    rows, target = rows_of(net), net["target"]
    new = old @ np.asarray(target["kernel"], np.float64) + np.asarray(target["bias"])
    return old + (new - old @ rows.T) @ rows


def by_hand(language, nets, query, asked, first, last):
    """Logits behind a query, of which the `asked` first words are the prompt; nets
    {site: (edit of the first tokens, edit of the last)}."""
    first, last = min(asked // 2, first), min(asked // 2, last)

    def edit(site, value):
        if site not in nets:
            return value
        h = np.array(value.value, np.float64)
        h[0, :first] = edited(nets[site][0], h[0, :first])
        h[0, asked - last : asked] = edited(nets[site][1], h[0, asked - last : asked])
        return value._replace(value=jnp.asarray(h, jnp.float32))

    x = padded([query], "right", 8)  # of one length: each compiles all operations anew
    y = language.forward(language.frozen, x, edit)
    return np.asarray(last_value(y)[0])


def pairs(params, tied=True):
    own = params.learnable
    return {s: [own[s]] * 2 if tied else list(own[s].values()) for s in PLACES}


@pytest.mark.parametrize(
    "kind, first, last, tied",
    [("rotary", 1, 2, True), ("learned", 0, 1, True), ("learned", 2, 2, False)],
)
def test_the_first_and_last_tokens_are_edited(kind, first, last, tied):
    """Of a prompt of two tokens one on either side, whatever is asked for; of three,
    not the middle one."""
    language = card(kind)
    program = loreft(language, rank=RANK, first=first, last=last, tied=tied)
    params = program.init(KEY, language.frozen, padded(QUERIES))
    nets = pairs(params, tied)
    expected = [by_hand(language, nets, q, len(q), first, last) for q in QUERIES]
    run = jax.jit(program.apply)
    for x in (padded(QUERIES), padded(QUERIES, "left"), padded(QUERIES, "right", 9)):
        y = last_value(run(params, language.frozen, x))
        np.testing.assert_allclose(y, expected, atol=1e-4)
    bare = last_value(language.forward(language.frozen, padded(QUERIES)))
    assert np.abs(bare - np.stack(expected)).max() > 0.1


def test_a_prompt_of_one_token_is_left_alone():
    language, x = card("rotary"), padded([[7]])
    program = loreft(language, rank=RANK)
    params = program.init(KEY, language.frozen, x)
    y = program.apply(params, language.frozen, x)
    np.testing.assert_array_equal(y.value, language.forward(language.frozen, x).value)


def test_an_edit_sets_one_subspace_and_leaves_the_rest():
    """Behind it R h is W h + b; what is orthogonal to R's rows is as it was."""
    h = np.random.default_rng(0).standard_normal((1, 4, WIDTH)).astype(np.float32)
    x = tokens(jnp.zeros((1, 4), int))._replace(value=jnp.asarray(h))
    edit, scope = low_rank_edit(RANK, first=1, last=2), Scope("block_0:out")
    params = edit.init(KEY, x, scope)
    net, y = params.learnable, np.asarray(edit.apply(params, x, scope).value)
    rows = rows_of(net)
    target = h @ net["target"]["kernel"] + net["target"]["bias"]
    rest = np.eye(WIDTH) - rows.T @ rows
    places = [0, 2, 3]
    np.testing.assert_allclose((y @ rows.T)[:, places], target[:, places], atol=1e-5)
    np.testing.assert_allclose(y @ rest, h @ rest, atol=1e-5)
    np.testing.assert_array_equal(y[:, 1], h[:, 1])


def test_words_that_are_written_are_not_edited():
    """Even where the prompt is shorter than the number of first tokens."""
    language, query = card("rotary"), [8, 7]
    program = loreft(language, rank=RANK, first=4, last=1)
    params = program.init(KEY, language.frozen, padded([query]))
    net = params.learnable
    net = jax.tree.map(lambda a: 3 * a, net)  # large enough to be seen in words
    params = params._replace(learnable=net)
    run = jax.jit(generate(program, 5))
    out = run(params, language.frozen, padded([query]), jax.random.split(KEY, 1))
    whole = list(query)
    for word, logp in zip(out.ids[0].tolist(), out.logp[0], strict=True):
        logits = by_hand(language, pairs(params), whole, 2, 4, 1)
        assert word == logits.argmax()
        expected = jax.nn.log_softmax(jnp.asarray(logits))[word]
        np.testing.assert_allclose(logp, expected, atol=1e-3)
        whole.append(word)


def test_a_shared_beginning_is_edited_as_a_part_of_the_whole_or_the_answer_is_nan():
    language, head = card("rotary"), [4, 1, 6]
    program = loreft(language, rank=RANK, first=2, last=2)
    params = program.init(KEY, language.frozen, padded(QUERIES))
    cache = share(program, params, language.frozen, head)
    run = jax.jit(generate(program, 2))
    keys = jax.random.split(KEY, 2)
    rest = padded([[3, 5], [9]], "left")  # one token for two that are the last
    x = tokens(rest.value, rest.weight, start=3)
    out = run(params, language.frozen, x, keys, cache=cache)
    whole = run(params, language.frozen, padded([head + [3, 5]] * 2), keys)
    np.testing.assert_allclose(out.logp[0], whole.logp[0], atol=1e-4)
    assert not np.isfinite(out.logp[1]).any()


# -- what is learned


def trained(case, steps, basis=lambda rotation: rotation):
    """[(loss, R's columns)] of Adam at these steps, from pyreft's own start."""
    x = tokens(jnp.zeros((len(case["inputs"]), 2), int))
    h = jnp.repeat(case["inputs"][:, None], 2, 1)
    x, edit = x._replace(value=h), low_rank_edit(4, 1, 1)
    kernel, bias = case["source_kernel"], case["source_bias"]
    net = {"basis": basis(case["rotation_0"])}
    net |= {"target": {"kernel": kernel, "bias": bias}}
    adam = optax.adam(5e-3)

    def cost(net):
        y = edit.apply(Params(net), x, Scope()).value[:, 0]
        return ((y - case["targets"]) ** 2).sum(1).mean()

    @jax.jit
    def step(net, state):
        loss, grads = jax.value_and_grad(cost)(net)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(net, updates), state, loss

    found, state = {}, adam.init(net)
    for i in range(max(steps) + 1):
        before = net
        net, state, loss = step(net, state)
        if i in steps:
            found[i] = float(loss), rows_of(before).T
    return found


def turned(first, now):
    """The mean of the principal angles between two spaces, in degrees."""
    cosines = np.linalg.svd(np.asarray(first).T @ now, compute_uv=False)
    return np.degrees(np.arccos(np.clip(cosines, 0, 1))).mean()


@pytest.mark.verify
@pytest.mark.parametrize("width", [64, 768])
def test_it_learns_as_the_authors_code_does(width):
    """Losses within 7 %, where a basis that hardly turns is 9 to 24 % above, and R
    turns at least .6 times as far. pyreft holds R by other numbers, Householder's
    vectors, so that Adam's paths are not the same."""
    case = official("loreft", f"d{width}/")
    found = trained(case, case["steps"].tolist())
    np.testing.assert_allclose(found[0][0], case["loss"][0], rtol=1e-5)
    for i, step in enumerate(case["steps"].tolist()):
        loss, columns = found[step]
        assert abs(loss / case["loss"][i] - 1) < 0.07, (step, loss, case["loss"])
        angle, theirs = turned(case["rotation_0"], columns), case["angles"][i].mean()
        assert angle > 0.6 * theirs - 0.1, (step, angle, theirs)


def test_its_first_basis_is_orthonormal_and_kept_as_it_is():
    """And columns of norm sqrt(D), which are the same space, hardly turn."""
    edit, x = low_rank_edit(4, 1, 1), tokens(jnp.zeros((1, 2), int))
    x = x._replace(value=jnp.zeros((1, 2, 64)))
    basis = edit.init(KEY, x, Scope()).learnable["basis"]
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
    case = {"inputs": draw(32, 64), "targets": draw(32, 64), "rotation_0": basis}
    case |= {"source_kernel": draw(64, 4) / 8, "source_bias": draw(4) / 8}
    small, large = trained(case, [40]), trained(case, [40], lambda r: 8 * r)
    assert turned(basis, small[40][1]) > 2 * turned(basis, large[40][1])


def test_the_default_settings_learn():
    """The loss of 32 rows falls below half of what guessing has, in 100 steps."""
    language = card("rotary")
    program = loreft(language, label_words([0, 1]))
    found, _ = losses(program, language, METHOD.preset, 100)
    assert found[-1] < np.log(2) / 2, found[::10]


def test_the_contract():
    language = card("rotary")
    program = loreft(language, label_words(ANSWERS), rank=RANK, first=1, last=1)
    x = padded(QUERIES + [[4, 4, 4, 4, 4, 4]], "left")
    labels = jnp.array([0, 2, 1, 1])
    found = contract(program, language.frozen, x, labels, shape=(4, 3))
    assert found.learnable == 2 * (2 * WIDTH * RANK + RANK)  # in each of two blocks
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "learnable hidden parametric -> rule"


def test_what_does_not_fit_is_refused():
    language = card("rotary")
    for layers in ([], [2], [-1]):
        with pytest.raises(ValueError, match="expected some of 0..1"):
            loreft(language, layers=layers)
    with pytest.raises(ValueError, match="got first=0 and last=0"):
        loreft(language, first=0, last=0)
    wide = loreft(language, rank=WIDTH + 1)
    with pytest.raises(ValueError, match=f"got a rank of {WIDTH + 1}"):
        wide.init(KEY, language.frozen, padded(QUERIES))
    sites = {"blocks": ("one", "two")}
    with pytest.raises(ValueError, match="expected sites such as 'block_0:in'"):
        loreft(language._replace(roles=language.roles | sites))
