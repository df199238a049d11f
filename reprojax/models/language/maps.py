"""Label maps over a language model's vocabulary: no word is chosen for a class.

As for images, but the source classes are words, tens of thousands for a handful of
examples. In the survey's table (arXiv 2506.04650) a statistical alignment follows
prompts over a raw input, and a remapped vocabulary; no language model is without a
prompt, has one of demonstrations or a soft one, and a map.
"""

from collections.abc import Callable
from functools import partial

from reprojax.alignments import (
    at_mask,
    bayesian,
    bayesian_plus,
    centred,
    last,
    one_to_one,
)
from reprojax.core import Manipulation, Params, chain, last_token, reprogram, stateless
from reprojax.core.guards import nearest
from reprojax.models import Model, role
from reprojax.models.language import Words


def one_word(model: Model[Words]) -> Model[Words]:
    """The same model, which answers one word a row: Tokens [B 1 V].

    A causal one answers behind the last word, a masked one at its mask, of which each
    row has one. The head judges that place alone, and `last()` takes the answer: label
    words, maps and prompts of causal models serve masked ones. It writes no texts.
    """
    (site,) = role(model, "features")
    if model.input.kind == "causal":
        place = stateless(last_token)
    elif model.input.kind == "masked" and model.input.special.mask is not None:
        place = at_mask(model.input.special.mask)
    else:
        raise ValueError(
            f"{model.name}, a {model.input.kind} model with the mask "
            f"{model.input.special.mask}, came, expected one that answers by words; "
            "give its features a head with linear(...)"
        )
    program = reprogram(model.forward, {site: place})
    nothing = Params({site: ()}, {site: ()})
    return model._replace(forward=partial(program.apply, nothing))


def vocabulary_map(
    model: Model[Words],
    targets: int,
    kind: str = "blm+",
    *,
    k: int | None = None,
    centre: bool = True,
) -> Manipulation:
    """From the next word's logits to the task's classes by an estimated map.

    Few rows of a task are answered by different words, so that an answer alone says
    little: "flm" (arXiv 2211.11635) gives most classes a word by chance, and "blm" and
    "blm+" (arXiv 2410.24018) weigh many words. With columns that sum to one, logits
    serve as log-probabilities do: a class of "blm+" scores, but for the smoothing, by
    minus the cross entropy of its mean answer and the row's, and a class whose answers
    scatter falls behind unless it is centred.

    Args:
        kind: "flm", which is also "ilm", "blm" or "blm+".
        k: of "blm+", how many of each row's most probable words count, by default 100
            where there are as many. The published .15 T is one word for few classes.
        centre: each word's mean logit over the examples is taken off before the map;
            the published maps do without.
    """
    k = min(100, model.input.vocabulary) if k is None else k
    kinds: dict[str, Callable[[int], Manipulation]] = {
        "flm": one_to_one,
        "ilm": one_to_one,
        "blm": bayesian,
        "blm+": partial(bayesian_plus, k=k),
    }
    if kind not in kinds:
        raise ValueError(
            f"a map of the kind {kind!r} came, expected one of {', '.join(kinds)}"
            f"{nearest(kind, kinds)}"
        )
    label_map = kinds[kind](targets)
    return chain(last=last(), map=centred(label_map) if centre else label_map)
