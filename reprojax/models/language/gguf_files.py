"""GGUF files (llama.cpp's), by the package `gguf`: settings, tensors, tokeniser."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# their names of settings, behind the architecture's -> those of transformers
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
SPECIAL = {"bos": "bos", "eos": "eos", "padding": "pad", "mask": "mask"}


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """A file -> (config as transformers names it, float32 or float16 tensors, all of
    its metadata)."""
    package = _package()
    try:
        reader = package.GGUFReader(path)
        data = {key: field.contents() for key, field in reader.fields.items()}
        stored = list(reader.tensors)
    except Exception as error:  # whatever the package raises on a damaged file
        raise ValueError(
            f"{path} could not be read as GGUF ({error}), expected a whole file of "
            "that format; fetch it again"
        ) from error
    if (parts := data.get("split.count", 1)) > 1:
        raise ValueError(
            f"{path} came, one of {parts} parts of a model, expected a whole file; "
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
            "a GGUF file came, and the package gguf, which reads it, is missing; "
            "pip install gguf"
        ) from error
    return gguf


def _values(package: Any, tensor: Any, path: Path) -> np.ndarray:
    kind = tensor.tensor_type
    if kind.name == "F16":  # half of the memory until it is converted
        return np.asarray(tensor.data.view(np.float16))
    try:
        return np.asarray(package.dequantize(tensor.data, kind))
    except NotImplementedError as error:
        known = ["F32", "F16", *(kind.name for kind in package.quants._type_traits)]
        raise ValueError(
            f"{path} holds {tensor.name} as {kind.name}, expected one of "
            f"{', '.join(known)}; fetch the model in another quantisation, give load() "
            "its folder of safetensors, or read it yourself: language.texts(module) is "
            "the forward of a linen module, and `frozen` its weights"
        ) from error


def settings(data: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Metadata as config.json would say it; takes the factors of the rotation out."""
    family = data.get("general.architecture", "none")
    config = {
        new: data[f"{family}.{old}"]
        for old, new in SETTINGS.items()
        if f"{family}.{old}" in data
    }
    config |= {"model_type": family, "hidden_act": "silu", "architectures": ["LM"]}
    config["tie_word_embeddings"] = "output.weight" not in tensors
    if "token_embd.weight" in tensors:
        config["vocab_size"] = len(tensors["token_embd.weight"])
    config["rope_parameters"] = _rotation(data, family, tensors)
    for theirs, ours in SPECIAL.items():
        config[f"{ours}_token_id"] = data.get(f"tokenizer.ggml.{theirs}_token_id")
    size = config.get("head_dim") or _head_size(config)
    if data.get(f"{family}.rope.dimension_count", size) != size:
        config["partial_rotary_factor"] = data[f"{family}.rope.dimension_count"] / size
    return config


def _head_size(config: Mapping[str, Any]) -> int:
    return config.get("hidden_size", 0) // (config.get("num_attention_heads") or 1)


def _rotation(
    data: Mapping[str, Any], family: str, tensors: dict[str, np.ndarray]
) -> dict[str, Any]:
    factors = tensors.pop("rope_freqs.weight", None)
    if factors is not None:
        return {"rope_type": "factors", "factors": [float(f) for f in factors]}
    kind = data.get(f"{family}.rope.scaling.type", "none")
    factor = data.get(f"{family}.rope.scaling.factor")
    return {"rope_type": "default" if kind == "none" else kind, "factor": factor}


def is_gguf(path: Path) -> bool:
    """Whether a file's name says so."""
    return path.suffix.lower() == ".gguf"
