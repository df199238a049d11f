"""What the table means, in words."""

from collections.abc import Mapping, Sequence

import numpy as np

from reprojax.commands.intervals import Mean, mean_of, paired

Scores = Mapping[str, Mapping[str, Sequence[float]]]


def said(methods: Sequence[str], scores: Scores) -> list[str]:
    """Which prompt is best on base and on new classes, or on other data sets, over what
    needs none, and which of the published orders hold.

    Args:
        scores: {method or control: {what is asked: accuracies by seed}}.
    """
    every = dict.fromkeys(asked for own in scores.values() for asked in own)
    places = [asked for asked in every if asked != "harmonic"]
    lines = [line for asked in places for line in best(methods, scores, asked)]
    return lines + orders(scores)


def best(methods: Sequence[str], scores: Scores, asked: str) -> list[str]:
    """The best prompt, and the best of what needs none, on these images."""
    prompts = [n for n in methods if asked in scores.get(n, {})]
    others = [n for n in scores if n not in methods and asked in scores[n]]
    if not prompts or not others:
        return []
    high = lambda names: max(names, key=lambda n: float(np.mean(scores[n][asked])))
    own, rival = high(prompts), high(others)
    over = paired(scores[own][asked], scores[rival][asked])
    settled = abs(over.value) > over.half
    ahead = "the prompt wins" if over.value > 0 else "no prompt beats it"
    verdict = ahead if settled else "the seeds do not settle which is better"
    where = f"{asked} classes" if asked in ("base", "new") else asked
    return [
        f"On {where} the best prompt is {own}, {mean_of(scores[own][asked])}; "
        f"the best without is {rival}, {mean_of(scores[rival][asked])}: "
        f"{over.interval} for the prompt, paired, so {verdict}."
    ]


PUBLISHED = (  # (better, worse, on)
    ("coop", "zero-shot", "base"),
    ("cocoop", "coop", "new"),
    ("kgcoop", "coop", "new"),
    ("maple", "coop", "new"),
    ("promptsrc", "coop", "new"),
)


def orders(scores: Scores) -> list[str]:
    """Each published order: whether it holds here, by paired differences."""
    lines = []
    for better, worse, asked in PUBLISHED:
        a, b = scores.get(better, {}).get(asked), scores.get(worse, {}).get(asked)
        if a is not None and b is not None:
            over = paired(a, b)
            lines.append(
                f"Published: {better} above {worse} on {asked} classes. Here "
                f"{over.interval}: {holds(over)}."
            )
    return lines


def holds(over: Mean) -> str:
    """What an interval says of an order."""
    if np.isnan(over.half) or abs(over.value) <= over.half:
        return "not settled"
    return "it holds" if over.value > 0 else "it does not hold"
