import math

import numpy as np
import pytest
from scripted import Scripted, spelled

from reprojax import Manipulation, Params, Program, chain, stateless
from reprojax.text import (
    Answer,
    Completion,
    Continuation,
    Dialogue,
    Language,
    Reply,
    Request,
    Scored,
    ask,
    drive,
    informed_texts,
    insert_text,
    instruct,
    metered,
    number,
    parsed,
    phrase,
    record_texts,
)

TEMPLATE = "Q: {question}\nA: {answer}"


def say(prompt):
    reply = yield Request(prompt)
    return reply.completions[0].text


def echo(request):
    return f"<{request.prompt}|{request.seed}>"


# -- drive


def test_all_queries_in_step_one_call_a_round_whatever_their_length():
    def count_down(n):
        seen = []
        for k in range(n):
            reply = yield Request(f"{n}-{k}")
            seen.append(reply.completions[0].text)
        return seen

    scripted = Scripted(lambda r: r.prompt.upper())
    got = drive([count_down(n) for n in (3, 0, 1, 2)], scripted.language)
    assert got == [["3-0", "3-1", "3-2"], [], ["1-0"], ["2-0", "2-1"]]
    assert scripted.rounds == ["complete"] * 3
    assert [r.prompt for r in scripted.requests[:3]] == ["3-0", "1-0", "2-0"]


def test_equal_requests_are_paid_once_and_answer_all_who_asked():
    scripted = Scripted(echo)
    got = drive([say("a"), say("b"), say("a")], scripted.language)
    assert got == ["<a|0>", "<b|0>", "<a|0>"]
    assert [r.prompt for r in scripted.requests] == ["a", "b"]


def sampled(seed, temperature):
    reply = yield Request("a", temperature=temperature, seed=seed)
    return reply.completions[0].text


def test_sampled_requests_are_told_apart_by_their_seeds_greedy_ones_are_not():
    scripted = Scripted(echo)
    got = drive([sampled(0, 0.7), sampled(1, 0.7), sampled(1, 0.7)], scripted.language)
    assert got == ["<a|0>", "<a|1>", "<a|1>"] and len(scripted.requests) == 2
    scripted = Scripted(echo)
    drive([sampled(0, 0.0), sampled(1, 0.0)], scripted.language)
    assert len(scripted.requests) == 1


def test_the_seed_of_a_drive_moves_sampled_requests_alone():
    scripted = Scripted(echo)
    assert drive([sampled(1, 0.7)], scripted.language, seed=10) == ["<a|11>"]
    assert drive([sampled(1, 0.0)], scripted.language, seed=10) == ["<a|0>"]


def test_a_round_holds_one_call_of_each_kind_and_a_prompt_comes_once():
    def both(prompt, labels):
        found = yield [Continuation(prompt, label) for label in labels]
        reply = yield Request(prompt)
        return [s.logp for s in found], reply.completions[0].text

    score = lambda item: -float(len(item.prompt + item.text))
    scripted = Scripted(echo, score)
    runs = [both("p", [" a"]), both("long", [" a"]), both("p", [" bb", " a"]), say("p")]
    got = drive(runs, scripted.language)
    assert got[0] == ([-3.0], "<p|0>") and got[2] == ([-4.0, -3.0], "<p|0>")
    assert scripted.rounds == ["complete", "score", "complete"]
    assert scripted.items == [("p", " a"), ("p", " bb"), ("long", " a")]


def test_a_list_gets_a_list_even_of_one_and_nothing_asks_nothing():
    def listed():
        one = yield [Request("a")]
        none = yield []
        return [r.completions[0].text for r in one], none

    scripted = Scripted(echo)
    assert drive([listed()], scripted.language) == [(["<a|0>"], [])]
    assert len(scripted.rounds) == 1


def test_a_fault_in_any_row_comes_before_anything_is_sent():
    scripted = Scripted(echo)
    program = instruct(ask(TEMPLATE), {})
    params = program.init(None, scripted.language)
    with pytest.raises(ValueError, match="'question'.* are missing"):
        program.apply(params, scripted.language, [{"question": "1"}, {"text": "2"}])
    assert not scripted.requests


@pytest.mark.parametrize(
    "request_, fault",
    [
        (Request("a", samples=0), "samples=0"),
        (Request("a", length=0), "length=0"),
        (Request("a", temperature=-1.0), "temperature=-1.0"),
        (Request("a", samples=3), "3 samples at temperature 0 are all the same"),
        (Request("a", stop=("",)), "an empty stop string"),
        ("a", "a dialogue yielded str"),
        (Continuation("a", ""), "an empty continuation"),
    ],
)
def test_what_cannot_be_asked(request_, fault):
    def one():
        yield request_

    scripted = Scripted(echo, lambda item: -1.0)
    with pytest.raises(ValueError, match=fault):
        drive([one()], scripted.language)
    assert not scripted.rounds


def test_a_prompt_that_is_too_long_is_refused_before_any_is_sent():
    scripted = Scripted(echo, encode=spelled, context=70)
    drive([say("a" * 5)], scripted.language)  # 6 tokens and 64
    with pytest.raises(ValueError, match="7 tokens and 64 .* at most 70 together"):
        drive([say("a"), say("a" * 6)], scripted.language)
    assert [r.prompt for r in scripted.requests] == ["aaaaa"]


def scoring(text):
    return (yield [Continuation("a" * 60, text)])


def test_a_continuation_has_to_fit_too():
    scripted = Scripted(None, lambda item: -1.0, encode=spelled, context=70)
    drive([scoring("b" * 9)], scripted.language)
    with pytest.raises(ValueError, match="71 tokens and 0 for the answer"):
        drive([scoring("b" * 10)], scripted.language)


def test_what_a_language_lacks_is_said():
    with pytest.raises(ValueError, match=r"no score\(\), expected one that can score"):
        drive([scoring(" b")], Language(lambda requests: []))
    with pytest.raises(
        ValueError, match=r"no complete\(\), expected one that can write"
    ):
        drive([say("b")], Language())


def test_wrong_numbers_of_answers_and_nan_are_noticed():
    two = Language(lambda requests: [Reply((Completion("x"), Completion("y")))])
    with pytest.raises(ValueError, match=r"with \[2\] completions, expected \[1\]"):
        drive([say("a")], two)


@pytest.mark.parametrize("logp", [math.nan, math.inf, -math.inf, 0.5, "-1", True, None])
def test_what_is_no_log_probability_is_noticed(logp, unchecked):
    wrong = Language(score=lambda items: [Scored(logp) for _ in items])
    with pytest.raises(ValueError, match="1 of them wrong.*correct its score"):
        drive([scoring(" b")], wrong)


def test_numbers_of_numpy_are_log_probabilities():
    fine = Language(score=lambda items: [Scored(np.float32(-1)) for _ in items])
    assert drive([scoring(" b")], fine)


@pytest.mark.parametrize(
    "one", [Completion(7), Completion("a", "eos"), Completion(None)]
)
def test_an_answer_that_is_no_text_or_ended_by_nothing_known(one, unchecked):
    wrong = Language(lambda requests: [Reply((one,)) for _ in requests])
    with pytest.raises(ValueError, match=r"expected a text that ended by one of"):
        drive([say("a")], wrong)


def test_a_text_that_utf8_cannot_hold_is_refused_before_it_is_sent():
    for asked in (say("a\ud83d"), scoring(" b\ud83d")):
        with pytest.raises(ValueError, match="expected whole characters"):
            drive([asked], Language(lambda r: 1 / 0, lambda i: 1 / 0))


def test_metered_counts_what_was_paid():
    scripted = Scripted(lambda r: "two words", lambda item: -1.0)
    language, usage = metered(scripted.language)
    drive([say("a b c"), say("a b c"), say("d"), scoring(" x")], language)
    assert (usage.requests, usage.scored) == (2, 1)
    assert (usage.prompt_tokens, usage.tokens) == (4, 4)
    assert "2 requests, 1 continuations scored, 4 tokens of prompts" in repr(usage)


# -- instruct


def adder(request):
    a, b = request.prompt.split("Q: ")[-1].split("\n")[0].split("+")
    return f" {int(a) + int(b)}"


XS = [{"question": "1+2"}, {"question": "30+4"}, {"question": "1+2"}]


def program(**at):
    at = {name.replace("_", ":"): m for name, m in at.items()}
    return instruct(ask(TEMPLATE), {"output": parsed(number()), **at})


def test_a_procedure_is_a_program_over_rows():
    scripted = Scripted(adder)
    made = program(ask_in=insert_text(phrase("Add.\n")))
    assert isinstance(made, Program)
    params = made.init(None, scripted.language)
    assert params == Params(
        {"output": (), "ask:in": ()}, {"output": (), "ask:in": "Add.\n"}
    )
    answers = made.apply(params, scripted.language, XS)
    assert answers == [Answer(3), Answer(34), Answer(3)]
    assert [r.prompt for r in scripted.requests] == [
        "Add.\nQ: 1+2\nA:",
        "Add.\nQ: 30+4\nA:",
    ]


def test_learnable_text_is_a_leaf_that_a_search_can_change():
    made = program(ask_in=insert_text(phrase("Add.\n", learnable=True)))
    scripted = Scripted(adder)
    params = made.init(None, scripted.language)
    assert params.learnable["ask:in"] == "Add.\n"
    other = params._replace(learnable=params.learnable | {"ask:in": "Sum.\n"})
    answers = made.apply([params, other], scripted.language, XS[:1] * 2)
    assert answers == [Answer(3)] * 2 and scripted.rounds == ["complete"]
    assert [r.prompt[:4] for r in scripted.requests] == ["Add.", "Sum."]


def test_a_site_that_is_not_there_is_told_before_anything_is_asked():
    with pytest.raises(ValueError, match=r"no such site: \['ask:inn'\].*'ask:in'"):
        program(ask_inn=insert_text(phrase("x")))

    def run(x, edit):
        yield Request(edit("hidden", "a"))

    wrong = instruct(Dialogue(run, ("ask:in",)), {})
    with pytest.raises(ValueError, match="add it to the dialogue's sites"):
        wrong.apply(wrong.init(None, Language()), Scripted(echo).language, XS)


def test_a_program_edits_first_then_hands_on():
    scripted = Scripted(adder)
    made = program(ask_in=insert_text(phrase("Add.\n")))
    params = made.init(None, scripted.language)
    sites = ["input", "ask:in/raw", "ask:in", "ask:out", "output/raw", "output"]
    answers, seen = record_texts(made.apply, sites)(params, scripted.language, XS)
    assert [one["output"] for one in seen] == answers
    assert seen[1]["ask:in/raw"] == "Q: 30+4\nA:"
    assert seen[1]["ask:in"] == scripted.requests[1].prompt
    assert seen[1]["output/raw"].completions[0].text == " 34"
    assert seen[2]["input"] == XS[2]


def test_record_refuses_a_site_that_did_not_come():
    scripted, made = Scripted(adder), program()
    params = made.init(None, scripted.language)
    with pytest.raises(ValueError, match=r"no such site: \['ask:in/raw'\].*got these"):
        record_texts(made.apply, ["ask:in/raw"])(params, scripted.language, XS)


def test_a_chain_of_texts_acts_in_its_order_and_its_taps_have_names():
    def tapping(word):
        def apply(params, value, scope):
            return value + scope.tap("said", word)

        return Manipulation(lambda key, spec, scope: Params(), apply)

    scripted = Scripted(echo)
    made = instruct(
        ask(TEMPLATE),
        {
            "ask:in": chain(
                front=insert_text(phrase("1")), a=tapping("2"), b=tapping("3")
            )
        },
    )
    params = made.init(None, scripted.language)
    assert params.fixed["ask:in"] == {"front": "1", "a": (), "b": ()}
    run = record_texts(made.apply, ["ask:in", "ask:in/a/said", "ask:in/b/said"])
    _, seen = run(params, scripted.language, XS[:1])
    assert seen[0]["ask:in"] == "1Q: 1+2\nA:23"
    assert (seen[0]["ask:in/a/said"], seen[0]["ask:in/b/said"]) == ("2", "3")


def test_the_input_can_be_edited():
    scripted = Scripted(adder)
    made = program(input=stateless(lambda x: {"question": x["question"] + "0"}))
    params = made.init(None, scripted.language)
    assert made.apply(params, scripted.language, XS[:1]) == [Answer(21)]


def test_contexts_come_one_a_row_and_informed_makes_them_for_all_at_once():
    calls = []

    def look(xs):
        calls.append(len(xs))
        return [len(x["question"]) for x in xs]

    def context_in_front():
        def apply(params, value, scope):
            return f"{scope.context}{value}"

        return Manipulation(lambda key, spec, scope: Params(), apply)

    scripted = Scripted(echo)
    made = informed_texts(instruct(ask(TEMPLATE), {"ask:in": context_in_front()}), look)
    params = made.init(None, scripted.language)
    made.apply(params, scripted.language, XS)
    assert calls == [3]
    assert [r.prompt[:4] for r in scripted.requests] == ["3Q: ", "4Q: "]
    made.apply(params, scripted.language, XS[:1], ["given"])
    assert calls == [3] and scripted.requests[-1].prompt.startswith("givenQ")
    _, seen = record_texts(made.apply, ["ask:in"])(params, scripted.language, XS)
    assert seen[1]["ask:in"].startswith("4Q") and calls == [3, 3]


@pytest.mark.parametrize(
    "xs, contexts, fault",
    [
        ({"question": "1+2"}, None, "one dict for xs, expected a list of rows"),
        (XS, [1], "1 contexts with 3 rows"),
    ],
)
def test_lists_of_other_lengths(unchecked, xs, contexts, fault):
    scripted, made = Scripted(adder), program()
    params = made.init(None, scripted.language)
    with pytest.raises(ValueError, match=fault):
        made.apply(params, scripted.language, xs, contexts)
    assert not scripted.rounds


def test_no_rows_ask_nothing():
    scripted, made = Scripted(adder), program()
    assert made.apply(made.init(None, scripted.language), scripted.language, []) == []
    assert record_texts(made.apply, ["output"])(Params(), scripted.language, []) == (
        [],
        [],
    )
