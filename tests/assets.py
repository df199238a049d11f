"""Where the real weights and data lie that some tests need."""

import os
from pathlib import Path


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
