"""Tokenisers, by the package `tokenizers`, from the files that come with a model."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# The words of llama.cpp for how a text is cut before pairs are merged.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}@"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    "default": (WORDS,),
    "gpt-2": (WORDS,),
    "smollm": (r"\p{N}", WORDS),
    "llama-bpe": (MODERN.replace("@", "{1,3}"),),
    "qwen2": (MODERN.replace("@", ""),),
}
CONTROL, USER = 3, 4  # llama.cpp's types of tokens that no text is merged into


class Tokenizer(NamedTuple):
    """Text to ids and back."""

    encode: Callable[..., list[int]]
    """(text, special=True) -> ids; special: with what a model wants around a text"""
    decode: Callable[[Sequence[int]], str]
    """ids -> text, without special tokens"""
    id: Callable[[str], int | None]
    """The id of a token, None where it is none."""
    token: Callable[[int], str | None]
    """The token of an id."""
    size: int
    """1 + the largest id."""


def wrapped(rust: Any) -> Tokenizer:
    """A tokenizers.Tokenizer as a `Tokenizer`."""

    def encode(text: str, special: bool = True) -> list[int]:
        return rust.encode(text, add_special_tokens=special).ids

    size = 1 + max(rust.get_vocab(with_added_tokens=True).values(), default=-1)
    decode = lambda ids: rust.decode([int(i) for i in ids])
    return Tokenizer(encode, decode, rust.token_to_id, rust.id_to_token, size)


def package() -> Any:
    """The package `tokenizers`."""
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            "a tokeniser came with the model, and the package tokenizers is missing; "
            "pip install tokenizers, or call load(..., tokenizer=None) and use ids"
        ) from error
    return tokenizers


def from_folder(folder: Path, settings: Mapping[str, Any]) -> Tokenizer | None:
    """tokenizer.json, vocab.txt (WordPiece), or vocab.json and merges.txt (bytes).

    Args:
        settings: tokenizer_config.json. None of the files: None.
    """
    has = lambda *names: all((folder / name).exists() for name in names)
    try:
        if has("tokenizer.json"):
            path = str(folder / "tokenizer.json")
            rust = package().Tokenizer.from_file(path)
            rust.no_padding()
            rust.no_truncation()  # what is too long is refused, not cut in silence
            return wrapped(rust)
        if has("vocab.txt"):
            return wordpiece(folder / "vocab.txt", settings)
        if has("vocab.json", "merges.txt"):
            return _bytes_of_folder(folder, settings)
    except ValueError:
        raise
    except Exception as error:  # whatever the package raises on a damaged file
        raise ValueError(
            f"the tokeniser in {folder} cannot be read ({error}), expected files as "
            "transformers writes them; fetch them again"
        ) from error
    return None


def wordpiece(path: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """BERT's tokeniser from vocab.txt, one token a line."""
    rust = package()
    lower = settings.get("do_lower_case", True)
    vocabulary = {word: i for i, word in enumerate(path.read_text("utf8").splitlines())}
    text = rust.Tokenizer(rust.models.WordPiece(vocabulary, unk_token="[UNK]"))
    text.normalizer = rust.normalizers.BertNormalizer(
        lowercase=lower,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    text.pre_tokenizer = rust.pre_tokenizers.BertPreTokenizer()
    text.decoder = rust.decoders.WordPiece()
    ends = ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    text.post_processor = rust.processors.BertProcessing(*ends)
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    text.add_special_tokens([name for name in names if name in vocabulary])
    return wrapped(text)


def _bytes_of_folder(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    vocabulary = json.loads((folder / "vocab.json").read_text("utf8"))
    lines = (folder / "merges.txt").read_text("utf8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    names = ("<s>", "</s>", "<pad>", "<mask>", "<unk>", "<|endoftext|>")
    special = [name for name in names if name in vocabulary]
    text = _bytes(vocabulary, merges, CUTS["gpt-2"], special)
    if "<s>" in vocabulary:  # RoBERTa
        ends = ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"])
        rust = package()
        text.post_processor = rust.processors.RobertaProcessing(
            *ends, add_prefix_space=settings.get("add_prefix_space", False)
        )
    return wrapped(text)


def _bytes(
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    cuts: Sequence[str],
    special: Sequence[str],
) -> Any:
    """Merged pairs over bytes, a text cut by regular expressions first."""
    rust = package()
    pairs = [tuple(merge.split(" ")) for merge in merges]
    text = rust.Tokenizer(rust.models.BPE(dict(vocabulary), pairs))
    split = lambda cut: rust.pre_tokenizers.Split(rust.Regex(cut), "isolated")
    steps = [split(cut) for cut in cuts]
    steps.append(rust.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    text.pre_tokenizer = rust.pre_tokenizers.Sequence(steps)
    text.decoder = rust.decoders.ByteLevel()
    text.add_special_tokens(list(special))
    return text


def sentencepiece(
    pieces: Sequence[str],
    scores: Sequence[float],
    special: Sequence[int],
    bos: int | None,
    prefix: bool = True,
) -> Tokenizer:
    """Pairs merged by the score of what they make; a character that no piece has is its
    bytes <0x..>.

    Args:
        pieces: by id, with "\u2581" for a space.
        special: ids that no text is merged into.
        bos: put before a text.
        prefix: whether a text begins with a space that is added.
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
    if bos is not None:
        text.post_processor = _behind(pieces[bos], bos)
    return wrapped(text)


def _behind(token: str, number: int) -> Any:
    return package().processors.TemplateProcessing(
        single=[token, "$A"], special_tokens=[(token, number)]
    )


def from_gguf(data: Mapping[str, Any]) -> Tokenizer | None:
    """The tokeniser that a GGUF file's metadata describes."""
    found = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in data.items()
        if key.startswith("tokenizer.ggml.")
    }
    if "tokens" not in found:
        return None
    pieces, kinds = found["tokens"], found.get("token_type", [])
    special = [i for i, kind in enumerate(kinds) if kind in (CONTROL, USER)]
    bos = found.get("bos_token_id") if found.get("add_bos_token", True) else None
    if found.get("model") == "llama":
        unknown = found.get("unknown_token_id", 0)
        special = [unknown, *(i for i in special if i != unknown)]
        prefix = found.get("add_space_prefix", True)
        return sentencepiece(pieces, found["scores"], special, bos, prefix)
    cut = found.get("pre", "default")
    if found.get("model") != "gpt2" or cut not in CUTS:
        raise ValueError(
            f"the file's tokeniser is {found.get('model')!r}, its texts cut as "
            f"{cut!r}; expected 'llama', or 'gpt2' with one of {sorted(CUTS)}; call "
            "load(..., tokenizer=folder) with one that holds tokenizer.json"
        )
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    names = [pieces[i] for i in special]
    text = _bytes(vocabulary, found["merges"], CUTS[cut], names)
    if bos is not None and found.get("add_bos_token"):
        text.post_processor = _behind(pieces[bos], bos)
    return wrapped(text)
