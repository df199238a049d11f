"""Reprogram frozen networks from the command line.

    reprojax list       methods, label maps, models and data sets, and what to try first
    reprojax train      learn a prompt or a probe for your images, and write a report
    reprojax predict    label new images with a program that train kept

`reprojax train --help` says what it takes. `python -m reprojax` is the same command.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec

COMMANDS = {"list": "listing.main", "train": "train.run", "predict": "predict.main"}
"""{command: its function of settings, in `reprojax.commands`}"""
HELP = ("-h", "--help")
NEEDED = ("matplotlib", "sklearn", "tyro")
"""Of the extra `commands`; jax and flax are always there."""


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
    if missing := [needed for needed in NEEDED if find_spec(needed) is None]:
        sys.exit(
            f"error: reprojax {name} needs {', '.join(missing)}, not installed here; "
            "call pip install 'reprojax[commands]'"
        )
    place, _, function = COMMANDS[name].partition(".")
    outputs = importlib.import_module("reprojax.commands.outputs")
    module = importlib.import_module(f"reprojax.commands.{place}")
    own = getattr(module, function)
    about = getattr(module, "ABOUT", module.__doc__)
    outputs.command(own, module.Config, f"reprojax {name}", rest, about)


if __name__ == "__main__":
    main()
