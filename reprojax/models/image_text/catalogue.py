"""`load`: a pair of towers from a folder, the hub, a file, or by name."""

import os
import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import tokens
from reprojax.models import hub, stored, weights
from reprojax.models.card import Model
from reprojax.models.image_text import layouts, open_clip, towers
from reprojax.models.image_text.card import Pair
from reprojax.models.image_text.layouts import BIAS, SCALE, Layout, Plan
from reprojax.models.language import tokenizer as tokenizers
from reprojax.models.language.card import Special, Words
from reprojax.models.language.card import texts as of_tokens
from reprojax.models.language.catalogue import OWN
from reprojax.models.language.tokenizer import Tokenizer
from reprojax.models.vision import processors
from reprojax.models.vision.pixels import Pixels, images
from reprojax.models.weights import CLIP_MEAN, CLIP_STD, HALF

BESIDE = ("preprocessor_config.json", "open_clip_config.json", *tokenizers.FILES)
FILES = ("open_clip_model.safetensors", "model.safetensors")
KINDS = ("clip", "siglip", "siglip2")
"""What config.json calls pairs of towers, of which `load` refuses the last."""


def names() -> tuple[str, ...]:
    """The embedded pairs, which `load` takes by name."""
    return ("sketches",)


def is_pair(source: str | os.PathLike) -> bool:
    """Whether a backbone's name or place is that of a pair of towers, by the files
    beside its weights and the names of its tensors. A hub name is fetched for that.

    False where nothing can be found: the loader of image models says what is wrong.
    """
    text, path = str(source), Path(source)
    if text in names():
        return True
    local = path.suffix == ".safetensors" or text.startswith((".", "/", "~"))
    if not path.exists() and (local or text.count("/") != 1):
        return False
    found = _find(source, None)
    if found.open_clip or found.config.get("model_type") in KINDS:
        return True
    return any(name.startswith("visual.") for name in stored.names(found.files))


class Found(NamedTuple):
    """Files of weights, and the contents of the files beside them."""

    name: str
    files: list[Path]
    folder: Path
    config: dict[str, Any]
    open_clip: dict[str, Any]
    looks: dict[str, Any]  # preprocessor_config.json


class Reading(NamedTuple):
    """How texts become ids of one length."""

    text: Tokenizer | None
    pad: int
    """The id of padding, which counts in SigLIP's texts."""
    side: Literal["", "left", "right"]
    """Of padding that counts."""


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    tokenizer: str | os.PathLike | Tokenizer | None = OWN,
    ignore: Sequence[str] = (),
    revision: str | None = None,
) -> Pair:
    """A frozen pair: a folder as transformers or OpenCLIP write it, "org/name" on the
    Hugging Face hub, a .safetensors file with OpenAI's names, or one of `names()`.

    Pixels are normalised as the files beside the weights say; resizing is the caller's.

    Args:
        dtype: of the weights, and so of the whole pass: jnp.float32 or jnp.bfloat16.
        tokenizer: a folder that holds one, a `Tokenizer`, or None to work with ids.
        ignore: keys of its config files that do not change what it computes.

    Raises:
        ValueError: an architecture, tensor or setting that no layout reads, or a
            checkpoint that lacks a tower, its scale or its bias.
    """
    if dtype not in (jnp.dtype("float32"), jnp.dtype("bfloat16")):
        raise ValueError(f"got dtype {dtype}, expected jnp.float32 or jnp.bfloat16")
    if source == "sketches":
        return _sketches(dtype, tokenizer, ignore, revision)
    found = _find(source, revision)
    tensors = stored.read(found.files)
    layout = _layout(found, tensors)
    tensors = layout.prepare(tensors)
    opened = layout in open_clip.LAYOUTS.values()
    config = found.open_clip if opened else found.config
    plan = layout.plan(config, tensors, found.name, ignore)
    image, text = _split(layout, tensors, found.name)
    scale, bias = (_number(layout, tensors, name, found.name) for name in (SCALE, BIAS))
    said = processors.described(found.name, found.looks, {}, ignore)
    if opened:
        own = open_clip.preprocessing(found.open_clip, found.name, ignore)
        said |= {key: value for key, value in own.items() if value is not None}
    reading = _reading(found, tokenizer, plan)
    return Pair(
        found.name,
        _image_card(found.name, layout, plan, image, dtype, said),
        _text_card(found.name, layout, plan, text, dtype, reading),
        scale,
        bias,
        reading.side,
    )


def _sketches(dtype: Any, tokenizer: Any, ignore: Any, revision: Any) -> Pair:
    from reprojax.models.image_text.sketches import load_sketches

    own = dict(tokenizer=tokenizer, ignore=list(ignore), revision=revision)
    plain = dict(tokenizer=OWN, ignore=[], revision=None)
    if given := [name for name, value in own.items() if value != plain[name]]:
        raise ValueError(
            f"load('sketches') got {given}, expected none: its card is complete"
        )
    return load_sketches(dtype=dtype)


def _find(source: str | os.PathLike, revision: str | None) -> Found:
    path, text = Path(source), str(source)
    if path.is_dir():
        return _folder(path.resolve().name, path)
    if path.is_file():
        return Found(path.stem, [path], path.parent, {}, {}, {})
    if path.suffix == ".safetensors" or text.startswith((".", "/", "~")):
        raise ValueError(f"no file or folder {text}, expected a pair of towers there")
    if text.count("/") == 1:
        return _folder(text, hub.fetch(text, revision, (*FILES, *BESIDE)))
    raise ValueError(
        f"no pair of towers {text!r}; expected {' or '.join(map(repr, names()))}, a "
        'folder, a .safetensors file, or "org/name" on the Hugging Face hub'
    )


def _folder(name: str, folder: Path) -> Found:
    read = lambda file: stored.document(folder / file)
    own = folder / FILES[0]
    files = [own] if own.exists() else stored.files(folder)
    open_clip, looks = read("open_clip_config.json"), read("preprocessor_config.json")
    return Found(name, files, folder, read("config.json"), open_clip, looks)


def _layout(found: Found, tensors: Mapping[str, Any]) -> Layout:
    """By the config's type, or by names that only OpenAI's and OpenCLIP's have."""
    for start, own in ((open_clip.TRUNK, "timm"), ("visual.", "openai")):
        if any(name.startswith(start) for name in tensors):
            return open_clip.LAYOUTS[own]
    kind = found.config.get("model_type")
    if kind in ("clip", "siglip"):
        return layouts.LAYOUTS[kind]
    why = (
        "images of any shape are not read here; take a SigLIP 2 of one resolution, "
        "such as google/siglip2-base-patch16-224"
        if kind == "siglip2"
        else "models.load reads image models, language.load language models"
    )
    raise ValueError(
        f"{found.name} is a {kind!r}, expected a pair of towers: 'clip' or 'siglip' in "
        f"its config.json, or OpenAI's names of tensors; {why}"
    )


def _split(
    layout: Layout, tensors: Mapping[str, np.ndarray], name: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tensors of the image tower and of the text tower; raise if one is missing."""
    ours = {name: t for name, t in tensors.items() if name not in layout.numbers}
    image = {n: t for n, t in ours.items() if n.startswith("vis")}
    text = {n: t for n, t in ours.items() if n not in image}
    for tower, own in (("image", image), ("text", text)):
        if not own:
            raise ValueError(
                f"{name} holds no {tower} tower, expected both; fetch the whole pair, "
                "or load the other tower alone by models.load or language.load"
            )
    return image, text


def _number(
    layout: Layout, tensors: Mapping[str, np.ndarray], number: str, name: str
) -> Float[Array, ""]:
    """The scale, or the bias, which only some have: 0 for the others."""
    if number not in layout.numbers:
        return jnp.zeros((), jnp.float32)
    found = tensors.get(number)
    if found is None or found.size != 1:
        came = "no" if found is None else f"{list(found.shape)} for"
        raise ValueError(
            f"{name} has {came} {number}, expected one number, of which its logits are "
            "made; fetch the whole checkpoint, or add the tensor"
        )
    return jnp.asarray(np.reshape(found, ()), jnp.float32)


def _image_card(
    name: str,
    layout: Layout,
    plan: Plan,
    tensors: Mapping[str, np.ndarray],
    dtype: Any,
    said: Mapping[str, Any],
) -> Model[Pixels]:
    tower = plan.image
    clip = tower.joint is not None
    mean = tuple(said["mean"] or (CLIP_MEAN if clip else HALF))
    std = tuple(said["std"] or (CLIP_STD if clip else HALF))
    if (said["size"] or tower.size) != tower.size:
        raise ValueError(
            f"the file beside {name}'s weights that says how images are prepared has "
            f"{said['size']} pixels, its image tower takes {tower.size}, expected the "
            "same; correct it"
        )
    x = jax.ShapeDtypeStruct((1, tower.size, tower.size, 3), jnp.float32)
    frozen = weights.filled(tower, x, layout.label, layout.image, tensors, dtype)
    forward, reads = images(tower, tower.size, mean, std), Pixels(tower.size, mean, std)
    return Model(name, forward, frozen, reads, towers.roles(tower))


def _text_card(
    name: str,
    layout: Layout,
    plan: Plan,
    tensors: Mapping[str, np.ndarray],
    dtype: Any,
    reading: Reading,
) -> Model[Words]:
    tower, text = plan.text, reading.text
    ids = jax.eval_shape(lambda: tokens(jnp.zeros((1, 2), jnp.int32)))
    frozen = weights.filled(tower, ids, layout.label, layout.text, tensors, dtype)
    if text is not None and text.size > tower.vocabulary:
        raise ValueError(
            f"the tokeniser has ids up to {text.size - 1} and {name} a "
            f"vocabulary of {tower.vocabulary}, expected ids below that; take "
            "its own one: load(..., tokenizer=folder)"
        )
    own = plan.special
    eos = tuple(i for i in (own.get("eos"),) if i is not None)
    special = Special(own.get("bos"), eos, reading.pad)
    reads = Words("bare", tower.vocabulary, tower.positions, text, special)
    return Model(name, of_tokens(tower), frozen, reads, towers.roles(tower))


def _reading(found: Found, given: Any, plan: Plan) -> Reading:
    """By the files beside the tokeniser, which may be in a folder of its own."""
    if given is None or isinstance(given, Tokenizer):
        place, text = found.folder, given
    else:
        place = found.folder if given == OWN else Path(given)
        text = _tokenizer(place, plan)
        if text is None and given != OWN:
            raise ValueError(f"{place} holds no tokeniser, expected tokenizer.json")
    pad = plan.special.get("pad") or 0
    if not plan.padding:
        return Reading(text, pad, "")
    looks = tokenizers.looks(place)
    named = tokenizers.token(looks, "pad")
    if text is not None and named is not None:
        if (pad := text.id(named)) is None:
            raise ValueError(
                f"the tokenizer_config.json in {place} pads with {named!r}, which is "
                "no token of the tokeniser, expected one of its own; correct pad_token"
            )
    side = "left" if looks.get("padding_side") == "left" else "right"
    return Reading(text, pad, side)


def _tokenizer(place: Path, plan: Plan) -> Tokenizer | None:
    looks = tokenizers.looks(place)
    text = tokenizers.tokenizer_from_folder(place, looks)
    if text is None or not plan.padding:
        return text
    kind = str(looks.get("tokenizer_class") or "")
    bare = not re.match("Gemma|Siglip2", kind) if plan.bare is None else plan.bare
    punctuation = string.punctuation if bare else ""
    return text._replace(encode=partial(_plainly, text.encode, punctuation))


def _plainly(
    encode: Callable[..., list[int]], bare: str, text: str, special: bool = True
) -> list[int]:
    """Ids of a text as SigLIP's authors write it: in lower case, and for the first
    version without punctuation, where "_" is a blank. Files of a tokeniser do not say
    this."""
    text = text.replace("_", " ") if bare else text
    text = text.lower().translate(str.maketrans("", "", bare))
    return encode(" ".join(text.split()), special)
