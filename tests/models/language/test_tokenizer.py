"""Tokenisers from the files beside a model."""

import json
import sys

import language_files as files
import pytest
import tokenizers

from reprojax.models import language

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] hello wor ##ld , caf ##e".split()


def wordpiece(tmp_path, name="bert", **looks):
    folder = files.write(tmp_path, name)
    (folder / "vocab.txt").write_text("\n".join(WORDS), "utf8")
    (folder / "tokenizer_config.json").write_text(json.dumps(looks))
    return language.load(folder)


def test_vocabulary_of_wordpieces(tmp_path):
    model = wordpiece(tmp_path)
    text = model.input.tokenizer
    assert text.encode("Hello, WORLD caf\u00e9 x [MASK]") == [
        2, 5, 8, 6, 7, 9, 10, 1, 4, 3,
    ]  # fmt: skip
    assert text.encode("hello", special=False) == [5]
    assert text.decode([2, 5, 8, 6, 7, 3]) == "hello, world"
    assert model.input.special.mask == 4 and text.size == 11


def test_a_cased_vocabulary(tmp_path):
    text = wordpiece(tmp_path, do_lower_case=False).input.tokenizer
    assert text.encode("Hello hello", special=False) == [1, 5]


def saved(folder, words):
    rust = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]")
    )
    rust.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    rust.enable_truncation(2)
    rust.enable_padding(length=5)
    rust.save(str(folder / "tokenizer.json"))


def test_tokenizer_json_comes_first_and_cuts_nothing(tmp_path):
    folder = files.write(tmp_path / "llama", "llama")
    saved(folder, ["[UNK]", "one", "two", "three"])
    (folder / "vocab.txt").write_text("\n".join(WORDS), "utf8")
    model = language.load(folder)
    assert model.input.tokenizer.encode("one two three four") == [1, 2, 3, 0]


def test_vocab_json_and_merges(tmp_path):
    folder = files.write(tmp_path / "gpt2", "gpt2")
    words = ["<|endoftext|>", "a", "b", "ab", "\u0120", "\u0120ab"]
    table = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(table), "utf8")
    (folder / "merges.txt").write_text("#version: 0.2\na b\n\u0120 ab\n", "utf8")
    text = language.load(folder).input.tokenizer
    assert text.encode("ab ab<|endoftext|>") == [3, 5, 0]
    assert text.decode([3, 5, 0]) == "ab ab"


def test_one_from_elsewhere(tmp_path):
    folder = files.write(tmp_path / "llama", "llama")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="holds no tokeniser, expected tokenizer.json"):
        language.load(folder, tokenizer=other)
    saved(other, ["[UNK]", "one"])
    model = language.load(folder, tokenizer=other)
    assert model.input.tokenizer.encode("one") == [1]
    assert (
        language.load(folder, tokenizer=model.input.tokenizer).input.tokenizer.size == 2
    )


def test_bad_ones(tmp_path, monkeypatch):
    folder = files.write(tmp_path / "llama", "llama")
    saved(folder, [f"w{i}" for i in range(41)])
    with pytest.raises(ValueError, match="up to 40 and llama a vocabulary of 40"):
        language.load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read .* fetch them again"):
        language.load(folder)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match="pip install tokenizers"):
        language.load(folder)
    assert language.load(folder, tokenizer=None).input.tokenizer is None


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_line_feed_ends_a_line(tmp_path, end):
    """The vocabulary of bert-base-chinese has a token U+2028."""
    folder = files.write(tmp_path / "bert", "bert")
    words = [*WORDS, "\u2028", "\x85", "world"]
    (folder / "vocab.txt").write_bytes((end.join(words) + end).encode())
    text = language.load(folder).input.tokenizer
    assert (text.id("hello"), text.id("world"), text.size) == (5, 13, 14)


def with_ends(folder):
    """A tokeniser that puts BOS before a text and EOS behind it."""
    words = ["<s>", "</s>", "one", "two", "a"]
    rust = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "a")
    )
    rust.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    rust.add_special_tokens(words[:2])
    rust.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    rust.save(str(folder / "tokenizer.json"))


def test_no_eos_stands_behind_what_a_causal_model_goes_on_from(tmp_path):
    llama, bert = (files.write(tmp_path / name, name) for name in ("llama", "bert"))
    for folder in (llama, bert):
        with_ends(folder)
    text = language.load(llama).input.tokenizer
    assert text.encode("one two") == [0, 2, 3] and text.encode("") == [0]
    assert text.encode("one </s>") == [0, 2, 1]  # the text's own one
    assert text.encode("one", special=False) == [2]
    assert language.load(bert).input.tokenizer.encode("one") == [0, 2, 1]


def test_files_that_disagree_on_bos(tmp_path):
    folder = files.write(tmp_path / "llama", "llama")
    with_ends(folder)
    looks = {"bos_token": {"content": "<s>"}, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(looks))
    assert language.load(folder).input.tokenizer.encode("one") == [0, 2]
    looks["add_bos_token"] = False
    (folder / "tokenizer_config.json").write_text(json.dumps(looks))
    with pytest.raises(ValueError, match="add_bos_token = False .* puts '<s>' before"):
        language.load(folder)


@pytest.mark.parametrize(
    "looks, message",
    [
        (dict(tokenizer_class="BertJapaneseTokenizer"), "a BertJapaneseTokenizer with"),
        (dict(do_basic_tokenize=False), "do_basic_tokenize"),
        (dict(never_split=["x"]), "never_split"),
        (dict(added_tokens_decoder={"11": {"content": "new word"}}), "tokens added"),
        (dict(unk_token="<none>"), r"lacks \['<none>'\]"),
        (dict(do_lower_case="yes"), "tokenizer_config.json is JSON of another type"),
    ],
)
def test_words_that_another_class_reads_otherwise(tmp_path, looks, message):
    with pytest.raises(ValueError, match=message):
        wordpiece(tmp_path, **looks)


def test_tokeniser_files_that_are_none(tmp_path):
    folder = files.write(tmp_path / "gpt2", "gpt2")
    (folder / "merges.txt").write_text("a b\n")
    for text in ("[]", "", '{"a": "b"}', '{"a": null}', "[" * 10**5):
        (folder / "vocab.json").write_text(text)
        with pytest.raises(ValueError, match="vocab.json is "):
            language.load(folder)
    for text in ("", "[]", "{}", "null", "[" * 10**5, '{"model": {"type": "BPE"}}'):
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match="tokeniser in .* cannot be read"):
            language.load(folder)
    (folder / "tokenizer.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="tokenizer.json is not UTF-8 text"):
        language.load(folder)
