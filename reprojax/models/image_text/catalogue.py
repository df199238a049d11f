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

from reprojax.core import tokens
from reprojax.models import hub, stored, weights
from reprojax.models.card import Model
from reprojax.models.image_text import towers
from reprojax.models.image_text.card import Pair
from reprojax.models.image_text.layouts import LAYOUTS, Layout, Plan
from reprojax.models.language import tokenizer as tokenizers
from reprojax.models.language.card import Special, Words
from reprojax.models.language.card import roles as text_roles
from reprojax.models.language.card import texts as of_tokens
from reprojax.models.language.catalogue import OWN
from reprojax.models.language.tokenizer import Tokenizer
from reprojax.models.vision import processors, vit
from reprojax.models.vision.pixels import Pixels, images

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BESIDE = ("preprocessor_config.json", "open_clip_config.json", *tokenizers.FILES)
FILES = ("open_clip_model.safetensors", "model.safetensors")


def names() -> tuple[str, ...]:
    """The embedded pairs, which `load` takes by name."""
    return ("sketches",)


class Found(NamedTuple):
    """Files of weights, and the contents of the files beside them."""

    name: str
    files: list[Path]
    folder: Path
    config: dict[str, Any]
    open_clip: dict[str, Any]
    looks: dict[str, Any]  # preprocessor_config.json


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

    Args:
        dtype: of the weights, and so of the whole pass: jnp.float32 or jnp.bfloat16.
        tokenizer: a folder that holds one, a `Tokenizer`, or None to work with ids.
        ignore: keys of its config files that do not change what it computes.

    Raises:
        ValueError: an architecture, tensor or setting that no layout reads, or a
            checkpoint that lacks a tower.
    """
    if dtype not in (jnp.dtype("float32"), jnp.dtype("bfloat16")):
        raise ValueError(f"got dtype {dtype}, expected jnp.float32 or jnp.bfloat16")
    if source == "sketches":
        from reprojax.models.image_text.sketches import load_sketches

        return load_sketches(dtype=dtype)
    found = _find(source, revision)
    tensors = stored.read(found.files)
    layout = _layout(found, tensors)
    config = found.config if layout is not LAYOUTS["openai"] else found.open_clip
    plan = layout.plan(config, tensors, found.name, ignore)
    tensors = layout.prepare(tensors)
    numbers = {name: t for name, t in tensors.items() if re.fullmatch(layout.own, name)}
    image, text = _split(layout, tensors, found.name)
    scale, bias = (
        jnp.asarray(np.reshape(numbers.get(name, default), ()), jnp.float32)
        for name, default in (("logit_scale", np.log(1 / 0.07)), ("logit_bias", 0.0))
    )
    return Pair(
        found.name,
        _image_card(found, layout, plan, image, dtype, ignore),
        _text_card(found, layout, plan, text, dtype, tokenizer),
        scale,
        bias,
        _side(found) if plan.padding else "",
    )


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
    """By the config's type, or by names that only OpenAI's files have."""
    if any(name.startswith("visual.") for name in tensors):
        return LAYOUTS["openai"]
    kind = found.config.get("model_type")
    if kind in ("clip", "siglip"):
        return LAYOUTS[kind]
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
    ours = {
        name: t for name, t in tensors.items() if not re.fullmatch(layout.own, name)
    }
    image = {n: t for n, t in ours.items() if n.startswith("vis")}
    text = {n: t for n, t in ours.items() if n not in image}
    for tower, own in (("image", image), ("text", text)):
        if not own:
            raise ValueError(
                f"{name} holds no {tower} tower, expected both; fetch the whole pair, "
                "or load the other tower alone by models.load or language.load"
            )
    return image, text


def _image_card(
    found: Found,
    layout: Layout,
    plan: Plan,
    tensors: Mapping[str, np.ndarray],
    dtype: Any,
    ignore: Sequence[str],
) -> Model[Pixels]:
    tower = plan.image
    half = plan.padding  # SigLIP's pixels are in [-1, 1]
    said = processors.described(found.name, found.looks, {}, ignore)
    mean = tuple(said["mean"] or (vit.HALF if half else MEAN))
    std = tuple(said["std"] or (vit.HALF if half else STD))
    if (said["size"] or tower.size) != tower.size:
        raise ValueError(
            f"{found.name}'s preprocessor_config.json has images of {said['size']} "
            f"pixels, its image tower takes {tower.size}, expected the same; correct it"
        )
    x = jax.ShapeDtypeStruct((1, tower.size, tower.size, 3), jnp.float32)
    frozen = weights.filled(tower, x, layout.label, layout.image, tensors, dtype)
    forward, reads = images(tower, tower.size, mean, std), Pixels(tower.size, mean, std)
    return Model(found.name, forward, frozen, reads, towers.roles(tower))


def _text_card(
    found: Found,
    layout: Layout,
    plan: Plan,
    tensors: Mapping[str, np.ndarray],
    dtype: Any,
    given: Any,
) -> Model[Words]:
    tower = plan.text
    ids = jax.eval_shape(lambda: tokens(jnp.zeros((1, 2), jnp.int32)))
    frozen = weights.filled(tower, ids, layout.label, layout.text, tensors, dtype)
    text = _tokenizer(found, given, plan)
    if text is not None and text.size > tower.vocabulary:
        raise ValueError(
            f"the tokeniser has ids up to {text.size - 1} and {found.name} a "
            f"vocabulary of {tower.vocabulary}, expected ids below that; take "
            "its own one: load(..., tokenizer=folder)"
        )
    own = plan.special
    eos = tuple(i for i in (own.get("eos"),) if i is not None)
    special = Special(own.get("bos"), eos, own.get("pad") or 0)
    reads = Words("bare", tower.vocabulary, tower.positions, text, special)
    roles = {
        role: sites
        for role, sites in text_roles(tower.depth).items()
        if role != "features"
    }
    return Model(found.name, of_tokens(tower), frozen, reads, roles)


def _side(found: Found) -> Literal["left", "right"]:
    """Where a SigLIP's texts are padded, which its tokenizer_config.json says."""
    looks = stored.document(found.folder / "tokenizer_config.json")
    return "left" if looks.get("padding_side") == "left" else "right"


def _tokenizer(found: Found, given: Any, plan: Plan) -> Tokenizer | None:
    if given is None or isinstance(given, Tokenizer):
        return given
    place = found.folder if given == OWN else Path(given)
    looks = tokenizers.looks(place)
    text = tokenizers.tokenizer_from_folder(place, looks)
    if text is None and given != OWN:
        raise ValueError(f"{place} holds no tokeniser, expected tokenizer.json")
    if text is None or not plan.padding:
        return text
    kind = str(looks.get("tokenizer_class") or "")
    bare = "" if re.match("Gemma|Siglip2", kind) else string.punctuation
    return text._replace(encode=partial(_plainly, text.encode, bare))


def _plainly(
    encode: Callable[..., list[int]], bare: str, text: str, special: bool = True
) -> list[int]:
    """Ids of a text as SigLIP's authors write it: in lower case, and for the first
    version without punctuation. Files of a tokeniser do not say this."""
    text = text.lower().translate(str.maketrans("", "", bare))
    return encode(" ".join(text.split()), special)
