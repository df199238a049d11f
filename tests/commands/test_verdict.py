"""Sentences about tables whose answers are known."""

import pytest

from reprojax.commands.verdict import PIXELS, RANDOM, verdict

PROBE, MAP = "linear probe", "best map without prompt"
KEPT = ("mark", PROBE, MAP)


def said(scores, kept=KEPT, **given):
    found = verdict(scores, kept, **given)
    return found.take, " ".join(found.sentences)


def test_a_prompt_that_wins():
    # t of two degrees of freedom is 4.303; the differences are .3, .4 and .5
    take, text = said(
        {"mark": [0.8, 0.9, 1.0], MAP: [0.2, 0.2, 0.2], PROBE: [0.5, 0.5, 0.5]}
    )
    assert take == "mark"
    assert text == (
        "The prompt wins: mark has 0.900 ± 0.248, +0.400 [+0.152, +0.648] over the "
        "linear probe, the best of the rows without a prompt (paired over 3 seeds, "
        "95 % interval). Take the prompt: nothing that it was compared with does as "
        "well."
    )


def test_a_probe_that_wins():
    take, text = said(
        {"mark": [0.8, 0.82, 0.84], MAP: [0.3] * 3, PROBE: [0.9, 0.92, 0.95]}
    )
    assert take == PROBE
    assert text == (
        "The linear probe is best: it has 0.923 ± 0.063. The prompt does not beat it "
        "here (mark less the linear probe: -0.103 [-0.118, -0.089]; paired over 3 "
        "seeds, 95 % interval). Take the linear probe."
    )
    close = {"mark": [0.5] * 3, MAP: [0.8, 0.9, 0.8], PROBE: [0.9, 0.8, 0.9]}
    take, text = said(close)
    assert take == PROBE and "Whether the linear probe is better than " in text
    assert "than the best map without a prompt is not settled: +0.033 [" in text


def test_what_is_not_settled():
    take, text = said({"mark": [0.8, 0.9], MAP: [0.2, 0.2], PROBE: [0.84, 0.84]})
    assert take == PROBE
    assert text.startswith("2 seeds do not settle whether the prompt is better: mark ")
    assert "(mark less the linear probe: +0.010 [-0.625, +0.645]; paired" in text
    assert "--seeds 5 --resume. Until then take the linear probe, which is " in text
    near = [0.4, 0.5, 0.6, 0.5, 0.5, 0.5]
    assert "--seeds 12 " in said({"mark": near, PROBE: [0.5] * 6})[1]


def test_two_equal_differences_settle_nothing():
    """Accuracies of a few images are equal by chance."""
    high, low = [0.8, 0.4], [0.7, 0.3]  # 0.8 - 0.7 is 0.4 - 0.3 but for its rounding
    for own, probe, wanted in ((high, low, "mark"), (low, high, PROBE)):
        take, text = said({"mark": own, PROBE: probe})
        assert take == wanted and text.startswith("2 seeds do not settle whether the ")
        assert (
            f"(mark less the linear probe: {own[0] - probe[0]:+.3f} [no interval]; "
            in text
        )


def test_equal_differences_of_all_seeds_are_no_certainty():
    """With the same splits for all seeds a probe and a map have no chance in them."""
    take, text = said({"mark": [0.8] * 3, PROBE: [0.9] * 3})
    assert take == PROBE and text.startswith("3 seeds do not settle whether the prompt")
    assert "probe: -0.100 [no interval]; paired over 3 seeds). All seeds" in text
    assert "All seeds give the same difference, so label more test images." in text
    assert "--seeds" not in text


def test_one_seed_has_no_interval():
    for own, probe, wanted in (
        (0.9, 0.8, "mark"),
        (0.9, 0.9, PROBE),
        (0.8, 0.9, PROBE),
    ):
        take, text = said({"mark": [own], PROBE: [probe], RANDOM: [0.1]})
        assert take == wanted and "One seed gives no interval" in text
        assert "±" not in text and "[" not in text
    assert text.startswith("In one seed, the linear probe has 0.900, mark 0.800.")


def test_pixels_are_in_no_file():
    take, text = said({"mark": [0.79, 0.8, 0.81], PROBE: [0.7] * 3, PIXELS: [0.9] * 3})
    assert take == "mark"
    assert text.startswith("The nearest training image is best: it has 0.900 ± 0.000.")
    assert text.endswith("No file holds the nearest training image: take the prompt.")
    take, text = said({"mark": [0.8, 0.9], PROBE: [0.2, 0.3], PIXELS: [0.84, 0.84]})
    assert take == "mark" and text.endswith("Until then take the prompt.")
    take, text = said({"mark": [0.1], PIXELS: [0.9], PROBE: [0.2]})
    assert take == PROBE and "in files, the linear probe has most: 0.200. One" in text


@pytest.mark.parametrize(
    "untrained, begins",
    [
        ([0.2] * 3, "What the model has learned matters: on random weights the same "),
        ([0.9] * 3, "What the model has learned does not help: on random weights the"),
        ([0.2, 0.9], "It is not settled that what the model has learned matters: on "),
        ([0.2], None),
    ],
)
def test_whether_the_weights_matter(untrained, begins):
    scores = {"mark": [0.79, 0.8, 0.81], PROBE: [0.5] * 3, RANDOM: untrained}
    take, text = said(scores)
    assert take == "mark" and (begins or "") in text
    assert ("random weights" in text) == (begins is not None)
    assert "the linear probe, the best of the rows without" in text  # no candidate


def test_other_tables():
    assert said({"mark": [0.5, 0.7]}) == (
        "mark",
        "mark has 0.600 ± 1.271. It was compared with nothing.",
    )
    take, text = said(
        {"probe": [0.89, 0.9, 0.91], MAP: [0.5] * 3}, ("probe",), prompt=False
    )
    assert take == "probe" and text.startswith("probe is best: it has 0.900 ± 0.025, ")
    nan = float("nan")
    take, text = said({"mark": [nan, 0.9], PROBE: [0.5, 0.5]})
    assert take == PROBE and "mark has values that are not finite" in text
    take, text = said({"mark": [0.9] * 3, PROBE: [nan, 0.5, 0.5], MAP: [0.5] * 3})
    assert take == "mark" and text.endswith(
        "linear probe has values that are not finite."
    )
    assert verdict({"mark": [nan]}, KEPT).take is None


def test_a_pair_is_compared_with_zero_shot_and_the_probe():
    scores = {"coop": [0.8, 0.9, 1.0], "zero-shot": [0.5] * 3, PROBE: [0.6, 0.7, 0.81]}
    take, text = said(scores, ("coop", "zero-shot", PROBE))
    assert take == "coop"
    assert text.endswith(
        "coop has +0.400 [+0.152, +0.648] over zero-shot and +0.197 [+0.182, +0.211] "
        "over the linear probe."
    )
    scores |= {PROBE: [0.9, float("nan"), 0.9]}
    assert "] over zero-shot. linear probe has values" in said(scores)[1]
