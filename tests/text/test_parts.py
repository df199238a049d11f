import pytest
from scripted import Scripted, spelled, worded

from reprojax import chain
from reprojax.text import (
    ask,
    count_tokens,
    demonstrations,
    insert_text,
    instruct,
    phrase,
    record_texts,
)

TEMPLATE = "Q: {question} A: {answer}"
ROWS = [{"question": f"{i}", "answer": f"a{i}"} for i in range(4)]
LINES = [f"Q: {i} A: a{i}\n" for i in range(4)]


def prompts(fmt, xs=({"question": "x"},), contexts=None, **made):
    """(the prompts, how many demonstrations each lacks)"""
    scripted = Scripted(lambda r: "", **{"encode": worded, **made})
    program = instruct(ask(TEMPLATE, length=1), {"ask:in": insert_text(fmt)})
    params = program.init(None, scripted.language)
    run = record_texts(program.apply, ["ask:in", "ask:in/dropped"])
    _, seen = run(params, scripted.language, list(xs), contexts)
    return [s["ask:in"] for s in seen], [s["ask:in/dropped"] for s in seen]


def test_rows_stand_in_order_in_front_of_the_query():
    assert prompts(demonstrations(TEMPLATE, ROWS), encode=None) == (
        ["".join(LINES) + "Q: x A:"],
        [0],
    )


def test_insert_at_a_place_and_behind():
    scripted = Scripted(lambda r: "")
    for at, expected in ((0, "!Q: x A:"), (3, "Q: !x A:"), (None, "Q: x A:!")):
        program = instruct(ask(TEMPLATE), {"ask:in": insert_text(phrase("!"), at)})
        params = program.init(None, scripted.language)
        program.apply(params, scripted.language, [{"question": "x"}])
        assert scripted.requests[-1].prompt == expected


def test_between_stands_behind_each():
    made, _ = prompts(demonstrations(TEMPLATE, ROWS[:2], between="\n\n"))
    assert made == ["Q: 0 A: a0\n\nQ: 1 A: a1\n\nQ: x A:"]


def tokens(text):
    return len(worded(text))


@pytest.mark.parametrize("kept", range(5))
@pytest.mark.parametrize("drop", ["first", "last"])
def test_as_many_whole_demonstrations_as_the_budget_holds(kept, drop):
    """One token more than needed for `kept`, one less for another."""
    left = LINES[4 - kept :] if drop == "first" else LINES[:kept]
    expected = "".join(left) + "Q: x A:"
    fmt = demonstrations(TEMPLATE, ROWS, budget=tokens(expected), drop=drop)
    assert prompts(fmt) == ([expected], [4 - kept])
    if kept:
        fmt = demonstrations(TEMPLATE, ROWS, budget=tokens(expected) - 1, drop=drop)
        fewer, (dropped,) = prompts(fmt)
        assert dropped == 5 - kept and tokens(fewer[0]) < tokens(expected)


def test_the_budget_is_of_each_query():
    long = "x " * 6 + "x"
    budget = tokens("".join(LINES) + "Q: x A:")
    fmt = demonstrations(TEMPLATE, ROWS, budget=budget)
    made, dropped = prompts(fmt, [{"question": "x"}, {"question": long}])
    assert dropped == [0, 2]
    assert made[1] == "".join(LINES[2:]) + f"Q: {long} A:"
    assert [tokens(m) <= budget for m in made] == [True, True]


def test_by_default_the_budget_is_the_context_less_the_answer():
    whole = tokens("".join(LINES) + "Q: x A:")
    fmt = demonstrations(TEMPLATE, ROWS, reserve=1)  # the answer is one token long
    assert prompts(fmt, context=whole + 1)[1] == [0]
    assert prompts(fmt, context=whole)[1] == [1]


def test_a_query_that_does_not_fit_alone_is_refused_not_cut():
    alone = tokens("Q: x A:")
    assert prompts(demonstrations(TEMPLATE, ROWS, budget=alone))[1] == [4]
    with pytest.raises(ValueError, match=f"the query are {alone} tokens, expected at"):
        prompts(demonstrations(TEMPLATE, ROWS, budget=alone - 1))


def test_dropping_can_be_refused():
    whole = tokens("".join(LINES) + "Q: x A:")
    fmt = demonstrations(TEMPLATE, ROWS, budget=whole, drop="refuse")
    assert prompts(fmt)[1] == [0]
    fmt = demonstrations(TEMPLATE, ROWS, budget=whole - 1, drop="refuse")
    with pytest.raises(ValueError, match="4 demonstrations and the query are"):
        prompts(fmt)
    with pytest.raises(ValueError, match="got drop='middle'"):
        demonstrations(TEMPLATE, ROWS, drop="middle")


def test_a_budget_needs_a_tokeniser():
    with pytest.raises(ValueError, match=r"no encode\(\).* count tokens"):
        prompts(demonstrations(TEMPLATE, ROWS, budget=100), encode=None)


def test_what_is_inserted_afterwards_can_still_not_pass_the_context():
    scripted = Scripted(lambda r: "", encode=worded, context=tokens("Q: x A:") + 1)
    front = chain(
        rows=insert_text(demonstrations(TEMPLATE, ROWS, reserve=1)),
        more=insert_text(phrase("Answer now. ")),
    )
    program = instruct(ask(TEMPLATE, length=1), {"ask:in": front})
    params = program.init(None, scripted.language)
    with pytest.raises(ValueError, match="nothing was sent"):
        program.apply(params, scripted.language, [{"question": "x"}])
    assert not scripted.rounds


def test_rows_of_each_query_come_from_its_context():
    fmt = demonstrations(TEMPLATE)
    xs = [{"question": "x"}, {"question": "y"}]
    made, _ = prompts(fmt, xs, [ROWS[:1], ROWS[2:]])
    assert made == [LINES[0] + "Q: x A:", LINES[2] + LINES[3] + "Q: y A:"]
    with pytest.raises(ValueError, match="without rows got no context"):
        prompts(fmt, xs)


def test_a_row_that_lacks_a_field_is_told_by_init():
    scripted = Scripted(lambda r: "")
    fmt = demonstrations(TEMPLATE, [*ROWS, {"question": "?"}])
    program = instruct(ask(TEMPLATE), {"ask:in": insert_text(fmt)})
    with pytest.raises(ValueError, match=r"\['answer'\] are missing"):
        program.init(None, scripted.language)


def test_count():
    assert count_tokens(Scripted(encode=spelled).language, "abc") == 4
