"""A pair of towers, and the classifier that it is together with names of classes.

>>> import numpy as np
>>> from reprojax.models import image_text
>>> pair = image_text.load("sketches")  # or "openai/clip-vit-base-patch32", a folder
>>> model = classifier(pair, ["red arrow", "blue anchor"], templates=["a {}"])
>>> images = np.zeros((3, 32, 32, 3), np.uint8)
>>> model.forward(model.frozen, images).shape  # zero-shot
(3, 2)

The classifier is a card of an image model, so every recipe for images takes it. Its
sites are those of both towers:

"input", "normalized", "image/block_0:in", ..., "image/features", "text/input",
"text/embed:out", "text/block_0:in", ..., "text/features", "output".

The texts are ids in its frozen tree, beside their features, computed once. A trace that
changes no text site takes these features, and XLA removes the text tower; a program
with a prompt in it runs it. Nobody declares which.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.core import Tracer
from jaxtyping import Array, Float, UInt8

from reprojax.core import Edit, Forward, PyTree, Tokens, padded, passthrough
from reprojax.core.vectors import unit
from reprojax.models.card import Model
from reprojax.models.image_text.templates import SELECTED
from reprojax.models.language.card import Words
from reprojax.models.vision.pixels import Pixels, drawn

TEMPLATE = "a photo of a {}."
AT_ONCE = 64  # texts, or images, that a tower gets in one call


class Texts(NamedTuple):
    """The texts of a classifier, in its frozen tree."""

    tokens: Tokens
    """ids [R L]"""
    features: Float[Array, "R J"]
    """What the text tower makes of them."""
    weights: Float[Array, "T R"] | None
    """How much each text counts for a class; None: one text a class, T = R."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two towers with one joint space."""

    name: str
    image: Model[Pixels]
    """Its answer is a feature [B J]."""
    text: Model[Words]
    """Its answer is a feature [R J]."""
    scale: Float[Array, ""]
    """Of the cosines: logits are exp(scale) cos + bias."""
    bias: Float[Array, ""]
    padding: Literal["", "left", "right"] = ""
    """The side on which texts are padded to all positions, with tokens that count
    (SigLIP); "": padding does not count."""
    ensemble: tuple[str, ...] = SELECTED
    """Templates whose mean features answer well for many kinds of images."""


def classifier(
    pair: Pair,
    classes: Iterable[str],
    templates: Iterable[str] = (TEMPLATE,),
    *,
    sentences: Mapping[str, Iterable[str]] | None = None,
    weights: Float[Array | np.ndarray, "T R"] | None = None,
    room: int = 0,
) -> Model[Pixels]:
    """The pair as a classifier of these names: logits [B T], or [B R] of `of_texts`.

    A class with several texts has the mean of their unit features, again of unit
    length (arXiv 2103.00020).

    Args:
        templates: texts with {} for the name.
        sentences: {class: texts} instead of names in templates, as of CuPL.
        weights: how much each text counts, in place of the same for all: [T R], its
            columns in the order of classes, within one in that of its texts.
        room: positions that prompts take, where texts are padded to all positions.

    Raises:
        ValueError: no names, an empty or doubled one, a template without {}, a class
            without sentences or without a weight, a text that is too long, a pair
            without tokeniser.
    """
    names = check_names(classes)
    of = sentences_of(names, templates) if sentences is None else sentences
    of = check_sentences(names, of)
    texts = [text for name in names for text in of[name]]
    counts = [len(of[name]) for name in names]
    tokens = encoded(pair, texts, room)
    if sentences is None:
        _check_apart(pair, names)
    whole = encoded(pair, texts) if room else tokens
    if weights is None and len(texts) > len(names):
        shares = np.diag(1 / np.asarray(counts))
        weights = np.repeat(shares, counts, 1)
    if weights is not None:
        weights = _check_weights(weights, names, len(texts))
    frozen = {
        "image": pair.image.frozen,
        "text": pair.text.frozen,
        "scale": pair.scale,
        "bias": pair.bias,
        "texts": Texts(tokens, text_features(pair, whole), weights),
    }
    forward = compared(pair.image.forward, pair.text.forward)
    roles = joint_roles(pair)
    reads = pair.image.input
    return Model(pair.name, forward, frozen, reads, roles, tuple(names), given_weights)


def given_weights(frozen: PyTree) -> PyTree:
    """A classifier's frozen tree without the features that its text tower made."""
    return {**frozen, "texts": frozen["texts"]._replace(features=None)}


def _check_weights(
    weights: Any, classes: Sequence[str], texts: int
) -> Float[Array, "T R"]:
    """Weights of texts; raise unless each class has some, and all are finite."""
    if jnp.shape(weights) != (len(classes), texts):
        raise ValueError(
            f"got weights {list(jnp.shape(weights))}, expected [{len(classes)}, "
            f"{texts}]: a row for each class, a column for each text"
        )
    if isinstance(weights, Tracer):  # of which only the shape is known
        return jnp.asarray(weights, jnp.float32)
    found = np.asarray(weights, np.float32)
    bad = ~np.isfinite(found).all(1) | ~found.any(1)
    if bad.any():
        row = int(bad.argmax())
        came = "only zeros" if np.isfinite(found[row]).all() else "NaN or infinite ones"
        raise ValueError(
            f"got weights with {came} for the class {classes[row]!r}, expected finite "
            "numbers, some of them not 0; a class without any text has no feature"
        )
    return jnp.asarray(found)


def _check_apart(pair: Pair, names: Sequence[str]) -> None:
    """Raise for two names with the same tokens, whose answers would be equal."""
    seen: dict[tuple[int, ...], str] = {}
    for name, ids in zip(names, _ids(pair, names), strict=True):
        if (other := seen.setdefault(tuple(ids), name)) != name:
            raise ValueError(
                f"got the classes {other!r} and {name!r}, which are the same tokens to "
                f"{pair.name} (such as words in upper and lower case), expected names "
                "that it can tell apart; rename one"
            )


def of_texts(pair: Pair, texts: Iterable[str]) -> Model[Pixels]:
    """The pair as a model whose classes are the texts themselves: logits [B R].

    For alignments from texts to classes: label maps over templates and classes, or the
    best few descriptions of each class.
    """
    texts = check_names(texts)
    return classifier(pair, texts, sentences={text: [text] for text in texts})


def compared(image: Forward, text: Forward) -> Forward:
    """The forward of a classifier, of the towers' forwards."""

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        def of_image(site: str, value: PyTree) -> PyTree:
            return edit(_joint("image", site), value)

        seen = image(frozen["image"], x, edit=of_image)
        texts, changed = frozen["texts"], []

        def of_text(site: str, value: PyTree) -> PyTree:
            if site == "output" and not changed:
                value = texts.features.astype(value.dtype)
            new = edit(_joint("text", site), value)
            # An edit that changes nothing returns the object that it got.
            if new is not value:
                changed.append(site)
            return new

        named = text(frozen["text"], texts.tokens, edit=of_text)
        return edit("output", compare(frozen, seen, of_classes(named, texts)))

    return forward


def _joint(tower: str, site: str) -> str:
    """The classifier's name of a tower's site."""
    if site == "output":
        return f"{tower}/features"
    keeps = tower == "image" and site in ("input", "normalized")
    return site if keeps else f"{tower}/{site}"


def of_classes(features: Float[Array, "N J"], texts: Texts) -> Array:
    """Unit features of the classes, [T J]; [B T J] if the texts differ by image.

    Those of B images are given as [B R J], or as rows, image by image. A mean over
    several texts is one in float32, of features in any type.
    """
    count = texts.features.shape[0]
    if features.ndim == 2 and features.shape[0] != count:
        features = features.reshape(-1, count, features.shape[-1])
    if texts.weights is None:
        return unit(features)
    wide = jnp.promote_types(features.dtype, jnp.float32)
    found = unit(features.astype(wide))
    mean = jnp.einsum("tr,...rj->...tj", texts.weights.astype(wide), found)
    return unit(mean).astype(features.dtype)


def compare(frozen: PyTree, image: Float[Array, "B J"], named: Array) -> Array:
    """Scaled cosines [B T] of images' features and classes' unit features."""
    form = "bj,btj->bt" if named.ndim == 3 else "bj,tj->bt"
    cosine = jnp.einsum(form, unit(image), named)
    scale = jnp.exp(frozen["scale"]).astype(cosine.dtype)
    return scale * cosine + frozen["bias"].astype(cosine.dtype)


def joint_roles(pair: Pair) -> dict[str, tuple[str, ...]]:
    """The roles of the image tower, under its own names, and of the text tower, as
    "text_embedding", "text_blocks" and "text_kv"."""
    moved = lambda tower, sites: tuple(_joint(tower, site) for site in sites)
    image = {role: moved("image", sites) for role, sites in pair.image.roles.items()}
    text = {
        f"text_{role}": moved("text", sites)
        for role, sites in pair.text.roles.items()
        if role in ("embedding", "blocks", "kv")
    }
    return image | text | {"features": ("image/features",)}


def under(tower: str, at: Mapping[Any, Any]) -> dict[Any, Any]:
    """Manipulations at a tower's own sites as those of the classifier: with a recipe
    for the text tower's card, `reprogram(model.forward, under("text", dict(own.at)))`.
    """
    if tower not in ("image", "text"):
        raise ValueError(f"got the tower {tower!r}, expected 'image' or 'text'")

    def moved(key: Any) -> Any:
        if isinstance(key, str):
            return _joint(tower, key)
        return tuple(_joint(tower, site) for site in key)

    return {moved(key): m for key, m in dict(at).items()}


def random(pair: Pair, key: Array) -> Pair:
    """Both towers with random weights: a control that shows what training gave."""
    towers = []
    for name, tower in (("image", pair.image), ("text", pair.text)):
        flat = flatten_dict(tower.frozen, sep="/")
        flat = {p: drawn(f"{name}/{p}", leaf, key) for p, leaf in flat.items()}
        towers.append(tower._replace(frozen=unflatten_dict(flat, sep="/")))
    image, text = towers
    named = f"{pair.name} (random weights)"
    return replace(pair, name=named, image=image, text=text)


# -- features


def text_features(pair: Pair, tokens: Tokens) -> Float[Array, "R J"]:
    """The text tower's vectors, a few texts at a time."""
    call = jax.jit(pair.text.forward)
    rows = tokens.value.shape[0]
    parts = [
        call(pair.text.frozen, jax.tree.map(lambda a, i=i: a[i : i + AT_ONCE], tokens))
        for i in range(0, rows, AT_ONCE)
    ]
    return jnp.concatenate(parts)


def image_features(
    pair: Pair, images: UInt8[Array | np.ndarray, "B H W 3"]
) -> Float[Array, "B J"]:
    """The image tower's vectors, a few images at a time."""
    call = jax.jit(pair.image.forward)
    parts = [
        call(pair.image.frozen, jnp.asarray(images[i : i + AT_ONCE]))
        for i in range(0, len(images), AT_ONCE)
    ]
    return jnp.concatenate(parts)


# -- texts


def encoded(pair: Pair, texts: Sequence[str], room: int = 0) -> Tokens:
    """Ids [R L] of texts, with the tokens that the tower expects around a text."""
    words = pair.text.input
    if isinstance(room, bool) or not isinstance(room, int | np.integer) or room < 0:
        raise ValueError(
            f"got room={room!r}, expected a number of positions for prompts, at least 0"
        )
    rows = _ids(pair, texts)
    most = words.positions - room
    if long := [i for i, row in enumerate(rows) if len(row) > most]:
        raise ValueError(
            f"got the text {texts[long[0]]!r:.80} of {len(rows[long[0]])} tokens, "
            f"expected at most {most}, the positions of {pair.name}'s text tower"
            f"{f' less {room} for prompts' if room else ''}; shorten it"
        )
    if not pair.padding:
        return padded(rows, fill=words.special.pad)
    out = padded(rows, pair.padding, most, words.special.pad)
    places = jnp.broadcast_to(jnp.arange(most), out.value.shape)
    return out._replace(weight=jnp.ones_like(out.weight), position=places)


def _ids(pair: Pair, texts: Sequence[str]) -> list[list[int]]:
    """Those of each text; raise if the pair has no tokeniser."""
    tokenizer = pair.text.input.tokenizer
    if tokenizer is None:
        raise ValueError(
            f"{pair.name} has no tokeniser, expected one to read texts; call "
            "load(..., tokenizer=folder)"
        )
    return [tokenizer.encode(text) for text in texts]


def _listed(given: Any, what: str, of: str = "texts") -> list[Any]:
    """A list, an array or a generator as a list; raise unless it has some, in order."""
    bad = (
        isinstance(given, str | bytes | set | frozenset)
        or getattr(given, "ndim", 1) != 1
    )
    found = list(given) if isinstance(given, Iterable) and not bad else []
    if not found:
        raise ValueError(f"got the {what} {given!r:.80}, expected a list of {of}")
    return found


def spoken(names: Iterable[str]) -> list[str]:
    """Names of folders as words: "_" and "-" are blanks."""
    return [" ".join(n.replace("_", " ").replace("-", " ").split()) for n in names]


def check_names(classes: Iterable[str]) -> list[str]:
    """The names of classes; raise unless they are names, each once."""
    names = _listed(classes, "classes", "names")
    if bad := [n for n in names if not isinstance(n, str) or not n.strip()]:
        raise ValueError(
            f"got the class {bad[0]!r}, expected a name in words, which the text tower "
            "reads; name each class"
        )
    if len(set(names)) < len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise ValueError(
            f"got {twice} more than once, expected each class once; rename one"
        )
    return [str(name) for name in names]


def sentences_of(
    classes: Sequence[str], templates: Iterable[str]
) -> dict[str, list[str]]:
    """{class: its name in each template}."""
    templates = _listed(templates, "templates")
    for template in templates:
        around = template.split("{}") if isinstance(template, str) else ()
        if len(around) != 2 or any(brace in "".join(around) for brace in "{}"):
            raise ValueError(
                f"got the template {template!r}, expected one {{}} for the class's "
                f"name and no other braces, as in {TEMPLATE!r}"
            )
    return {n: [t.replace("{}", n) for t in templates] for n in classes}


def check_sentences(
    classes: Sequence[str], sentences: Mapping[str, Iterable[str]]
) -> dict[str, list[str]]:
    """The texts of each class; raise unless each has some."""
    if not isinstance(sentences, Mapping):
        raise ValueError(
            f"got the sentences {sentences!r:.60}, expected {{class: texts}}"
        )
    found = {}
    for name in classes:
        own = sentences.get(name, ())
        found[name] = _listed(own, f"sentences for the class {name!r}")
        if bad := [t for t in found[name] if not isinstance(t, str) or not t.strip()]:
            raise ValueError(
                f"got the sentence {bad[0]!r:.60} for the class {name!r}, expected a "
                "text; write it, or leave it out"
            )
    return found
