"""Weight files: which files of a folder to read, and their tensors."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from reprojax.saving.files import open_regular, read_json

# tensors that neither features nor logits depend on
IGNORED = re.compile(
    r".*num_batches_tracked|.*position_ids|(embeddings\.)?mask_token|pooler\.dense\..*"
    r"|cls\.seq_relationship\..*|h\.\d+\.attn\.(masked_)?bias|.*\.rotary_emb\.inv_freq"
    r"|.*relative_position_index|(.*\.)?attn_mask"
    r"|input_resolution|context_length|vocab_size"  # beside OpenAI's weights
)
# prefixes of DataParallel, Lightning, transformers; torch.compile and FSDP insert some
WRAPPERS = re.compile(
    r"^((module|model|vit|deit|beit|dinov2(_with_registers)?|resnet|convnext(v2)?|swin|mobilenet_v2|efficientnet"
    r"|bert|roberta|transformer|_orig_mod"
    r"|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
    r"|(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
FLOATS = ("F16", "BF16", "F32", "F64")
CONVERT = (
    "load the model in torch and write it: model.save_pretrained(folder), or "
    "safetensors.torch.save_file(model.state_dict(), path)"
)
OTHERS = (".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".npz")


def read(paths: Iterable[Path]) -> dict[str, np.ndarray]:
    """All tensors of some safetensors files, without wrappers' prefixes.

    Raises:
        ValueError: no such file, two tensors of one name, or a tensor that is empty,
            not of 16 to 64 bit floats, or not finite.
    """
    tensors: dict[str, np.ndarray] = {}
    for path in paths:
        for name, tensor in _stored(path):
            if name in tensors:
                raise ValueError(
                    f"{path} holds a second tensor {name} without the prefixes of "
                    "wrappers (module, model, _orig_mod, ...), expected one; save "
                    "the weights of one model only"
                )
            tensors[name] = tensor
    return tensors


def names(paths: Iterable[Path]) -> set[str]:
    """The names that `read` gives to the tensors, without reading these; none of a file
    that is not of this format."""
    from safetensors import SafetensorError, safe_open

    found: set[str] = set()
    for path in paths:
        with contextlib.suppress(SafetensorError, OSError):
            with open_regular(path), safe_open(path, framework="np") as file:
                found |= {WRAPPERS.sub("", name) for name in file.keys()}
    return found


def _stored(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(short name, tensor) of a file, without the `IGNORED` ones."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path), safe_open(path, framework="np") as file:
            for stored in file.keys():
                if not IGNORED.fullmatch(name := WRAPPERS.sub("", stored)):
                    _refuse_type(path, stored, file.get_slice(stored).get_dtype())
                    yield name, numbers(file.get_tensor(stored), stored, path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} could not be read as safetensors ({error}), expected a whole "
            f"file of that format; fetch it again, or {CONVERT}"
        ) from error


def _refuse_type(path: Path, name: str, kind: str) -> None:
    if kind not in FLOATS:
        raise ValueError(
            f"{path} holds {name} as {kind}, expected {', '.join(FLOATS)}: the scales "
            "of quantised numbers are not known here; dequantise the model "
            "with the package that quantised it, and save it in 16 or 32 bits"
        )


def numbers(tensor: np.ndarray, name: str, path: Path) -> np.ndarray:
    """The tensor; raise if it is empty, or not finite in float32."""
    if not tensor.size:
        raise ValueError(
            f"{path} holds {name} of the shape {list(tensor.shape)}, expected numbers "
            "in it; fetch the file again"
        )
    if bad := tensor.size - int(np.isfinite(tensor.astype(np.float32)).sum()):
        raise ValueError(
            f"{path} holds {name} with {bad} of {tensor.size} numbers NaN or infinite, "
            "expected finite ones; the model diverged or the file is damaged: take an "
            "earlier checkpoint, or fetch the file again"
        )
    return tensor


class Index(TypedDict):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]


def files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards of an index, or the only .safetensors file."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return [whole]
    if index.exists():
        return _shards(
            folder, sorted({*read_json(index, Index)["weight_map"].values()})
        )
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1 or found[0].name.startswith("adapter_"):
        raise ValueError(
            f"{folder} holds {[path.name for path in found]} of safetensors, expected "
            "model.safetensors, model.safetensors.index.json, or just one model's "
            f"file; give load() the file's own path{_instead(folder, found)}"
        )
    return found


def _instead(folder: Path, found: Sequence[Path]) -> str:
    """Advice for weights in other formats."""
    if found and found[0].name.startswith("adapter_"):
        return (
            "; an adapter is no model: merge it (peft's merge_and_unload), and save "
            "that"
        )
    others = sorted(p.name for p in folder.iterdir() if p.suffix in OTHERS)
    return f"; of its {others}, which are not read here, {CONVERT}" if others else ""


def _shards(folder: Path, wanted: Sequence[str]) -> list[Path]:
    if outside := [name for name in wanted if Path(name).name != name]:
        raise ValueError(
            f"the index in {folder} names {outside}, expected only files of that "
            "folder; fetch the model again from a place that you trust"
        )
    if missing := [name for name in wanted if not (folder / name).exists()]:
        raise ValueError(
            f"{folder} lacks {missing}, expected every shard that its index names; "
            "fetch them again"
        )
    return [folder / name for name in wanted]


def document(path: Path) -> dict[str, Any]:
    """A JSON object; {} if there is no such file."""
    return read_json(path, dict[str, Any]) if path.exists() else {}
