import numpy as np
import pytest

from reprojax.text import asked, choose_label, ending, fields, fill


def test_fields_in_their_order_each_once():
    assert fields("{b} and {a}, {b}: {{c}}") == ("b", "a")
    assert fields("no field") == ()


def test_fill_puts_values_in_as_they_are():
    row = {"text": "a {brace} and {{two}}", "n": 3, "more": "unused"}
    assert fill("<{text}|{n}|{{x}}>", row) == "<a {brace} and {{two}}|3|{x}>"


def test_a_missing_field_is_named_with_both_sides_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"\['question', 'hint'\].*\['questions'\]"
    ) as e:
        fill("{question} {hint}", {"questions": "?"})
    assert "['question', 'hint'] are missing; did you mean 'questions'" in str(e.value)


@pytest.mark.parametrize(
    "template", ["{a b}", "{}", "{0}", "{a!r}", "{a:>3}", "{a", "a}", "{a.b}", "{a[0]}"]
)
def test_anything_but_a_plain_name_is_refused(template):
    with pytest.raises(
        ValueError, match="expected (plain names|fields) such as {text}"
    ):
        fields(template)


@pytest.mark.parametrize(
    "template, expected",
    [
        ("Review: {text}\nSentiment: {label}", ("Review: {text}\nSentiment:", " ")),
        ("Q: {question}\nA:{answer}", ("Q: {question}\nA:", "")),
        ("{text}\n\n{label}", ("{text}", "\n\n")),
    ],
)
def test_the_blank_before_the_answer_belongs_to_it(template, expected):
    question, gap, name = asked(template)
    assert (question, gap) == expected
    assert question + gap + "{" + name + "}" == template


@pytest.mark.parametrize(
    "template, fault",
    [
        ("{text} -> {label}.", "ends with the answer's"),
        ("{label}", "ends with the answer's"),
        ("no field", "ends with the answer's"),
        ("", "ends with the answer's"),
        ("{label}: {text} {label}", "has its answer 'label' in the question"),
    ],
)
def test_a_template_that_does_not_end_with_the_answer_is_refused(template, fault):
    with pytest.raises(ValueError, match=fault):
        asked(template)


def test_ending():
    assert ending("Review: {text}\nSentiment:") == "\nSentiment:"
    assert ending("Review: {text}") == ""
    assert ending("plain") == "plain"


@pytest.mark.parametrize("cell", [None, float("nan"), float("inf"), b"x", ["a"], {}])
def test_a_cell_that_is_no_text_is_refused(cell):
    with pytest.raises(ValueError, match="as the field 'text', expected a text or"):
        fill("Review: {text}\nSentiment:", {"text": cell})


@pytest.mark.parametrize(
    "cell", ["{text}", "{", "}}", "{0.__class__}", "%s", "\nSentiment: {label}", ""]
)
def test_what_a_cell_holds_is_never_read_as_a_template(cell):
    row = {"text": cell, "label": "good"}
    assert fill("R: {text}\nS: {label}", row) == f"R: {cell}\nS: good"


def test_numbers_are_written_as_they_print():
    row = {"a": 3, "b": np.float32(0.5), "c": np.int64(-2), "d": True}
    assert fill("{a} {b} {c} {d}", row) == "3 0.5 -2 True"


def test_a_label_that_brings_the_templates_blank_along_is_refused():
    with pytest.raises(ValueError, match="got the label ' good' after a template"):
        choose_label("R: {text}\nS: {label}", ("bad", " good"))
    choose_label("R: {text}\nS:{label}", (" bad", " good"))
