"""Black-box tuning (arXiv 2201.03514) against the model itself on words that are there,
and against its losses and scales by hand.

The wrong variants: a scale without the search's step, or of the variance; a prompt
before [CLS]; numbers added to other words, to padding; words drawn anew at each call.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assets import folder_of, official
from small_languages import KEY, POSITIONS, QUERIES, WIDTH, V, card, parity

from reprojax.alignments import at_mask, label_words
from reprojax.core import chain, last_value, padded, tokens
from reprojax.data import Split, Task
from reprojax.decoding import generate
from reprojax.models.language import load
from reprojax.recipes.prompt_tuning import black_box_tuning, prompt_tuning
from reprojax.recipes.prompt_tuning.black_box_tuning import search
from reprojax.searches import Oracle
from reprojax.taxonomy import describe
from reprojax.testing import contract
from reprojax.training.black_box import evaluate, fit_black_box
from reprojax.training.black_box_texts import Asked, only_scores, scores
from reprojax.training.losses import Seen, hinge

P, SIZE, ANSWERS, EMBED = 3, 5, (11, 6, 17), "embed:out"
SMALL = {"length": P, "size": SIZE}
SLOW = pytest.mark.slow


PLACE = {"encoder": "block_0:in"}  # behind the norm of its embedding


def place(kind):
    return PLACE.get(kind, EMBED)


def table(language):
    return np.asarray(language.frozen["params"]["embed"]["embedding"])


def moved(params, by=2.0):
    """The params at some z, and the ids and vectors [P D] that it adds to them."""
    z = by * jax.random.normal(jax.random.key(5), (SIZE,))
    (site,) = params.learnable.keys() & {EMBED, "block_0:in"}
    params = params._replace(learnable=params.learnable | {site: z})
    matrix = np.asarray(params.fixed[site]["matrix"], np.float64)
    added = np.einsum("s,spd->pd", np.asarray(z), matrix)
    return params, np.asarray(params.fixed["input"]).tolist(), added


@pytest.mark.parametrize(
    "kind", ["encoder", *(pytest.param(k, marks=SLOW) for k in ("rotary", "learned"))]
)
def test_the_prompt_is_words_and_what_is_added_to_them(kind):
    """Behind an encoder's first token, and what is added behind its norm."""
    language = card(kind)
    program = black_box_tuning(language, **SMALL)
    params, ids, added = moved(program.init(KEY, language.frozen, padded(QUERIES)))
    run, first = jax.jit(program.apply), 1 if kind == "encoder" else 0

    @jax.jit
    def bare(frozen, x):
        def edit(site, value):
            if site != place(kind):
                return value
            h = value.value.at[:, first : first + P].add(added.astype(np.float32))
            return value._replace(value=h)

        return language.forward(frozen, x, edit).value[0]

    for query in QUERIES:
        row = query[:first] + ids + query[first:]
        expected = bare(language.frozen, tokens(jnp.array([row])))
        for side in ("left", "right"):
            y = run(params, language.frozen, padded([query], side, 8))
            real = np.asarray(y.weight[0]) > 0
            order = np.argsort(np.asarray(y.position[0])[real])
            found = np.asarray(y.value[0])[real][order]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.verify
def test_on_an_encoder_it_is_the_published_code(tmp_path):
    """RoBERTa's logits, and the deviation of A, as its code has them."""
    case = official("bbt_encoder")
    language = load(folder_of(case, tmp_path))
    start, z = case["start"].tolist(), case["z"]
    program = black_box_tuning(language, length=6, size=20, words=start)
    x = tokens(jnp.asarray(case["ids"]))
    params = program.init(KEY, language.frozen, x)
    site = PLACE["encoder"]
    matrix = params.fixed[site]["matrix"]
    assert abs(matrix.std() / case["A_std"] - 1) < 0.03
    fixed = params.fixed | {"input": jnp.asarray(case["start"])}
    fixed |= {site: params.fixed[site] | {"matrix": jnp.asarray(case["A"])}}
    params = params._replace(fixed=fixed)
    run = jax.jit(program.apply)
    for learned, right in ((0 * z, "logits_bare"), (z, "logits")):
        own = params._replace(learnable=params.learnable | {site: jnp.asarray(learned)})
        y = run(own, language.frozen, x).value
        order = [6, *range(6), *range(7, 12)]  # ours puts the prompt in front by index
        y = np.asarray(y)[:, order]
        np.testing.assert_allclose(y, case[right], atol=1e-5)
    away = np.abs(case["logits"] - case["logits_if_before_norm"]).max()
    assert away > 0.5, "the two places would not be told apart"


def test_the_projections_scale_is_that_of_words():
    """Points drawn at the search's first step are as far apart as words are."""
    language = card("rotary")
    sigma, alpha, n = 0.5, 0.7, 400
    program = black_box_tuning(language, length=6, size=n, alpha=alpha, sigma=sigma)
    params = program.init(KEY, language.frozen, padded(QUERIES))
    matrix = np.asarray(params.fixed[EMBED]["matrix"])
    right = alpha * table(language).std() / (n**0.5 * sigma)
    assert abs(matrix.std() / right - 1) < 0.02 and abs(matrix.mean()) < right / 20
    z = sigma * np.random.default_rng(0).standard_normal((50, n))
    prompts = np.einsum("ks,spd->kpd", z, matrix)
    assert abs(prompts.std() / (alpha * table(language).std()) - 1) < 0.05
    given = black_box_tuning(language._replace(frozen=()), **SMALL, deviation=3.0)
    params = given.init(KEY, language.frozen, padded(QUERIES))
    assert abs(np.std(params.fixed[EMBED]["matrix"]) * SIZE**0.5 / 3 - 1) < 0.2


def test_it_starts_at_words_of_the_vocabulary():
    language = card("rotary")
    program = black_box_tuning(language, length=4, size=SIZE, words=[3, 5, 8, 13, 21])
    x = padded(QUERIES)
    params = program.init(KEY, language.frozen, x)
    ids = np.asarray(params.fixed["input"]).tolist()
    assert len(set(ids)) == 4 and set(ids) < {3, 5, 8, 13, 21}
    other = program.init(jax.random.key(3), language.frozen, x).fixed["input"]
    assert ids != other.tolist()
    y = last_value(program.apply(params, language.frozen, x))
    whole = padded([ids + query for query in QUERIES])
    expected = last_value(language.forward(language.frozen, whole))
    np.testing.assert_allclose(y, expected, atol=3e-5)


def test_the_hinge_by_hand():
    y = np.random.default_rng(0).normal(size=(5, 4)) * 2
    labels, margin = np.array([0, 3, 2, 1, 1]), 1.5
    total = np.zeros(5)
    for i, (row, label) in enumerate(zip(y, labels, strict=True)):
        for c in range(4):
            if c != label:
                total[i] += max(0.0, margin + row[c] - row[label])
    found = hinge(margin)(Seen({"output": jnp.asarray(y)}, jnp.asarray(labels)))
    np.testing.assert_allclose(found, total, rtol=1e-5)
    assert hinge()(Seen({"output": jnp.array([[2.0, 0.0]])}, jnp.array([0]))) == 0


def test_it_is_written_from_as_a_soft_prompt_is():
    """The same vectors, by prompt tuning."""
    from reprojax.formats import learnable

    language = card("rotary")
    program = black_box_tuning(language, **SMALL)
    params, ids, added = moved(program.init(KEY, language.frozen, padded(QUERIES)))
    words = (table(language)[ids] + added).astype(np.float32)
    plain = prompt_tuning(language, length=P, initial=learnable(words))
    same = plain.init(KEY, language.frozen, padded(QUERIES))
    keys, x = jax.random.split(KEY, 3), padded(QUERIES, "left")
    out = jax.jit(generate(program, 5))(params, language.frozen, x, keys)
    other = jax.jit(generate(plain, 5))(same, language.frozen, x, keys)
    np.testing.assert_array_equal(out.ids, other.ids)
    np.testing.assert_allclose(out.logp, other.logp, atol=1e-4)


# -- a model that only answers


def task(rows=32):
    x, y = parity(rows)
    split = Split(jax.tree.map(np.asarray, x), np.asarray(y, np.int32))
    return Task("parity", split, split, split, ("even", "odd"), "tokens")


class Service:
    """A model behind a function that keeps what it was asked."""

    def __init__(self, language, align):
        self.own, self.asked = scores(language, align), []

    def __call__(self, asked):
        self.asked.append(jax.tree.map(np.asarray, asked))
        return self.own.answer(asked)

    def oracle(self, **changes):
        settings = {"classes": self.own.classes, "name": "tiny", "chunk": 50}
        return Oracle(self, **(settings | changes))


@pytest.mark.parametrize("kind", [pytest.param("rotary", marks=SLOW), "encoder"])
def test_a_service_answers_as_the_model_itself(kind):
    """The same params on the card and on the model, left padding and right."""
    language, mask = card(kind), 22
    rows, align = [[*query, 1] for query in QUERIES], label_words(ANSWERS)
    if kind == "encoder":
        rows = [[query[0], mask, *query[1:]] for query in QUERIES]
        align = chain(here=at_mask(mask), words=align)
    some = list(range(mask))
    oracle = scores(language, align)
    assert oracle.classes == 3
    served = only_scores(oracle, language)
    assert served.roles.keys() == {
        "input",
        "blocks" if mask in rows[0] else "embedding",
    }
    sizes = SMALL | {"words": some}
    ours = black_box_tuning(served, deviation=1.0, **sizes)
    whole = black_box_tuning(language, align, deviation=1.0, **sizes)
    seen = {}
    for x in (padded(rows), padded(rows, "left", 9)):
        nothing = jnp.zeros((3, 3))
        params, _, _ = moved(ours.init(KEY, nothing, x))
        spy = lambda site, value: seen.setdefault(site, value)
        ours.apply(params, nothing, x, edit=spy)
        asked = seen.pop("sent")
        seen.clear()
        theirs = whole.init(KEY, language.frozen, x)
        theirs = jax.tree.map(lambda a: a, theirs)._replace(
            learnable=theirs.learnable | params.learnable,
            fixed=theirs.fixed | params.fixed,
        )
        expected = whole.apply(theirs, language.frozen, x)
        np.testing.assert_allclose(oracle.answer(asked), expected, atol=1e-4)
        answers = jnp.asarray(oracle.answer(asked))
        np.testing.assert_array_equal(ours.apply(params, answers, x), answers)


def test_the_default_settings_learn():
    """The loss of 32 rows falls below a half of what guessing has, in 100 steps of 20
    points."""
    language, made = card("rotary"), task()
    oracle = scores(language, label_words([0, 1]), chunk=640)
    program = black_box_tuning(
        only_scores(oracle, language),
        deviation=float(table(language).std()),
        length=20,
        size=50,
    )
    fitted = fit_black_box(
        program,
        oracle,
        made,
        search(),
        budget=32 * (20 * 100 + 10),
        batch=32,
        progress=False,
    )
    first, last = fitted.curve[0, 1], fitted.curve[-1, 1]
    assert last < np.log(2) / 2 < first, fitted.curve
    found = evaluate(program, fitted.params, oracle, made.test)
    assert found == fitted.accuracy["validation"] > 0.9


def test_queries_are_counted_and_a_run_goes_on_with_its_log(tmp_path):
    language, made = card("rotary"), task(10)
    service = Service(language, label_words([0, 1]))
    oracle = service.oracle()
    program = black_box_tuning(only_scores(oracle, language), deviation=0.4, **SMALL)
    settings = {"budget": 10 * (3 * 20 + 2), "batch": 10, "checks": 2}
    settings |= {"progress": False, "loss": hinge(), "log": tmp_path / "log"}
    fitted = fit_black_box(program, oracle, made, search(), **settings)
    paid = sum(len(asked.added) for asked in service.asked)
    assert paid == 620 == sum(fitted.queries.values())
    assert fitted.queries == {"maps": 0, "search": 600, "validation": 20}
    first = service.asked[0]
    assert isinstance(first, Asked) and first.added.shape[1:] == (P + 5, WIDTH)
    sent = np.concatenate([asked.text.value[:, P:] for asked in service.asked])
    counts = {tuple(row): 0 for row in made.train.x.value.tolist()}
    for row in sent.tolist():
        counts[tuple(row)] += 1
    assert set(counts.values()) == {62}
    assert not first.added[:, P:].any() and first.added[:, :P].any()
    before = len(service.asked)
    again = fit_black_box(program, oracle, made, search(), **settings)
    assert len(service.asked) == before
    np.testing.assert_array_equal(
        again.params.learnable[EMBED], fitted.params.learnable[EMBED]
    )
    changed = made.train.x._replace(value=made.train.x.value + 1)
    other = made._replace(train=made.train._replace(x=changed))
    with pytest.raises(ValueError, match="log"):
        fit_black_box(program, oracle, other, search(), **settings)


def test_equal_texts_are_paid_once_if_their_numbers_are_equal():
    language = card("rotary")
    service = Service(language, label_words([0, 1]))
    oracle = service.oracle(deterministic=True)
    from reprojax.searches import Account

    x, _ = parity(4)
    added = jnp.zeros((4, 5, WIDTH))
    with Account(oracle, 20) as account:
        one = account.ask(Asked(x, added))
        two = account.ask(Asked(x, added))
        np.testing.assert_array_equal(one, two)
        assert account.paid == 4
        account.ask(Asked(x, added.at[2, 1, 3].set(1.0)))
        assert account.paid == 5
        ids = x._replace(value=x.value.at[1, 0].set(1))
        account.ask(Asked(ids, added))
        assert account.paid == 6


# -- the contract, and what is refused


def test_the_contract():
    language = card("rotary")
    program = black_box_tuning(language, label_words(ANSWERS), **SMALL)
    x = padded(QUERIES + [[4, 4, 4, 4, 4, 4]], "left")
    labels = jnp.array([0, 2, 1, 1])
    found = contract(program, language.frozen, x, labels, shape=(4, 3))
    assert found.learnable == SIZE
    assert found.fixed == P + (SIZE + 1) * P * WIDTH
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == (
        "fixed input concatenative + learnable embedding additive -> rule"
    )


def test_what_does_not_fit_is_refused():
    language = card("rotary")
    oracle = scores(language, label_words([0, 1]))
    served = only_scores(oracle, language)
    with pytest.raises(ValueError, match="without weights, expected deviation="):
        black_box_tuning(served, length=P)
    with pytest.raises(ValueError, match="got a deviation of 0.0"):
        black_box_tuning(served, length=P, deviation=0.0)
    for wrong in ({"size": 0}, {"sigma": 0.0}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match="scales above 0"):
            black_box_tuning(language, length=P, **wrong)
    for length in (0, POSITIONS):
        with pytest.raises(ValueError, match=f"prompt of {length} tokens, expected"):
            black_box_tuning(language, length=length)
    with pytest.raises(ValueError, match=f"the start got the ids {V}"):
        black_box_tuning(language, length=P, words=[V])
    x, nothing = padded(QUERIES), jnp.zeros((3, 2))
    inserted = prompt_tuning(language, length=P)  # its start reads the weights
    other = inserted.at
    from reprojax.core import reprogram

    with pytest.raises(ValueError, match="expected one a word"):
        reprogram(served.forward, dict(other)).init(KEY, nothing, x)
    long = black_box_tuning(served, deviation=1.0, length=POSITIONS - 5)
    with pytest.raises(ValueError, match=f"texts of {POSITIONS + 1} tokens"):
        long.init(KEY, nothing, x)
    with pytest.raises(ValueError, match="no such site"):
        reprogram(served.forward, {"block_0:in": chain()}).init(KEY, nothing, x)
    program = black_box_tuning(served, deviation=1.0, length=P)
    words = task(4)._replace(classes=(), answers="words")
    written = Split(words.train.x, np.ones((4, 5), np.int32))
    words = words._replace(train=written, validation=written, test=written)
    with pytest.raises(ValueError, match="are words, expected one class a row"):
        fit_black_box(program, oracle, words, search(), budget=900, batch=4)
