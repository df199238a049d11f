"""`load`: a language model from a folder, the hub, a GGUF file, or by name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import tokens
from reprojax.models import Model, hub, stored, weights
from reprojax.models.language import bert, gguf_files, gguf_tokenizer, gpt2, llama
from reprojax.models.language import tokenizer as tokenizers
from reprojax.models.language.card import Kind, Special, Words, roles, texts
from reprojax.models.language.family import Family, clean
from reprojax.models.language.tokenizer import Tokenizer
from reprojax.models.settings import Common, settings
from reprojax.saving.files import checked

FAMILIES: dict[str, Family] = {**bert.FAMILIES, **gpt2.FAMILIES, **llama.FAMILIES}
OWN = "own"


class Found(NamedTuple):
    """What the files of a model hold."""

    name: str
    family: Family
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    tokenizer: Tokenizer | None
    special: Special


def names() -> tuple[str, ...]:
    """The embedded models, which `load` takes by name."""
    return ("abacus",)


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    tokenizer: str | os.PathLike | Tokenizer | None = OWN,
    ignore: Sequence[str] = (),
    revision: str | None = None,
) -> Model[Words]:
    """A frozen language model: a folder as transformers writes it, "org/name" on the
    Hugging Face hub, a .gguf file, or one of `names()`.

    The architecture and its sizes come from config.json or the GGUF file's metadata.

    Args:
        dtype: of the weights, and so of the whole pass; quantised weights are converted
            to it. jnp.float32 or jnp.bfloat16.
        tokenizer: a folder that holds one, a `Tokenizer`, or None to work with ids. For
            a causal model, tokens that it would append to a text are left out.
        ignore: keys of its config that do not change what it computes.

    Raises:
        ValueError: an architecture, tensor or setting that no family reads.
    """
    if dtype not in (jnp.dtype("float32"), jnp.dtype("bfloat16")):
        raise ValueError(f"got dtype {dtype}, expected jnp.float32 or jnp.bfloat16")
    if source == "abacus":
        return _abacus(dtype, tokenizer)
    found = _find(source, tokenizer, ignore, revision)
    module = found.family.plan(found.config, found.tensors)
    _fits(found.tokenizer, module.vocabulary, found.name)
    tensors = found.family.prepare(found.tensors, module)
    ids = jax.eval_shape(lambda: tokens(jnp.zeros((1, 1), jnp.int32)))
    label, rules = found.family.label, found.family.rules
    reads = Words(
        _kind(module),
        module.vocabulary,
        module.positions,
        found.tokenizer,
        found.special,
    )
    frozen = weights.filled(module, ids, label, rules, tensors, dtype)
    return Model(found.name, texts(module), frozen, reads, roles(module.depth))


def _abacus(dtype: Any, tokenizer: Any) -> Model[Words]:
    """The embedded model."""
    from reprojax.models.language import abacus

    model = abacus.load_abacus(dtype=dtype)
    if tokenizer == OWN:
        return model
    text = _tokenizer(tokenizer, Path(), {}, ends=False)
    _fits(text, model.input.vocabulary, model.name)
    return model._replace(tokenizer=text)


def _kind(module: Any) -> Kind:
    if module.headless:
        return "bare"
    return "causal" if module.heads.causal else "masked"


def _fits(tokenizer: Tokenizer | None, vocabulary: int, name: str) -> None:
    if tokenizer is not None and tokenizer.size > vocabulary:
        raise ValueError(
            f"the tokeniser has ids up to {tokenizer.size - 1} and {name} a vocabulary "
            f"of {vocabulary}, expected ids below that; take the model's own one: "
            "load(..., tokenizer=folder)"
        )


def _find(
    source: str | os.PathLike,
    tokenizer: Any,
    ignore: Sequence[str],
    revision: str | None,
) -> Found:
    path, text = Path(source), str(source)
    if path.is_file() and gguf_files.is_gguf(path):
        return _gguf(path, tokenizer, ignore)
    if path.is_dir():
        return _folder(path.resolve().name, path, tokenizer, ignore)
    if path.is_file():
        raise ValueError(
            f"got the file {text}, expected a .gguf file or a folder: safetensors do "
            "not say how a language model is built, config.json beside them does"
        )
    if path.suffix in (".gguf", ".safetensors") or text.startswith((".", "/", "~")):
        raise ValueError(f"no file or folder {text}, expected a language model there")
    if text.count("/") == 1:
        beside = ("generation_config.json", *tokenizers.FILES)
        return _folder(text, hub.fetch(text, revision, beside), tokenizer, ignore)
    raise ValueError(
        f"no language model {text!r}; expected {' or '.join(map(repr, names()))}, a "
        'folder, a .gguf file, or "org/name" on the Hugging Face hub'
    )


def _known(kind: Any, families: Mapping[str, Family], name: str) -> Family:
    if not isinstance(kind, str) or kind not in families:
        raise ValueError(
            f"{name} is a {kind!r}, expected one of {', '.join(sorted(families))}; for "
            "another, write a linen module from Tokens to Tokens, with its weights as "
            "`frozen`: language.texts(module) is its forward"
        )
    return families[kind]


def _folder(
    name: str, folder: Path, tokenizer: Any, ignore: Sequence[str] = ()
) -> Found:
    """Read a folder as transformers writes it."""
    config = stored.document(folder / "config.json")
    if not config:
        raise ValueError(
            f"{folder} holds no config.json, expected one beside the weights, as "
            "model.save_pretrained(folder) writes it"
        )
    family = _known(config.get("model_type"), FAMILIES, name)
    _refuse_quantised(name, config)
    config = _settings(config, family, f"{name}'s config.json", ignore)
    more = stored.document(folder / "generation_config.json")
    more = {k: v for k, v in more.items() if v is not None}
    checked(more, Common, f"{name}'s generation_config.json")
    looks = tokenizers.looks(folder)
    tensors = clean(stored.read(stored.files(folder)))
    ends = config["model_type"] in bert.FAMILIES
    text = _tokenizer(tokenizer, folder, looks, ends)
    special = _special(config, more, looks, text)
    return Found(name, family, config, tensors, text, special)


def _settings(
    config: Mapping[str, Any], family: Family, name: str, ignore: Sequence[str] = ()
) -> dict[str, Any]:
    return settings(config, family.settings, name, family.harmless, ignore)


def _refuse_quantised(name: str, config: Mapping[str, Any]) -> None:
    for key in ("quantization_config", "compression_config"):
        if how := config.get(key):
            method = how.get("quant_method") if isinstance(how, dict) else how
            raise ValueError(
                f"the weights of {name} are quantised by {method}, expected plain "
                "safetensors in 16 or 32 bits, or a .gguf file; or read them yourself: "
                "language.texts(module) is the forward of a linen module, and `frozen` "
                "its weights"
            )


def _tokenizer(
    given: Any, folder: Path, looks: Mapping[str, Any], ends: bool
) -> Tokenizer | None:
    """The caller's tokeniser, or the folder's."""
    if given is None or isinstance(given, Tokenizer):
        return given
    if given == OWN:
        return tokenizers.tokenizer_from_folder(folder, looks, ends)
    place = Path(given)
    text = tokenizers.tokenizer_from_folder(place, tokenizers.looks(place), ends)
    if text is None:
        raise ValueError(
            f"{place} holds no tokeniser, expected tokenizer.json, vocab.txt, or "
            "vocab.json and merges.txt"
        )
    return text


def _special(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    looks: Mapping[str, Any],
    text: Tokenizer | None,
) -> Special:
    """The special ids that the files name, or those of the tokens that they name."""

    def find(role: str, *spelt: str) -> Any:
        for where in (generation, config):
            # -1 means none in files of the first Llama
            if where.get(f"{role}_token_id") not in (None, -1):
                return where[f"{role}_token_id"]
        token = looks.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        known = (text.id(word) for word in (token, *spelt) if text and word)
        return next((i for i in known if i is not None), None)

    eos, pad = find("eos"), find("pad")
    several = tuple(eos) if isinstance(eos, (list, tuple)) else (eos,)
    several = tuple(i for i in several if i is not None)
    if pad is None:
        pad = several[0] if several else 0
    return Special(find("bos"), several, pad, find("mask", "[MASK]", "<mask>"))


def _gguf(path: Path, tokenizer: Any, ignore: Sequence[str]) -> Found:
    config, tensors, data = gguf_files.read(path)
    family = _known(config["model_type"], llama.GGUF_FAMILIES, path.name)
    config = _settings(config, family, path.name, ignore)
    own = tokenizer == OWN
    text = (
        gguf_tokenizer.from_gguf(data)
        if own
        else _tokenizer(tokenizer, path.parent, {}, ends=False)
    )
    special = _special(config, {}, {}, text)
    return Found(path.stem, family, config, tensors, text, special)
