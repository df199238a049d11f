"""Tokenisers from GGUF files' metadata, with llama.cpp's defaults."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from reprojax.models.language.tokenizer import (
    CUTS,
    Tokenizer,
    byte_pairs,
    package,
    wrapped,
)
from reprojax.saving.files import checked

NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4  # llama.cpp's types of tokens
# cuts whose texts begin with BOS, and whose cut words may be tokens that no merge makes
LLAMA_3 = ("llama-bpe", "llama3", "llama-v3")
ALL_CUTS = {**CUTS, **{name: CUTS["llama-bpe"] for name in LLAMA_3}}


def sentencepiece(
    pieces: Sequence[str],
    scores: Sequence[float],
    special: Sequence[int],
    bos: int | None,
    prefix: bool = True,
    user: Sequence[int] = (),
) -> Tokenizer:
    """Pairs of pieces merged by the score of the result; a character in no piece is
    encoded as its bytes <0x..>.

    Args:
        pieces: by id, with "\u2581" for a space.
        special: ids of control tokens, to which no text is merged.
        bos: the id put before a text.
        prefix: whether to add a space before a text.
        user: ids of pieces that are matched before all others, and are text.
    """
    rust = package()
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    made = []
    for i, piece in enumerate(pieces):
        cuts = ((piece[:k], piece[k:]) for k in range(1, len(piece)))
        halves = [pair for pair in cuts if all(half in vocabulary for half in pair)]
        made += [(-scores[i], pair) for pair in halves if i not in special]
    made.sort(key=lambda row: row[0])  # stable: ties in the order of ids
    merges = [pair for _, pair in made]
    unknown = pieces[special[0]] if special else None
    text = rust.Tokenizer(
        rust.models.BPE(
            vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    space = [rust.normalizers.Prepend("\u2581")] if prefix else []
    space.append(rust.normalizers.Replace(" ", "\u2581"))
    text.normalizer = rust.normalizers.Sequence(space)
    steps = [rust.decoders.Replace("\u2581", " "), rust.decoders.ByteFallback()]
    steps.append(rust.decoders.Fuse())
    if prefix:
        steps.append(rust.decoders.Strip(" ", 1, 0))
    text.decoder = rust.decoders.Sequence(steps)
    text.add_special_tokens([pieces[i] for i in special])
    text.add_tokens(_as_text(pieces[i] for i in user))
    if bos is not None:
        text.post_processor = _behind(pieces[bos], bos)
    return wrapped(text, ends=False)


def _as_text(pieces: Iterable[str]) -> list[Any]:
    make = package().AddedToken
    return [make(piece, normalized=False, special=False) for piece in pieces]


def _behind(token: str, number: int) -> Any:
    return package().processors.TemplateProcessing(
        single=[token, "$A"], special_tokens=[(token, number)]
    )


class Ggml(TypedDict, total=False):
    """The keys of a GGUF file's tokenizer.ggml that are read."""

    model: str
    pre: str
    tokens: list[str]
    token_type: list[int]
    scores: list[float]
    merges: list[str]
    bos_token_id: int
    unknown_token_id: int
    add_bos_token: bool
    add_space_prefix: bool


def from_gguf(data: Mapping[str, Any]) -> Tokenizer | None:
    """The tokeniser of a GGUF file's metadata, with llama.cpp's defaults."""
    found = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in data.items()
        if key.startswith("tokenizer.ggml.")
    }
    if "tokens" not in found:
        return None
    checked(
        {k: found[k] for k in Ggml.__annotations__ if k in found},
        Ggml,
        "tokenizer.ggml",
    )
    model, cut = str(found.get("model")), str(found.get("pre"))
    if model != "llama" and (model != "gpt2" or cut not in ALL_CUTS):
        raise ValueError(
            f"the file's tokeniser is {model!r}, its texts cut as {cut!r}; expected "
            f"'llama', or 'gpt2' with one of {sorted(ALL_CUTS)}; call "
            "load(..., tokenizer=folder) with one that holds tokenizer.json"
        )
    pieces = found["tokens"]
    wanted = "scores" if model == "llama" else "merges"
    if wanted not in found:
        raise ValueError(
            f"the file's tokeniser is {model!r} without {wanted}, expected them; "
            "convert the model again, or call load(..., tokenizer=folder)"
        )
    kinds = found.get("token_type", [NORMAL] * len(pieces))
    scores = found.get("scores", kinds)
    bos = _first(found, model == "llama" or cut in LLAMA_3)
    inside = all(
        0 <= i < len(pieces) for i in (bos or 0, found.get("unknown_token_id", 0))
    )
    if not inside or not len(pieces) == len(kinds) == len(scores):
        raise ValueError(
            f"the file's tokeniser has {len(pieces)} tokens, {len(kinds)} types, "
            f"{len(scores)} scores and begins with {bos}, expected equal numbers and "
            "ids among them; convert the model again, or load(..., tokenizer=folder)"
        )
    control = [i for i, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL)]
    user = [i for i, kind in enumerate(kinds) if kind == USER]
    if model == "llama":
        unknown = found.get("unknown_token_id", 0)
        control = [unknown, *(i for i in control if i != unknown)]
        prefix = found.get("add_space_prefix", True)
        return sentencepiece(pieces, scores, control, bos, prefix, user)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    names = [pieces[i] for i in control]
    text = byte_pairs(vocabulary, found["merges"], ALL_CUTS[cut], names, cut in LLAMA_3)
    text.add_tokens(_as_text(pieces[i] for i in user))
    if bos is not None:
        text.post_processor = _behind(pieces[bos], bos)
    return wrapped(text, ends=False)


def _first(found: Mapping[str, Any], usual: bool) -> int | None:
    """The id put before a text; None if there is none."""
    if not found.get("add_bos_token", usual):
        return None
    usually = 1 if found["model"] == "llama" else None
    if (bos := found.get("bos_token_id", usually)) is None:
        raise ValueError(
            "the file's texts begin with BOS, and it has no bos_token_id, expected "
            "one; convert the model again, or call load(..., tokenizer=folder)"
        )
    return bos
