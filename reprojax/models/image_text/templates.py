"""Published texts for names of classes: templates as data, sentences from a file.

`IMAGENET` are the 80 templates of CLIP (arXiv 2103.00020) from its notebook on prompts
for ImageNet, in its order; `SELECTED` the seven that its authors' forward selection
took from them; `ALL` the 81 of ILM-VP (arXiv 2211.11635), that is "This is a photo of a
{}." and those 80; `OF_TASKS` the hand-written template of each data set in the code of
CoOp (arXiv 2109.01134).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reprojax.core.guards import nearest
from reprojax.saving.files import read_json

IMAGENET = tuple(
    """
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}.
""".strip().splitlines()
)
SELECTED = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
ALL = ("This is a photo of a {}.", *IMAGENET)
OF_TASKS = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "StanfordCars": "a photo of a {}.",
    "Food101": "a photo of {}, a type of food.",
    "SUN397": "a photo of a {}.",
    "Caltech101": "a photo of a {}.",
    "UCF101": "a photo of a person doing {}.",
    "ImageNet": "a photo of a {}.",
    "ImageNetSketch": "a photo of a {}.",
    "ImageNetV2": "a photo of a {}.",
    "ImageNetA": "a photo of a {}.",
    "ImageNetR": "a photo of a {}.",
}


def read_sentences(
    path: str | os.PathLike, classes: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """{class: its sentences} of a JSON file, as CuPL has it (arXiv 2209.03320).

    They are the `sentences` of `classifier`.

    Args:
        classes: the task's; by default those of the file, in its order.

    Raises:
        ValueError: no object of lists of texts, a class that has no sentences in the
            file, or one in the file that is none of the classes.
    """
    found = read_json(Path(path), dict[str, Any])
    for name, own in found.items():
        _check_list(f"{path}: the class {name!r}", own)
    if classes is None:
        return found
    if unknown := [name for name in found if name not in classes]:
        raise ValueError(
            f"{path} has sentences for {unknown[0]!r}, expected the task's "
            f"{len(classes)} classes{nearest(unknown[0], classes)}; rename or remove "
            f"it{'' if len(unknown) == 1 else f', and {len(unknown) - 1} more'}"
        )
    if missing := [name for name in classes if name not in found]:
        raise ValueError(
            f"{path} has no sentences for {missing[0]!r}"
            f"{'' if len(missing) == 1 else f' and {len(missing) - 1} more'}, expected "
            "some for every class; add them"
        )
    return {name: found[name] for name in classes}


def _check_list(what: str, own: Any) -> None:
    texts = own if isinstance(own, list) else ()
    if not texts or any(not isinstance(t, str) or not t.strip() for t in texts):
        raise ValueError(
            f"{what} has {own!r:.60}, expected a list of sentences, even of a single "
            'one; write ["..."]'
        )
