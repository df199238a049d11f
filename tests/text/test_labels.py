import pytest
from scripted import Scripted, spelled, worded

from reprojax.text import (
    Continuation,
    Scored,
    check_labels,
    choose_label,
    instruct,
    label_tokens,
    one_token_each,
    verbaliser,
)


def test_tokens_of_a_label_are_those_of_the_whole_less_the_prompts():
    assert label_tokens(spelled, "So:", [" ab", "c"]) == [(32, 97, 98), (99,)]
    found = label_tokens(worded, "So:", [" good", " very bad"])
    assert [len(tokens) for tokens in found] == [1, 2]
    assert found[0] == (worded(" good")[1],)


def test_a_label_that_joins_the_prompts_last_token_is_refused():
    with pytest.raises(ValueError, match="'good' does not begin at a token's border"):
        label_tokens(worded, "So: ", ["good"])  # " good" is one token
    with pytest.raises(ValueError, match="expected one that does"):
        label_tokens(worded, "So:", [""])


def test_one_token_each():
    found = one_token_each(worded, "So:", [" good", " bad"])
    assert found == [worded(" good")[1], worded(" bad")[1]]
    with pytest.raises(ValueError, match=r"several tokens: ' very bad' \(2\)"):
        one_token_each(worded, "So:", [" good", " very bad"])


def test_two_labels_that_begin_with_one_token():
    """Refused where a single token decides, allowed where whole labels are scored."""
    labels = [" not good", " not bad"]
    with pytest.raises(ValueError, match="' not good' and ' not bad' begin with one"):
        one_token_each(worded, "So:", labels)
    language = Scripted(encode=worded).language
    check_labels(language, "So:", labels)
    with pytest.raises(ValueError, match="begin with one token"):
        check_labels(language, "So:", labels, one_token=True)


def test_a_label_that_begins_another_would_always_win():
    language = Scripted(encode=worded).language
    with pytest.raises(ValueError, match="' not' is the beginning of ' not good'"):
        check_labels(language, "So:", [" not good", " not"])
    check_labels(language, "So:", [" not good", " not"], by="mean")
    check_labels(language, "So:", [" no", " note"])  # other tokens


def test_labels_of_the_same_tokens_are_refused():
    unknown = lambda text: [7] * len(text.split())
    with pytest.raises(ValueError, match="' good' and ' bad' have the same tokens"):
        check_labels(Scripted(encode=unknown).language, "So:", [" good", " bad"])


def test_without_tokens_only_the_words_are_checked():
    language = Scripted().language
    check_labels(language, "So:", [" not good", " not"])
    with pytest.raises(ValueError, match=r"no encode\(\)"):
        check_labels(language, "So:", [" a", " b"], one_token=True)


@pytest.mark.parametrize("labels", [[" a"], [" a", " b", " a"], []])
def test_labels_are_two_or_more_each_once(labels):
    with pytest.raises(ValueError, match="expected at least two, each once"):
        check_labels(Scripted().language, "So:", labels)


def test_a_verbaliser_checks_before_anything_is_scored():
    scripted = Scripted(score=lambda item: -1.0, encode=worded)
    template = "{text} So: {label}"
    made = instruct(
        choose_label(template, ["not good", "not bad"]),
        {"output": verbaliser("So:", [" not good", " not bad"], one_token=True)},
    )
    with pytest.raises(ValueError, match="begin with one token"):
        made.init(None, scripted.language)
    assert not scripted.rounds


@pytest.mark.parametrize("by, expected", [("sum", [-2.0, -4.0]), ("mean", [-2.0, -2])])
def test_scores_are_sums_or_means_over_the_labels_tokens(by, expected):
    def logp(item):
        tokens = len(item.text.split())
        return Scored(-2.0 * tokens, tokens)

    scripted = Scripted(score=logp)
    made = instruct(choose_label("{text} So: {label}", ["good", "very bad"], by), {})
    params = made.init(None, scripted.language)
    (found,) = made.apply(params, scripted.language, [{"text": "x"}])
    assert found.tolist() == expected
    assert scripted.items[1] == Continuation("x So:", " very bad")


def test_labels_are_compared_by_sum_or_mean(unchecked):
    with pytest.raises(ValueError, match="got by='max'"):
        choose_label("{text} {label}", ["a", "b"], "max")
