from fractions import Fraction

import numpy as np
import pytest
from scripted import Scripted

from reprojax.core import Params, Scope
from reprojax.text import (
    Answer,
    Completion,
    Reply,
    Score,
    ask,
    balanced_accuracy,
    choice,
    instruct,
    likeliest,
    majority,
    number,
    parsed,
    record_texts,
    score,
    table,
    words,
)


@pytest.mark.parametrize(
    "text, last",
    [
        ("The answer is 18.", 18),
        ("18", 18),
        ("it is 1,234,567.50 in all.", Fraction("1234567.5")),
        ("$2,125", 2125),
        ("-3", -3),
        ("so x = -3", -3),
        ("minus: −3", -3),
        ("10-3=7", 7),
        ("10 -3", -3),
        ("from 5-6", 6),
        ("(5)-6", 6),
        ("3/4", Fraction(3, 4)),
        ("18.00", 18),
        ("$.50", Fraction(1, 2)),
        ("5%", 5),
        ("1 and 2, 3", 3),
        ("in 2 steps of 40, 12 each", 12),
        ("1/0", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text, last):
    assert number()(text) == last


def test_equal_numbers_are_one_value_however_written():
    written = ["18", "18.0", "$18", "18.00."]
    assert len({number()(w) for w in written}) == 1


def test_the_first_number_and_the_first_behind_a_marker():
    text = "3 and 4 are 7. The answer is 7, not 8. the ANSWER is 9, or 10."
    assert number("first")(text) == 3
    assert number()(text) == 10
    assert number(after="the answer is")(text) == 9  # the last marker decides
    assert number(after="####")(text) is None
    assert number(after="####")("1\n#### 2") == 2
    assert number(after="answer is")("the answer is unknown") is None


@pytest.mark.parametrize(
    "text, letter",
    [
        ("(B)", "(B)"),
        (" B. ", "(B)"),
        ("B", "(B)"),
        ("it is (C) Tuesday, (C)", "(C)"),
        ("(A) or (B)", None),
        ("Tuesday.", "tuesday"),
        ("A cat", "a cat"),
        ("", None),
    ],
)
def test_choices(text, letter):
    assert choice()(text) == letter


def test_a_choice_behind_its_marker():
    rule = choice("the answer is")
    assert rule("(A) is wrong, (B) too. So the answer is (D).") == "(D)"
    assert rule("(A) is right.") is None
    assert rule("the answer is Monsters, Inc.") == "monsters, inc"


def test_words():
    rule = words("the answer is")
    assert rule("So the answer is  True .\n\nQ: next") == "true"
    assert rule("so the answer is ] ) }") == "] ) }"
    assert rule("True") is None and rule("the answer is ") is None
    among = words(among=("Yes", "No"))
    assert among("yes.") == "yes" and among("Yes, it is") is None


def one(text, finish="stop"):
    return Reply((Completion(text, finish),))


def test_cut_and_withheld_answers_are_not_read():
    apply = parsed(number()).apply
    assert apply(Params(), one("12"), Scope()) == Answer(12)
    assert apply(Params(), one("12", "length"), Scope()) == Answer(None, "truncated")
    assert apply(Params(), one("12", "refused"), Scope()) == Answer(None, "refused")
    assert apply(Params(), one("no"), Scope()) == Answer(None, "unparsable")
    two = Reply((Completion("1"), Completion("2")))
    with pytest.raises(ValueError, match=r"got 2 completions.*majority\(rule\)"):
        apply(Params(), two, Scope())


def vote(*said):
    made = [s if isinstance(s, Completion) else Completion(s) for s in said]
    return majority(number()).apply(Params(), Reply(tuple(made)), Scope())


def test_the_majority_of_what_could_be_read():
    cut = Completion("9", "length")
    assert vote("1", "2", "2") == Answer(2)
    assert vote("1", "2.0", "2", "1", "1.00") == Answer(1)
    assert vote("5", "3", "3", "5") == Answer(5), "the first that came"
    assert vote(cut, cut, cut, "4", "none") == Answer(4)
    assert vote(cut, cut, "none") == Answer(None, "truncated")
    assert vote("none", "no", cut) == Answer(None, "unparsable")


def test_votes_can_be_seen():
    scripted = Scripted(lambda r: ["1", "2", "x"])
    dialogue = ask("{q} {a}", samples=3, temperature=0.7)
    program = instruct(dialogue, {"output": majority(number())})
    params = program.init(None, scripted.language)
    run = record_texts(program.apply, ["output/votes"])
    _, seen = run(params, scripted.language, [{"q": "?"}])
    assert seen[0]["output/votes"] == [Answer(1), Answer(2), Answer(None, "unparsable")]


def test_likeliest():
    apply = likeliest().apply
    assert apply(Params(), [-3.0, -1.0, -1.0], Scope()) == Answer(1)


def test_a_fault_counts_as_an_answer_that_is_not_right():
    answers = [
        Answer(1),
        Answer(2),
        Answer(None, "unparsable"),
        Answer(None, "truncated"),
        Answer(None, "truncated"),
        Answer(None, "refused"),
        Answer(1),
        Answer(1),
    ]
    found = score(answers, [1, 1, 1, 1, 1, 1, 1, 2])
    assert found == Score(8, 2, 1, 2, 1)
    assert found.accuracy == 0.25
    assert str(found) == "0.250 of 8, 1 unparsable, 2 truncated, 1 refused"
    assert str(score([Answer(1)], [1])) == "1.000 of 1"


def test_balanced_accuracy_is_the_mean_of_the_classes():
    answers = [Answer(v) for v in (0, 0, 0, 0, 0, 0, 0, 0, 0, 1)]
    gold = [0] * 8 + [1, 1]
    assert balanced_accuracy(answers, gold) == 0.75
    assert score(answers, np.array(gold)).accuracy == 0.9
    spoiled = [*answers[:-1], Answer(1, "truncated")]
    assert balanced_accuracy(spoiled, gold) == 0.5
    with pytest.raises(ValueError, match="10 answers and 9 true ones"):
        balanced_accuracy(answers, gold[1:])


def test_a_fault_is_wrong_even_if_its_value_is_not():
    assert score([Answer(1, "truncated")], [1]).correct == 0


@pytest.mark.parametrize(
    "answers, gold, fault",
    [
        ([Answer(1)], [1, 2], "1 answers and 2 true ones"),
        ([], [], "at least one"),
        ([Answer(None, "unparsable")], [None], "a true answer is None"),
    ],
)
def test_scores_refuse(answers, gold, fault):
    with pytest.raises(ValueError, match=fault):
        score(answers, gold)


def test_a_table_has_the_mean_of_its_tasks():
    text = table({"one": Score(4, 4), "two": Score(2, 1, 1)})
    assert [line.split() for line in text.split("\n")] == [
        ["one", "1.000", "of", "4"],
        ["two", "0.500", "of", "2,", "1", "unparsable"],
        ["mean", "of", "2", "0.750"],
    ]


def test_the_only_answers_are_read_as_the_answer_is():
    rule = words(among=("Not  Spam.", "spam"))
    assert rule(" not spam\n") == "not spam" and rule("SPAM.") == "spam"
    with pytest.raises(ValueError, match="differ by more than case"):
        words(among=("yes", "Yes."))


def test_a_number_that_python_would_not_read_says_nothing():
    assert number()("It is " + "9" * 5000) is None
    assert number()("It is 1/" + "0" * 5000) is None
    assert number()("It is " + "9" * 300) == int("9" * 300)


def test_a_right_answer_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="is None or NaN"):
        score([Answer(1.0)], [float("nan")])


@pytest.mark.parametrize(
    "text", ["1,5", "5e3", "1.2.3", "12,34,567", "1,50000", "2E-4"]
)
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_piece_of_something_else_is_no_number(text, which):
    assert number(which)(f"It is {text}.") is None
    assert number(after="is")(f"It is {text}") is None


def test_scores_of_nan_are_no_class():
    with pytest.raises(ValueError, match="a number for each class"):
        likeliest().apply(Params(), np.array([1.0, np.nan]), Scope())


@pytest.mark.parametrize("right", [["yes", "no"], np.array(["yes", "no"])])
def test_texts_are_not_compared_with_classes(right):
    classes = [Answer(1), Answer(0)]
    with pytest.raises(ValueError, match="texts with texts"):
        score(classes, right)
    with pytest.raises(ValueError, match="texts with texts"):
        score([Answer("yes"), Answer("no")], np.array([1, 0]))
    assert score([Answer(1), Answer(None, "unparsable")], [1, 0]).correct == 1
