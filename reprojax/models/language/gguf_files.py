"""Settings, tensors and tokenisers of GGUF files (llama.cpp's), by the package gguf."""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reprojax.models.stored import numbers
from reprojax.saving.files import open_regular

# GGUF's names of settings, after the architecture's prefix -> those of transformers
SETTINGS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
# read below, or redundant with the tensors
READ = (
    "vocab_size", "tensor_data_layout", "attention.value_length",
    "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
)  # fmt: skip
SPECIAL = {"bos": "bos", "padding": "pad", "mask": "mask"}
# llama.cpp also ends a text at these, whatever the file names as its end
ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
    "<|eom_id|>", "<EOT>", "<|end_of_text|>",
)  # fmt: skip
MANY = 1 << 21  # the largest vocabularies have some 300,000 tokens
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, LIST = 8, 9


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """A file -> (config as transformers names it, float32 or float16 tensors, all
    metadata)."""
    package = _package()
    _check_sizes(path)
    try:
        reader = package.GGUFReader(path)
        data = {key: field.contents() for key, field in reader.fields.items()}
        stored = list(reader.tensors)
    except Exception as error:  # the package may raise anything on a damaged file
        raise ValueError(
            f"{path} could not be read as GGUF ({error}), expected a whole file of "
            "that format; fetch it again"
        ) from error
    if (parts := data.get("split.count", 1)) > 1:
        raise ValueError(
            f"got {path}, one of {parts} parts of a model, expected a whole file; "
            "join them: gguf-split --merge, of llama.cpp"
        )
    tensors = {t.name: _values(package, t, path) for t in stored}
    config = settings(data, tensors)
    return config, tensors, data


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ValueError(
            "got a GGUF file, and the package gguf, which reads it, is missing; "
            "pip install gguf"
        ) from error
    return gguf


def _values(package: Any, tensor: Any, path: Path) -> np.ndarray:
    kind = tensor.tensor_type
    if kind.name == "F16":  # kept in float16 until it is converted, to save memory
        return numbers(np.asarray(tensor.data.view(np.float16)), tensor.name, path)
    try:
        values = np.asarray(package.dequantize(tensor.data, kind))
        return numbers(values, tensor.name, path)
    except NotImplementedError as error:
        known = ["F32", "F16", *(kind.name for kind in package.quants._type_traits)]
        raise ValueError(
            f"{path} holds {tensor.name} as {kind.name}, expected one of "
            f"{', '.join(known)}; fetch the model in another quantisation, give load() "
            "its folder of safetensors, or read it yourself: language.texts(module) is "
            "the forward of a linen module, and `frozen` its weights"
        ) from error


def _check_sizes(path: Path) -> None:
    """Raise at a header that announces more than the file can hold: the package would
    loop over all of it."""
    with open_regular(path) as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _walk(data)
        except (struct.error, OverflowError, ValueError) as error:
            raise ValueError(
                f"{path} could not be read as GGUF ({error}), expected a whole file of "
                "that format; fetch it again"
            ) from error


def _walk(data: mmap.mmap) -> None:
    """Walk over the keys of a header and their values."""
    magic, version = struct.unpack_from("<4sI", data)
    order = "<" if version < 1 << 16 else ">"

    def take(at: int, kind: str) -> int:
        return struct.unpack_from(order + kind, data, at)[0]

    def behind(at: int, kind: int, count: int) -> int:
        """The offset after `count` values of a kind."""
        if count > MANY:
            raise ValueError(f"it announces a list of {count}")
        if kind != STRING:
            return at + count * SIZES[kind] if kind in SIZES else len(data) + 1
        for _ in range(count):
            at += 8 + take(at, "Q")
        return at

    tensors, keys = take(8, "Q"), take(16, "Q")
    if magic != b"GGUF" or 24 * tensors + 12 * keys > len(data):
        raise ValueError(f"it announces {tensors} tensors and {keys} keys")
    at = 24
    for _ in range(keys):
        at = behind(at, STRING, 1)
        kind, at = take(at, "I"), at + 4
        count = 1
        if kind == LIST:
            kind, count, at = take(at, "I"), take(at + 4, "Q"), at + 12
        at = behind(at, kind, count)
        if at > len(data):
            raise ValueError("it announces more than it holds")


def settings(data: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Metadata as config.json would say it; removes the rotation's factors from
    `tensors`."""
    family = data.get("general.architecture", "none")
    its = {
        key.removeprefix(f"{family}."): value
        for key, value in data.items()
        if key.startswith(f"{family}.")
    }
    # unknown settings keep their names, so the family refuses them by name
    config = {SETTINGS.get(key, key): v for key, v in its.items() if key not in READ}
    config |= {"model_type": family, "hidden_act": "silu", "architectures": ["LM"]}
    config["tie_word_embeddings"] = "output.weight" not in tensors
    if "token_embd.weight" in tensors:
        config["vocab_size"] = len(tensors["token_embd.weight"])
    config["rope_parameters"] = _rotation(data, family, tensors)
    for theirs, ours in SPECIAL.items():
        config[f"{ours}_token_id"] = data.get(f"tokenizer.ggml.{theirs}_token_id")
    config["eos_token_id"] = _ends(data)
    size = config.get("head_dim") or _head_size(config)
    if (turned := its.get("rope.dimension_count", size)) != size and size:
        config["partial_rotary_factor"] = turned / size
    if its.get("attention.value_length", size) != size:
        config["attention.value_length"] = its["attention.value_length"]
    return config


def _ends(data: Mapping[str, Any]) -> list[int]:
    """The ids at which llama.cpp ends a text, the file's own first."""
    found = [
        data.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")
    ]
    pieces = data.get("tokenizer.ggml.tokens", [])
    ids = {piece: i for i, piece in enumerate(pieces) if piece in ENDS}
    found += [ids[piece] for piece in ENDS if piece in ids]
    return [i for i in dict.fromkeys(found) if i is not None]


def _head_size(config: Mapping[str, Any]) -> int:
    width, heads = (config.get(k) for k in ("hidden_size", "num_attention_heads"))
    if not (isinstance(width, int) and isinstance(heads, int) and heads > 0):
        return 0  # refused with the other settings
    return width // heads


def _rotation(
    data: Mapping[str, Any], family: str, tensors: dict[str, np.ndarray]
) -> dict[str, Any]:
    factors = tensors.pop("rope_freqs.weight", None)
    kind = data.get(f"{family}.rope.scaling.type", "none")
    if factors is not None:
        kind = "factors" if kind == "none" else f"factors and {kind}"
        return {"rope_type": kind, "factors": [float(f) for f in factors]}
    if kind == "none":
        return {"rope_type": "default"}
    return {"rope_type": kind, "factor": data.get(f"{family}.rope.scaling.factor")}


def is_gguf(path: Path) -> bool:
    """Whether a file's name says so."""
    return path.suffix.lower() == ".gguf"
