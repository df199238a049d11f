"""Weights from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "config.json")


def fetch(name: str, revision: str | None = None, beside: Sequence[str] = ()) -> Path:
    """The folder of a hub model, downloaded once: safetensors, config.json and the
    files in `beside`."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ValueError(
            f"{name!r} is not a local file or folder, and the hub cannot be asked: the "
            "package huggingface-hub is missing; pip install huggingface-hub, or give "
            "load() a folder"
        ) from error
    from huggingface_hub import errors

    try:
        return Path(
            hub.snapshot_download(
                name, revision=revision, allow_patterns=[*WEIGHTS, *beside]
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ValueError(
            f"the hub has no model {name!r}{at} that this user may read, expected "
            '"org/name"; check the name, or log in with `hf auth login`'
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"{name!r} is no hub name ({error})") from error
    except Exception as error:
        raise ValueError(
            f"{name!r} is not a local file or folder and was not fetched from the "
            f"hub ({type(error).__name__}); with no network, give load() a folder that "
            f"holds {', '.join(('model.safetensors', 'config.json', *beside))}"
        ) from error
