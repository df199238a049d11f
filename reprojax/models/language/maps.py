"""Label maps over a language model's vocabulary, without label words.

As for images, but the source classes are tokens: tens of thousands for a handful of
examples. In the survey's table (arXiv 2506.04650), statistical alignments appear only
with raw-input prompts and with vocabulary remapping. It has no entry that combines a
language model and a label map with no prompt, with demonstrations, or with a soft
prompt.
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
    """The model with one answer a row: Tokens [B 1 V].

    A causal model answers at the last token, a masked one at its mask, one of which
    each row has. The head runs at that place only, and `last()` takes the answer, so
    label words, maps and prompts for causal models also serve masked ones. It cannot
    write texts.
    """
    (site,) = role(model, "features")
    if model.input.kind == "causal":
        place = stateless(last_token)
    elif model.input.kind == "masked" and model.input.special.mask is not None:
        place = at_mask(model.input.special.mask)
    else:
        raise ValueError(
            f"got {model.name}, a {model.input.kind} model with the mask "
            f"{model.input.special.mask}, expected one that answers with words; "
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
    """An estimated map from the next token's logits to the task's classes.

    A task's few rows are often answered by different words, so the answer alone says
    little: "flm" (arXiv 2211.11635) gives most classes a word by chance, while "blm"
    and "blm+" (arXiv 2410.24018) weigh many words. Columns sum to one, so logits act as
    log-probabilities: up to smoothing, "blm+" scores a class by minus the cross entropy
    of its mean answer and the row's. A class with scattered answers falls behind unless
    the logits are centred.

    Args:
        kind: "flm" or its synonym "ilm", "blm" or "blm+".
        k: of "blm+", how many of each row's most probable words count; by default 100,
            or all. The published .15 T is one word for few classes.
        centre: subtract each word's mean logit over the examples before the map; the
            published maps do not.
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
            f"got a map of the kind {kind!r}, expected one of {', '.join(kinds)}"
            f"{nearest(kind, kinds)}"
        )
    label_map = kinds[kind](targets)
    return chain(last=last(), map=centred(label_map) if centre else label_map)
