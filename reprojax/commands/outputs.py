"""How a script is called, how it ends, and what it may write."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tyro

from reprojax.saving.files import open_regular


def command(
    main: Callable[[Any], Any],
    settings: type,
    prog: str | None = None,
    args: Sequence[str] | None = None,
    about: str | None = None,
) -> None:
    """main(settings of the command line). A fault is one line, and exit status 1.
    Ctrl-C is one line too, and exit status 130.

    Args:
        about: what --help shows above the settings; by default the docstring of the
            module in which the settings stand.
        prog: what the usage line shows; by default `python -m` and that module.
        args: words of the command line; by default all behind the script's name.
    """
    module = sys.modules[settings.__module__]
    if prog is None:
        name = getattr(module.__spec__, "name", module.__name__)
        prog = f"python -m {name.removesuffix('.__main__')}"
    try:
        with brief_warnings():
            main(
                tyro.cli(
                    settings, prog=prog, args=args, description=about or module.__doc__
                )
            )
    except BrokenPipeError:  # such as of `head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        resumable = "resume" in {field.name for field in fields(settings)}
        again = "; the same command with --resume continues" if resumable else ""
        print(f"\nstopped{again}", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def brief_warnings() -> Iterator[None]:
    """A `UserWarning` is one line, without the place in the code that gave it."""
    before = warnings.formatwarning

    def brief(message: Any, category: type[Warning], *place: Any, **more: Any) -> str:
        if category is UserWarning:
            return f"warning: {message}\n"
        return before(message, category, *place, **more)

    warnings.formatwarning = brief
    try:
        yield
    finally:
        warnings.formatwarning = before


def writable(folder: Path) -> None:
    """Before long work: make the folder where none is; raise where it cannot be used.

    Raises:
        ValueError: a file has that name, it cannot be made, or not be written to.
    """
    expected = "expected a folder that can be made and written to; choose another --out"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"got --out {folder} ({error.strerror}), {expected}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"got --out {folder}, which is read-only, {expected}")


def replaceable(path: Path, mark: bytes) -> None:
    """Before long work: a file can be written there, and none of others is lost.

    Args:
        mark: what the first KiB of a script's own file holds.

    Raises:
        ValueError: another file, or no file at all, has that name.
        OSError: the folder cannot be made, or not be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent} cannot be written to")
    if not os.path.lexists(path):
        return
    with open_regular(path) as file:
        if mark not in file.read(1024):
            raise ValueError(
                f"{path} is there and was not written by this command; choose another "
                "--out, or remove it"
            )
