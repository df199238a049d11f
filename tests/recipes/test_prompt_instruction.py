"""The recipes against scripted languages: what is asked, what answers come to."""

import numpy as np
import pytest
from assets import official
from scripted import Scripted, worded

from reprojax.alignments import calibrated
from reprojax.core import part
from reprojax.recipes.prompt_instruction import (
    chain_of_thought,
    few_shot,
    kate,
    self_consistency,
    zero_shot,
    zero_shot_chain_of_thought,
)
from reprojax.text import (
    Answer,
    Completion,
    choice,
    flipped_labels,
    labelled,
    metered,
    number,
    record_texts,
    score,
)
from reprojax.text.calibration import (
    batch_calibration,
    contextual_calibration,
    domain_context_calibration,
)

TEMPLATE = "Review: {text} Sentiment: {label}"
LABELS = ("negative", "positive")
ROWS = labelled(["awful", "great", "poor", "nice"], [0, 1, 0, 1], LABELS)
WORDS = {"awful": -2, "poor": -1, "great": 2, "nice": 1, "fine": 0.5, "dull": -0.5}
XS = [{"text": t} for t in ("great", "dull", "fine", "awful", "dull")]
GOLD = [1, 0, 1, 0, 0]


def critic(bias=0.0, follows=0.0):
    """Knows the words, leans to "positive", and follows the last demonstrations."""

    def logp(item):
        *shown, query = item.prompt.split("Review: ")[1:]
        text = query.split(" Sentiment:")[0]
        z = sum(WORDS.get(word, 0) for word in text.split()) + bias
        z += follows * sum(1 if "positive" in d else -1 for d in shown[-3:])
        sign = 1 if item.text == " positive" else -1
        return -5 - np.log1p(np.exp(-sign * z))

    return Scripted(score=logp, encode=worded)


def run(program, scripted, xs=XS, **kw):
    params = program.init(None, scripted.language)
    return program.apply(params, scripted.language, xs, **kw)


def test_zero_shot_scores_the_words_behind_the_query():
    scripted = critic()
    answers = run(zero_shot(TEMPLATE, LABELS, instruction="Judge.\n"), scripted)
    assert [a.value for a in answers] == GOLD
    assert scripted.items[:2] == [
        ("Judge.\nReview: great Sentiment:", " negative"),
        ("Judge.\nReview: great Sentiment:", " positive"),
    ]
    assert len(scripted.items) == 8 and scripted.rounds == ["score"]  # "dull" is twice


def test_few_shot_puts_demonstrations_in_their_order_behind_the_instruction():
    scripted = critic()
    answers = run(
        few_shot(TEMPLATE, LABELS, ROWS[:2], instruction="Judge.\n"), scripted
    )
    assert score(answers, GOLD).accuracy == 1
    assert scripted.items[0].prompt == (
        "Judge.\nReview: awful Sentiment: negative\nReview: great Sentiment: positive\n"
        "Review: great Sentiment:"
    )


def test_controls_are_other_rows():
    scripted = critic()
    run(few_shot(TEMPLATE, LABELS, flipped_labels(ROWS[:1], LABELS)), scripted)
    assert scripted.items[0].prompt.startswith("Review: awful Sentiment: positive\n")


def dropped(program, language):
    params = program.init(None, language)
    run = record_texts(program.apply, ["ask:in", "ask:in/rows/dropped"])
    _, seen = run(params, language, XS[:1])
    return seen[0]["ask:in"], seen[0]["ask:in/rows/dropped"]


def test_instruction_and_label_count_in_the_budget():
    scripted = critic()
    whole, none = dropped(
        few_shot(TEMPLATE, LABELS, ROWS, instruction="Judge. "), scripted.language
    )
    assert none == 0
    tokens = len(worded(whole + " positive"))
    for less, expected in ((0, 0), (1, 1)):
        program = few_shot(
            TEMPLATE, LABELS, ROWS, instruction="Judge. ", budget=tokens - less
        )
        prompt, n = dropped(program, scripted.language)
        assert n == expected and prompt.startswith("Judge. ")
        tight = scripted.language._replace(context=tokens - less)
        program = few_shot(TEMPLATE, LABELS, ROWS, instruction="Judge. ")
        assert dropped(program, tight) == (prompt, n)


def test_kate_shows_each_query_its_nearest_the_nearest_last():
    calls = []

    def embed(texts):
        calls.append(texts)
        assert all(t.startswith("Review: ") and t.endswith("Sentiment:") for t in texts)
        angle = [WORDS[t.split()[1]] for t in texts]
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    scripted = critic()
    program = kate(TEMPLATE, LABELS, ROWS, embed, k=2)
    answers = run(program, scripted)
    assert [a.value for a in answers] == GOLD
    assert [len(texts) for texts in calls] == [4, 5]
    demos = [item.prompt.split("\n")[:-1] for item in scripted.items[::2]]
    assert demos[0] == ["Review: nice Sentiment: positive"] + [
        "Review: great Sentiment: positive"
    ]
    assert demos[3][-1] == "Review: awful Sentiment: negative"


@pytest.mark.parametrize("last", [True, False])
def test_over_a_budget_kate_leaves_the_farthest_out(last):
    embed = lambda texts: [[WORDS[t.split()[1]], 1] for t in texts]
    scripted = critic()
    program = kate(TEMPLATE, LABELS, ROWS, embed, k=3, last=last)
    whole, none = dropped(program, scripted.language)
    budget = len(worded(whole + " positive")) - 1
    program = kate(TEMPLATE, LABELS, ROWS, embed, k=3, last=last, budget=budget)
    prompt, one = dropped(program, scripted.language)
    assert (none, one) == (0, 1)
    assert "great" in prompt.split("\n")[-2 if last else 0]  # the nearest is there


def test_labels_are_checked_before_anything_is_scored():
    scripted = critic()
    with pytest.raises(ValueError, match="begin with one token"):
        run(zero_shot(TEMPLATE, ("not bad", "not good"), one_token=True), scripted)
    with pytest.raises(ValueError, match="is the beginning of"):
        run(few_shot(TEMPLATE, ("not", "not good"), ROWS), scripted)
    run(zero_shot(TEMPLATE, ("not", "not good"), by="mean"), scripted, xs=[])
    assert not scripted.rounds


# -- calibration


def biased(program, scripted):
    params = program.init(None, scripted.language)
    answers = program.apply(params, scripted.language, XS)
    assert [a.value for a in answers] == [1] * 5  # it always says positive
    return params


@pytest.mark.parametrize("normalised", [True, False])
def test_contextual_calibration_takes_a_bias_off_without_labels(normalised):
    scripted = critic(bias=3.0)
    calibration = calibrated(2, normalised=normalised)
    program = few_shot(TEMPLATE, LABELS, ROWS, calibration=calibration)
    params = biased(program, scripted)
    asked = len(scripted.items)
    new = contextual_calibration(program, params, scripted.language)
    queries = [item.prompt.split("\n")[-1] for item in scripted.items[asked:][::2]]
    assert queries == [f"Review: {t} Sentiment:" for t in ("N/A", "", "[MASK]")]
    assert all(item.prompt.startswith("Review: awful") for item in scripted.items)
    answers = program.apply(new, scripted.language, XS)
    assert score(answers, GOLD).accuracy == 1
    bias = part(new, "output").fixed["calibrated"]
    assert abs(bias[1] - bias[0] - 3) < 1e-4  # exactly what the language leans
    again = contextual_calibration(program, new, scripted.language)
    np.testing.assert_allclose(part(again, "output").fixed["calibrated"], bias)


def tabled(free, queries):
    """A language whose labels have the probabilities of a table [n T], by the text."""
    texts = ("N/A", "", "[MASK]", *(f"q{i}" for i in range(len(queries))))
    rows = dict(zip(texts, np.concatenate([free, queries]), strict=True))
    read = lambda item: item.prompt.split("<")[1].split(">")[0]
    return Scripted(score=lambda item: float(np.log(rows[read(item)][int(item.text)])))


def by_contexts(free, queries):
    """(program, calibrated params, scripted), the labels being numbers."""
    scripted = tabled(free, queries)
    labels = [str(t) for t in range(free.shape[1])]
    program = zero_shot("<{text}> is {label}", labels)
    params = program.init(None, scripted.language)
    return program, contextual_calibration(program, params, scripted.language), scripted


@pytest.mark.parametrize("scale", [1.0, 1e-37])
def test_contextual_calibration_takes_the_mean_first(scale):
    """Two labels behind three inputs, of which one gives them next to nothing; the same
    where all labels are so long that no float32 holds their probabilities' mean."""
    free = scale * np.array([[0.6, 0.2], [0.001, 0.009], [0.1, 0.3]])
    queries = scale * np.array([[0.5, 0.4], [0.2, 0.19], [0.02, 0.01]])
    program, params, scripted = by_contexts(free, queries)
    mean = free.mean(0) / free.mean(0).sum()
    found = part(params, "output").fixed["calibrated"]
    np.testing.assert_allclose(found, np.log(mean), rtol=1e-5)
    each = (free / free.sum(1, keepdims=True)).mean(0)
    assert (queries / mean).argmax(1).tolist() == [1, 1, 0]
    assert (queries / each).argmax(1).tolist() == [0, 0, 0]
    xs = [{"text": f"q{i}"} for i in range(3)]
    answers = program.apply(params, scripted.language, xs)
    assert [a.value for a in answers] == [1, 1, 0]


@pytest.mark.verify
@pytest.mark.parametrize("case", range(20))
def test_contextual_calibration_is_the_published_code(case):
    case = official("calibration", f"{case:02}/")
    program, params, scripted = by_contexts(case["content_free"], case["queries"])
    found = part(params, "output").fixed["calibrated"]
    np.testing.assert_allclose(np.exp(found), case["p_content_free"], rtol=1e-5)
    xs = [{"text": f"q{i}"} for i in range(len(case["queries"]))]
    answers = program.apply(params, scripted.language, xs)
    assert [a.value for a in answers] == case["prediction"].tolist()
    assert (
        abs(score(answers, case["labels"].tolist()).accuracy - case["accuracy"]) < 1e-9
    )


def test_batch_calibration_asks_each_query_once():
    scripted = critic(bias=1.0)
    program = few_shot(TEMPLATE, LABELS, ROWS)
    params = program.init(None, scripted.language)
    before = program.apply(params, scripted.language, XS)
    assert [a.value for a in before] == [1, 1, 1, 0, 1]  # "dull" is not so bad
    language, usage = metered(scripted.language)
    answers, new = batch_calibration(program, params, language, XS)
    assert usage.scored == 8
    assert score(answers, GOLD).accuracy == 1
    assert program.apply(new, language, XS) == answers


def test_batch_calibration_is_the_formula():
    scripted = critic(bias=3.0)
    program = zero_shot(TEMPLATE, LABELS)
    params = program.init(None, scripted.language)
    _, new = batch_calibration(program, params, scripted.language, XS)
    z = np.array([scripted.logp(item) for item in scripted.items]).reshape(4, 2)
    z = z[[0, 1, 2, 3, 1]]  # "dull" was asked once, and counts twice
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    found = part(new, "output").fixed["calibrated"]
    np.testing.assert_allclose(found, np.log(p.mean(0)), rtol=1e-4)


def test_domain_context_calibration_draws_the_tasks_words():
    scripted = critic(bias=3.0)
    program = zero_shot(TEMPLATE, LABELS)
    params = biased(program, scripted)
    asked = len(scripted.items)
    texts = ["the film was dull", "a fine and nice one"]
    new = domain_context_calibration(
        program, params, scripted.language, texts, times=7, seed=1
    )
    drawn = [i.prompt[8:-11].split() for i in scripted.items[asked:][::2]]
    assert len(drawn) == 7 and all(len(words) == 4 for words in drawn)
    assert {w for words in drawn for w in words} <= set(" ".join(texts).split())
    assert score(program.apply(new, scripted.language, XS), GOLD).accuracy >= 0.8
    with pytest.raises(ValueError, match="texts hold no word"):
        domain_context_calibration(program, params, scripted.language, [" "])


def test_calibration_needs_an_alignment_that_is_estimated():
    scripted = Scripted(lambda r: "1")
    program = chain_of_thought(QA, [], number())
    params = program.init(None, scripted.language)
    with pytest.raises(ValueError, match=r"such as calibrated\(targets\)"):
        contextual_calibration(program, params, scripted.language)


# -- reasoning

QA = "Q: {question}\nA: {answer}"
STEPS = [{"question": "1+1?", "answer": "1 and 1 are 2. The answer is 2."}]
SUMS = [{"question": q} for q in ("3+4?", "5+9?", "3+4?")]
RULE = number(after="the answer is")


def adder(request):
    question = request.prompt.split("Q: ")[-1].split("?")[0]
    total = sum(map(int, question.split("+")))
    return f" {question} steps. The answer is {total}."


def test_chain_of_thought():
    scripted = Scripted(adder)
    answers = run(chain_of_thought(QA, STEPS, RULE), scripted, SUMS)
    assert answers == [Answer(7), Answer(14), Answer(7)]
    assert len(scripted.requests) == 2
    request = scripted.requests[0]
    assert request.prompt == (
        "Q: 1+1?\nA: 1 and 1 are 2. The answer is 2.\n\nQ: 3+4?\nA:"
    )
    assert request.stop == ("\n\n",) and request.samples == 1
    assert request.temperature == 0 and request.length == 256


def test_what_was_cut_or_says_nothing_is_counted():
    def half(request):
        if "5+9" in request.prompt.split("\n\n")[-1]:
            return Completion(" The answer is 1", "length")
        return " I do not know, 7 perhaps."

    found = score(
        run(chain_of_thought(QA, STEPS, RULE), Scripted(half), SUMS), [7, 1, 7]
    )
    assert (found.correct, found.unparsable, found.truncated) == (0, 2, 1)


def test_the_answer_has_room_in_the_context():
    rows = STEPS * 3
    tokens = len(
        worded(
            "".join(f"Q: {r['question']}\nA: {r['answer']}\n\n" for r in rows)
            + "Q: 3+4?\nA:"
        )
    )
    for less, expected in ((0, 3), (1, 2)):
        scripted = Scripted(adder, encode=worded, context=tokens + 50 - less)
        run(chain_of_thought(QA, rows, RULE, length=50), scripted, SUMS[:1])
        assert scripted.requests[0].prompt.count("1+1?") == expected


def test_self_consistency_votes_over_one_request():
    def unsure(request):
        rng = np.random.default_rng(request.seed)
        wrong = rng.permutation(request.samples) < request.samples // 3
        right = adder(request)
        return [f" The answer is {i}." if w else right for i, w in enumerate(wrong)]

    scripted = Scripted(unsure)
    program = self_consistency(QA, STEPS, RULE, samples=9)
    assert run(program, scripted, SUMS) == [Answer(7), Answer(14), Answer(7)]
    assert len(scripted.requests) == 2 and scripted.rounds == ["complete"]
    assert {(r.samples, r.temperature, r.seed) for r in scripted.requests} == {
        (9, 0.7, 0)
    }
    run(program, scripted, SUMS, seed=4)
    assert scripted.requests[-1].seed == 4
    with pytest.raises(ValueError, match="samples=1, expected at least 2"):
        self_consistency(QA, STEPS, RULE, samples=1)


def test_zero_shot_chain_of_thought_asks_twice():
    def thinker(request):
        if request.prompt.endswith("step by step."):
            return Completion(" 3 and 4. Add", "length")
        return " 7 apples. 9 pears."

    scripted = Scripted(thinker)
    answers = run(zero_shot_chain_of_thought(QA), scripted, SUMS[::2])
    assert answers == [Answer(7)] * 2
    assert scripted.rounds == ["complete"] * 2
    first, second = scripted.requests
    assert first.prompt == "Q: 3+4?\nA: Let's think step by step."
    assert second.prompt == (
        "Q: 3+4?\nA: Let's think step by step. 3 and 4. Add\n"
        "Therefore, the answer (arabic numerals) is"
    )
    assert (first.length, second.length) == (128, 32)


def test_the_trigger_can_be_searched_and_the_rule_be_another():
    scripted = Scripted(lambda r: "(B)")
    program = zero_shot_chain_of_thought(
        QA, choice(), answer="\nTherefore, among A to E, the answer is"
    )
    params = program.init(None, scripted.language)
    assert params.learnable["reason:in"] == " Let's think step by step."
    tried = [
        params._replace(learnable=params.learnable | {"reason:in": text})
        for text in (" Think.", " Go.")
    ]
    answers = program.apply(tried, scripted.language, SUMS[:1] * 2)
    assert answers == [Answer("(B)")] * 2 and len(scripted.rounds) == 2
    assert scripted.requests[0].prompt.endswith("A: Think.")
    assert scripted.requests[1].prompt.endswith("A: Go.")


def test_labels_are_a_list_of_texts():
    labels = "ab"
    for make in (zero_shot, lambda template, labels: few_shot(template, labels, [])):
        with pytest.raises(ValueError, match=r"got the labels .*a list of texts"):
            make("Review: {text} Sentiment: {label}", labels)
