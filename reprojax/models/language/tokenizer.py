"""Tokenisers, by the package `tokenizers`, from the files of a model's folder."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from reprojax.saving.files import MOST_JSON, read_file, read_json

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# llama.cpp's regular expressions that cut a text before pairs are merged, by its names.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}@"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", WORDS, r"\p{N}+", r"[0-9]{3}"),
    "gpt-2": (WORDS,),
    "smollm": (r"\p{N}", WORDS),
    "qwen2": (MODERN.replace("@", ""),),
}
CUTS["llama-bpe"] = (MODERN.replace("@", "{1,3}"),)


class Tokenizer(NamedTuple):
    """Text to ids and back."""

    encode: Callable[..., list[int]]
    """(text, special=True) -> ids; special: with the model's tokens around a text"""
    decode: Callable[[Sequence[int]], str]
    """ids -> text, without special tokens"""
    id: Callable[[str], int | None]
    """The id of a token; None if there is no such token."""
    token: Callable[[int], str | None]
    """The token of an id."""
    size: int
    """1 + the largest id."""


def wrapped(rust: Any, ends: bool = True) -> Tokenizer:
    """A tokenizers.Tokenizer as a `Tokenizer`.

    Args:
        ends: whether to keep the tokens that the post-processor appends to a text. A
            causal model continues the last word, so an EOS there would be an error.
    """
    behind = 0 if ends else _behind_text(rust)

    def encode(text: str, special: bool = True) -> list[int]:
        ids = rust.encode(text, add_special_tokens=special).ids
        return ids[: len(ids) - behind] if special else ids

    size = 1 + max(rust.get_vocab(with_added_tokens=True).values(), default=-1)
    decode = lambda ids: rust.decode([int(i) for i in ids])
    return Tokenizer(encode, decode, rust.token_to_id, rust.id_to_token, size)


def _behind_text(rust: Any) -> int:
    """How many tokens the post-processor appends to any text."""
    if not rust.num_special_tokens_to_add(False):
        return 0
    for text in ("a", "0", " ", ".", "\u4e00"):
        of = rust.encode(text).sequence_ids
        if 0 in of:
            return of[::-1].index(0)
    return 0


def package() -> Any:
    """The package `tokenizers`."""
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            "the model's tokeniser needs the package tokenizers, which is missing; "
            "pip install tokenizers, or call load(..., tokenizer=None) and use ids"
        ) from error
    return tokenizers


class Looks(TypedDict, total=False):
    """The keys of tokenizer_config.json that are read."""

    tokenizer_class: str | None
    padding_side: str | None
    do_lower_case: bool
    strip_accents: bool | None
    tokenize_chinese_chars: bool
    do_basic_tokenize: bool
    never_split: list[str] | None
    add_prefix_space: bool
    add_bos_token: bool | None
    bos_token: str | dict[str, Any] | None
    eos_token: str | dict[str, Any] | None
    pad_token: str | dict[str, Any] | None
    unk_token: str | dict[str, Any] | None
    cls_token: str | dict[str, Any] | None
    sep_token: str | dict[str, Any] | None
    mask_token: str | dict[str, Any] | None
    added_tokens_decoder: dict[str, dict[str, Any]]


def looks(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; {} if there is none."""
    path = folder / "tokenizer_config.json"
    return dict(read_json(path, Looks)) if path.exists() else {}


def tokenizer_from_folder(
    folder: Path, settings: Mapping[str, Any], ends: bool = True
) -> Tokenizer | None:
    """A tokeniser from tokenizer.json, vocab.txt (WordPiece), or vocab.json and
    merges.txt (byte pairs); None if the folder has none of these.

    Args:
        settings: tokenizer_config.json.
        ends: as for `wrapped`.
    """
    has = lambda *names: all((folder / name).exists() for name in names)
    try:
        if has("tokenizer.json"):
            rust = package().Tokenizer.from_str(_text(folder / "tokenizer.json"))
            rust.no_padding()
            rust.no_truncation()  # too long a text must raise, not be cut in silence
            _agrees_on_bos(rust, settings, folder)
            return wrapped(rust, ends)
        if has("vocab.txt"):
            _expect_class(folder, settings, "Bert")
            return wordpiece(folder / "vocab.txt", settings, ends)
        if has("vocab.json", "merges.txt"):
            _expect_class(folder, settings, "GPT2|Roberta")
            return _bytes_of_folder(folder, settings, ends)
    except (ValueError, KeyboardInterrupt, SystemExit):
        raise
    # The package may raise anything on a damaged file; a panic of its Rust code is a
    # BaseException that is not an Exception.
    except BaseException as error:
        raise ValueError(
            f"the tokeniser in {folder} cannot be read ({error}), expected files as "
            "transformers writes them; fetch them again"
        ) from error
    return None


def _agrees_on_bos(rust: Any, settings: Mapping[str, Any], folder: Path) -> None:
    """Raise if tokenizer_config.json and tokenizer.json disagree about a BOS before a
    text; which of them counts depends on the version of transformers."""
    wanted, bos = settings.get("add_bos_token"), token(settings, "bos")
    if wanted is None or bos is None or (number := rust.token_to_id(bos)) is None:
        return
    if wanted != (rust.encode("a").ids[:1] == [number]):
        puts = "does not put" if wanted else "puts"
        raise ValueError(
            f"{folder} says add_bos_token = {wanted} in tokenizer_config.json, and its "
            f"tokenizer.json {puts} {bos!r} before a text, expected the same; set the "
            "one with which the model was trained, or call load(..., tokenizer=...)"
        )


def _expect_class(folder: Path, settings: Mapping[str, Any], known: str) -> None:
    """Raise at settings or added tokens for which only tokenizer.json is reliable."""
    kind = settings.get("tokenizer_class")
    words = {its.get("content") for its in _added(settings)}
    apart = (folder / "added_tokens.json").exists() or any(
        not re.fullmatch(r"\[\w+\]|<\|?\w+\|?>|</s>", str(word)) for word in words
    )
    odd = [k for k in ("never_split", "add_prefix_space") if settings.get(k)]
    odd += ["do_basic_tokenize"] if settings.get("do_basic_tokenize") is False else []
    if apart or odd or (kind and not re.fullmatch(rf"({known})Tokenizer(Fast)?", kind)):
        raise ValueError(
            f"the tokeniser in {folder} is a {kind} with {odd or 'tokens added'}, and "
            f"there is no tokenizer.json; expected {known}Tokenizer without these; "
            "write one with AutoTokenizer.from_pretrained(folder)"
            ".save_pretrained(folder)"
        )


def _added(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(settings.get("added_tokens_decoder", {}).values())


def token(settings: Mapping[str, Any], role: str, default: str | None = None) -> Any:
    """The text of a special token in tokenizer_config.json."""
    its = settings.get(f"{role}_token")
    return (its.get("content") if isinstance(its, dict) else its) or default


def lines(path: Path) -> list[str]:
    """Lines as transformers reads them, ended by line feeds only. Python's splitlines
    also cuts at characters that are tokens, such as U+2028."""
    text = _text(path).replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n")


def _text(path: Path) -> str:
    try:
        return read_file(path, MOST_JSON).decode()
    except UnicodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error}), expected that; fetch it again"
        ) from error


def wordpiece(path: Path, settings: Mapping[str, Any], ends: bool = True) -> Tokenizer:
    """BERT's tokeniser from vocab.txt, one token a line."""
    rust = package()
    lower = settings.get("do_lower_case", True)
    vocabulary = {word: i for i, word in enumerate(lines(path))}
    roles = ("pad", "unk", "cls", "sep", "mask")
    names = [token(settings, role, f"[{role.upper()}]") for role in roles]
    text = rust.Tokenizer(rust.models.WordPiece(vocabulary, unk_token=names[1]))
    text.normalizer = rust.normalizers.BertNormalizer(
        lowercase=lower,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    text.pre_tokenizer = rust.pre_tokenizers.BertPreTokenizer()
    text.decoder = rust.decoders.WordPiece()
    if lost := [name for name in names[1:4] if name not in vocabulary]:
        raise ValueError(
            f"{path} lacks {lost}, expected a line for each; fetch the file again"
        )
    around = [(name, vocabulary[name]) for name in (names[3], names[2])]
    text.post_processor = rust.processors.BertProcessing(*around)
    text.add_special_tokens([name for name in names if name in vocabulary])
    return wrapped(text, ends)


def _bytes_of_folder(
    folder: Path, settings: Mapping[str, Any], ends: bool
) -> Tokenizer:
    vocabulary = read_json(folder / "vocab.json", dict[str, int])
    found = lines(folder / "merges.txt")
    merges = [line for line in found if line and not line.startswith("#version")]
    names = ("<s>", "</s>", "<pad>", "<mask>", "<unk>", "<|endoftext|>")
    special = [name for name in names if name in vocabulary]
    text = byte_pairs(vocabulary, merges, CUTS["gpt-2"], special)
    if "<s>" in vocabulary:  # RoBERTa
        around = ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"])
        rust = package()
        text.post_processor = rust.processors.RobertaProcessing(
            *around, add_prefix_space=False
        )
    return wrapped(text, ends)


def byte_pairs(
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    cuts: Sequence[str],
    special: Sequence[str],
    whole: bool = False,
) -> Any:
    """A byte-level BPE tokeniser, whose texts are first cut by regular expressions.

    Args:
        whole: whether a cut that is itself a token becomes that token without merging.
    """
    rust = package()
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if bad := [
        merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2
    ]:
        raise ValueError(
            f"got the merges {bad[:3]}, expected pairs with one space between; fetch "
            "the tokeniser again"
        )
    text = rust.Tokenizer(rust.models.BPE(dict(vocabulary), pairs, ignore_merges=whole))
    split = lambda cut: rust.pre_tokenizers.Split(rust.Regex(cut), "isolated")
    steps = [split(cut) for cut in cuts]
    steps.append(rust.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    text.pre_tokenizer = rust.pre_tokenizers.Sequence(steps)
    text.decoder = rust.decoders.ByteLevel()
    text.add_special_tokens(list(special))
    return text
