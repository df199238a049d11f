"""Reprogram frozen networks from the command line.

    reprojax train      a prompt, a label map and a report, for your images or digits
    reprojax predict    labels for new images from a program that train kept

`reprojax train --help` says what it takes. `python -m reprojax` is the same command.
"""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {"train": "run", "predict": "main"}
"""{module of `reprojax.commands`: its function of settings}"""
HELP = ("-h", "--help")


def main(args: Sequence[str] | None = None) -> None:
    """Hand the words behind the command's name to that command."""
    name, *rest = (sys.argv[1:] if args is None else args) or HELP[:1]
    if name in HELP:
        print((__doc__ or "").strip())
        return
    if name not in COMMANDS:
        sys.exit(
            f"error: got the command {name!r}, expected one of {', '.join(COMMANDS)}; "
            "reprojax --help says what they do"
        )
    try:
        outputs = importlib.import_module("reprojax.commands.outputs")
        module = importlib.import_module(f"reprojax.commands.{name}")
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: reprojax {name} needs {error.name}, which is not installed; call "
            "pip install 'reprojax[commands]'"
        )
    own = getattr(module, COMMANDS[name])
    outputs.command(own, module.Config, f"reprojax {name}", rest)


if __name__ == "__main__":
    main()
