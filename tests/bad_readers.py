"""The readers that `bad_inputs.py` tries, each with a good input of its own."""

import itertools
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import bad_inputs
import jax
import jax.numpy as jnp
import language_files
import numpy as np
from bad_inputs import Case, Reader, arrays, both, json_fields, tensors, whole_file
from PIL import Image

from experiments.shared.texts import bbh
from reprojax import data, models
from reprojax.core import Params, padded
from reprojax.models import Model, Pixels, language
from reprojax.recipes import registry
from reprojax.saving import programs
from reprojax.saving.folders import claim
from reprojax.saving.log import Log
from reprojax.text import Continuation, Request
from reprojax.text.served import Endpoint

# An empty text, list or map is of the right type where another one stands.
SAYING = tuple(one for one in bad_inputs.OTHERS if one not in ("", [], {}))
# Right settings: class names as numbers or none; no cutting before the merges.
NAMES = ('""', "-1", f"{2**70}"[:20])  # as a case spells them
LABELS = (
    "id2label = null",
    *(f"id2label.{i} = {name}" for i in (0, 1) for name in NAMES),
)
WHOLE_TEXT = ("pre_tokenizer = null", 'model.end_of_word_suffix = "text"')

# -- weights


def _seeded(build: Callable[[], Any]) -> Any:
    import torch

    torch.manual_seed(0)
    return build().eval()


def _vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=8,
        id2label={0: "a", 1: "b"},
        label2id={"a": 0, "b": 1},
    )
    _seeded(lambda: ViTForImageClassification(config)).save_pretrained(folder)
    looks = ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    looks.save_pretrained(folder)


def _image_model(folder: Path) -> Any:
    found = models.load(folder)
    x = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    answer = _forward(found.forward, found.frozen, x)
    return found.frozen, answer, found.size, found.mean, found.std, found.classes


def _forward(forward: Callable, frozen: Any, x: Any) -> Any:
    return jax.tree.leaves(jax.jit(forward)(frozen, x))


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *"abcdefghijklmnop", "ab", "abc", "cd"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("a", "b"), ("ab", "c"), ("c", "d")]
    own = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _llama(folder: Path, shards: bool = False) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=22,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    model = _seeded(lambda: LlamaForCausalLM(config))
    model.save_pretrained(folder, **({"max_shard_size": "3KB"} if shards else {}))
    _tokenizer(folder)


def _bert(folder: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=22,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    _seeded(lambda: BertForMaskedLM(config)).save_pretrained(folder)


def _language_model(folder: Path, ids: tuple[int, ...] = (1, 4, 5)) -> Any:
    found = language.load(folder)
    answer = _forward(found.forward, found.frozen, padded([ids]))
    told = found.input.tokenizer and found.input.tokenizer.encode("abc cd")
    special = {k: v for k, v in found.input.special._asdict().items() if v is not None}
    return (
        found.frozen,
        answer,
        told,
        special,
        found.input.vocabulary,
        found.input.positions,
    )


def _gguf(folder: Path) -> None:
    words = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(26))]
    words += [f"t{i}" for i in range(language_files.VOCABULARY - len(words))]
    language_files.write_gguf(
        folder / "a.gguf",
        add_tokenizer_model="llama",
        add_token_list=(words,),
        add_token_scores=([-float(i) for i in range(len(words))],),
        add_token_types=([2, 3, 3, *[1] * (len(words) - 3)],),
    )


def _gguf_model(folder: Path) -> Any:
    return _language_model(folder / "a.gguf")


def _gguf_numbers(folder: Path) -> Iterator[Case]:
    """The counts and lengths that a GGUF file announces, each made enormous."""
    whole = (folder / "a.gguf").read_bytes()
    places = {"tensors": 8, "keys": 16, "first key's length": 24}
    places |= {f"eight bytes at {at}": at for at in range(40, 1200, 29)}

    def spoil(folder: Path, at: int, number: int) -> None:
        wrong = number.to_bytes(8, "little")
        (folder / "a.gguf").write_bytes(whole[:at] + wrong + whole[at + 8 :])

    for (what, at), number in itertools.product(places.items(), (2**40, 2**63 - 1)):
        # a number in the middle may be read as another one; only sizes are certain
        if not what.startswith("eight") or number == 2**63 - 1:
            yield f"{what} = {number}", partial(spoil, at=at, number=number)


# -- programs


@cache
def _backbone() -> Model[Pixels]:
    return models.load("glyphs")


def _program(folder: Path) -> None:
    learnable = {"normalized": jnp.ones((32, 32, 3))}
    card = programs.Card.of(
        _backbone(),
        method="watermark",
        arguments={"alignment": "blm"},
        image=(8, 8, 3),
        classes=("no", "yes"),
        coordinates=("learnable", "input", "additive", "statistical"),
        split={"name": "a", "digest": "b", "seed": 0},
        metric={"validation": 0.5, "test": 0.5},
    )
    count = len(_backbone().classes)
    fixed = {"input": (), "normalized": (), "output": jnp.full((count, 2), 1 / count)}
    programs.save(folder / "a.safetensors", Params(learnable, fixed), card)


def _saved(folder: Path) -> Any:
    saved = programs.load(folder / "a.safetensors", _backbone())
    program, params = registry.rebuild(saved, _backbone())
    x = np.zeros((1, 8, 8, 3), np.uint8)
    card = json.dumps(saved.card._asdict(), sort_keys=True)
    return params, program.apply(params, _backbone().frozen, x), card


# Right values that mean something else than those of the good card.
CARD = ("arguments.alignment = null",)


def _cards(folder: Path) -> Iterator[Case]:
    """Each field of the card by each other type, under a checksum that holds."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(folder / "a.safetensors", framework="np") as file:
        metadata = file.metadata()
    held = load_file(folder / "a.safetensors")
    (folder / "card.json").write_text(metadata["card"])

    def write(folder: Path, spoil: Callable[[Path], None]) -> None:
        spoil(folder)
        text = (folder / "card.json").read_text()
        (folder / "card.json").unlink()
        sealed = metadata | {"card": text, "sha256": programs._digest(text, held)}
        save_file(held, folder / "a.safetensors", sealed)

    for name, spoil in json_fields("card.json", 400, ("split", "seed"), CARD, SAYING)(
        folder
    ):
        yield name, partial(write, spoil=spoil)


# -- data


def _npz(folder: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (20, 6, 6, 3), np.uint8)
    np.savez(folder / "a.npz", x=x, y=np.arange(20) % 2, classes=["no", "yes"])


def _task(task: data.Task) -> Any:
    parts = task.train, task.validation, task.test
    return [(np.asarray(part.x[:]), part.y) for part in parts], list(task.classes)


def _images(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("no", "yes"):
        (folder / name).mkdir()
        for i in range(6):
            pixels = draw.integers(0, 256, (7, 9, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    Image.fromarray(pixels).save(folder / "yes" / "5.jpg", quality=95)
    (folder / "yes" / "5.png").unlink()


def _bbh(folder: Path) -> None:
    rows = [{"input": f"{i} + 1?", "target": str(i + 1)} for i in range(9)]
    (folder / "data/text/bbh").mkdir(parents=True)
    (folder / "data/text/bbh/sums.json").write_text(json.dumps({"examples": rows}))


def _questions(folder: Path) -> Any:
    import os

    before = os.environ.get("REPROJAX_ASSETS")
    os.environ["REPROJAX_ASSETS"] = str(folder)
    try:
        return bbh("sums", train=2, validation=2)._asdict()
    finally:
        del os.environ["REPROJAX_ASSETS"]
        if before is not None:
            os.environ["REPROJAX_ASSETS"] = before


# -- runs


def _identity(folder: Path) -> None:
    claim(folder, {"seed": 0, "rate": 0.1, "data": "digest", "of": {"a": [1]}}, False)


def _resumed(folder: Path) -> str:
    claim(folder, {"seed": 0, "rate": 0.1, "data": "digest", "of": {"a": [1]}}, True)
    return "gone on with"


RECORDS = [bytes([i]) * 40 for i in range(3)]


def _log(folder: Path) -> None:
    log = Log(folder / "log")
    log.read({"seed": 0})
    for record in RECORDS:
        log.write(record)
    log.close()


def _logged(folder: Path) -> Any:
    """What a kill tore off is asked again: the first records are as good as all."""
    log = Log(folder / "log")
    found = [bytes(one) for one in log.read({"seed": 0})]
    log.close()
    return "gone on with" if found == RECORDS[: len(found)] else found


# -- servers

COMPLETION = {
    "id": "a",
    "object": "text_completion",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "text": "b", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
}
ECHO = COMPLETION | {
    "choices": [
        {
            "index": 0,
            "text": "a b",
            "finish_reason": "length",
            "logprobs": {
                "tokens": ["a", " b"],
                "token_logprobs": [None, -1.5],
                "text_offset": [0, 1],
                "top_logprobs": [None, {" b": -1.5}],
            },
        }
    ]
}
CHAT = COMPLETION | {
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "b"},
            "finish_reason": "stop",
        }
    ],
}


def _reply(document: Any) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / "reply.json").write_text(json.dumps(document)) and None
    )


@cache
def _server() -> Any:
    """One for all cases; it says what lies in its `path`."""
    import test_served as test_endpoint

    server = test_endpoint.Server(lambda path, body: server.path.read_bytes())
    server.thread.daemon = True
    server.server.daemon_threads = True
    server.__enter__()
    return server


def _asked(api: str, score: bool) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        server = _server()
        server.path = folder / "reply.json"
        if not server.path.is_file():
            raise ValueError("no reply at all is no case of a server")
        with Endpoint("tiny", server.url, budget=9, retries=0, api=api) as far:
            if score:
                return [one._asdict() for one in far.score([Continuation("a", " b")])]
            (reply,) = far.complete([Request("p")])
            return [one._asdict() for one in reply.completions]

    return read


REPLY = both(json_fields("reply.json", 60, others=SAYING), whole_file("reply.json"))

READERS = [
    Reader(
        "ViT folder of transformers",
        _vit,
        _image_model,
        both(
            json_fields("config.json", 80, but=LABELS),
            json_fields("preprocessor_config.json", 60),
            whole_file("config.json"),
            whole_file("model.safetensors"),
            tensors("model.safetensors", 8),
        ),
    ),
    Reader(
        "Llama folder of transformers",
        _llama,
        _language_model,
        both(
            json_fields("config.json", 100),
            json_fields("tokenizer.json", 60, but=WHOLE_TEXT),
            json_fields("tokenizer_config.json", 40),
            whole_file("tokenizer.json"),
            whole_file("model.safetensors"),
            tensors("model.safetensors", 6),
        ),
    ),
    Reader(
        "Llama folder in shards",
        partial(_llama, shards=True),
        _language_model,
        both(
            json_fields("model.safetensors.index.json", 40),
            whole_file("model.safetensors.index.json"),
        ),
    ),
    Reader(
        "BERT folder of transformers",
        _bert,
        _language_model,
        both(json_fields("config.json", 80), tensors("model.safetensors", 6)),
    ),
    Reader("GGUF file", _gguf, _gguf_model, both(whole_file("a.gguf"), _gguf_numbers)),
    Reader(
        "program file",
        _program,
        _saved,
        both(whole_file("a.safetensors"), tensors("a.safetensors"), _cards),
    ),
    Reader(
        "images in an npz file",
        _npz,
        lambda folder: _task(data.load(folder / "a.npz")),
        both(whole_file("a.npz"), arrays("a.npz")),
    ),
    Reader(
        "images in folders",
        _images,
        lambda folder: _task(data.load(folder)),
        both(
            whole_file("no/3.png", but="is a folder"),  # as any nested folder
            whole_file("yes/5.jpg", but="is a folder"),
        ),
    ),
    Reader(
        "questions",
        _bbh,
        _questions,
        both(
            json_fields("data/text/bbh/sums.json"),
            whole_file("data/text/bbh/sums.json"),
        ),
    ),
    Reader(
        "identity of a run",
        _identity,
        _resumed,
        both(json_fields("identity.json"), whole_file("identity.json")),
    ),
    Reader("log of queries", _log, _logged, whole_file("log")),
    Reader(
        "server, a completion", _reply(COMPLETION), _asked("completions", False), REPLY
    ),
    Reader("server, an echo", _reply(ECHO), _asked("completions", True), REPLY),
    Reader("server, a chat", _reply(CHAT), _asked("chat", False), REPLY),
]
