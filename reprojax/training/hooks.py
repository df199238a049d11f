"""What `fit` tells while it trains, and what listens.

>>> log, ends = hooks.json_lines("log.jsonl"), hooks.patience(5)
>>> fitted = fit(program, frozen, task, optimizer=adam, epochs=2, batch=4,
...              on_step=hooks.every(10, log), on_epoch=hooks.first_of(log, ends))

A hook gets plain numbers. To tell a step is a trip to the host, which waits for it, so
name by `every` how often. A run gives the same bits with hooks and without, until one
ends it: `on_epoch` does by giving True. The checkpoint keeps that, and the run stays
ended when it is resumed. A rule for it should look at the curves, which a resumed run
has too, and not at what it remembers. Hooks are no part of what makes a run itself: a
folder whose run one rule has ended stays that run under another, so that a rule which
waits longer wants a folder of its own.

It does not learn? A gradient of 0: the prompt does not reach the loss. Hardly moved:
the rate is too small. Moved far while the loss stays: too large, or the map is wrong.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from reprojax.saving.files import write_file


class Step(NamedTuple):
    """After a training step."""

    step: int
    """Counted from 1 through all epochs."""
    loss: float
    gradient: float
    """The norm of the gradient of all learnable params."""
    update: float
    """The norm of what the optimiser added."""
    moved: float
    """The norm of what the params are away from the first ones."""


class Epoch(NamedTuple):
    """After an epoch; the norms are those of its last step."""

    epoch: int
    step: int
    loss: float
    """The mean over its steps."""
    validation: float
    gradient: float
    update: float
    moved: float
    curves: np.ndarray
    """[epochs so far, 5]: loss, validation, gradient, update, moved."""
    sign: int = 1
    """-1 where less of the validation score is better."""

    def shown(self) -> dict[str, str]:
        """For a progress line."""
        norms = {n: f"{getattr(self, n):.2g}" for n in ("gradient", "update", "moved")}
        return {"validation": f"{self.validation:.3f}", **norms}


OnStep = Callable[[Step], Any]
OnEpoch = Callable[[Epoch], "bool | None"]
Told = Step | Epoch
WHOLE = ("curves", "sign")  # of what is told, no numbers of that moment


class Every(NamedTuple):
    """A hook that is told of each `steps`-th step."""

    steps: int
    hook: OnStep


def every(steps: int, hook: OnStep) -> Every:
    """Tell a hook of each such step, and wait for no other."""
    return Every(steps, hook)


def checked_hooks(on_step: Any, on_epoch: Any) -> tuple[int, OnStep | None]:
    """How often a step is told, and to whom."""
    often, tell = on_step if isinstance(on_step, Every) else (1, on_step)
    for name, hook in (("on_step", tell), ("on_epoch", on_epoch)):
        if hook is not None and not callable(hook):
            raise ValueError(
                f"{name}={hook!r} came, expected a function of what is told, such as "
                "print; several are one by hooks.first_of(...)"
            )
    if not isinstance(often, int) or often < 1:
        raise ValueError(f"every({often!r}, ...) came, expected a whole number from 1")
    return often, tell


def first_of(*hooks: Callable[[Any], Any]) -> Callable[[Any], bool]:
    """All of them are told, in their order; True if one of them gives it."""
    return lambda told: any([bool(hook(told)) for hook in hooks])


def patience(epochs: int) -> OnEpoch:
    """Ends a run after so many epochs without a better validation score."""

    def ends(told: Epoch) -> bool:
        best = int((told.sign * told.curves[:, 1]).argmax())
        return len(told.curves) - 1 - best >= epochs

    return ends


# -- adapters: process 0 writes


def json_lines(path: str | Path) -> Callable[[Told], None]:
    """Appends {"kind": "step" or "epoch", "step": ..., ...} as a line to a file.

    Lines from the first step on that is told are removed before, so that a resumed run
    leaves none twice, and a run that starts again begins anew. Where a number is not
    finite there is null.
    """
    path, begun = Path(path), False

    def log(told: Told) -> None:
        nonlocal begun
        if jax.process_index():
            return
        if not begun:
            _forget(path, told.step)
            begun = True
        line = json.dumps({"kind": _kind(told), **_numbers(told)}) + "\n"
        with open(path, "ab", buffering=0) as file:
            file.write(line.encode())  # by one call, so that a kill leaves no half

    return log


def tensorboard(folder: str | Path) -> Callable[[Told], None]:
    """Scalars "step/loss", "epoch/validation" and so on, by tensorboardX.

    What a killed run wrote behind the step at which the next one goes on is purged.
    """
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore
    except ImportError as error:
        raise ValueError(
            "hooks.tensorboard came without tensorboardX, expected it to be installed; "
            "pip install tensorboardX"
        ) from error
    writer: Any = None

    def log(told: Told) -> None:
        nonlocal writer
        if jax.process_index():
            return
        writer = writer or SummaryWriter(str(folder), purge_step=told.step)
        for name, value in _numbers(told).items():
            writer.add_scalar(f"{_kind(told)}/{name}", value, told.step)
        writer.flush()

    return log


def weights_and_biases(run: Any) -> Callable[[Told], None]:
    """Logs to what `wandb.init(id=..., resume="allow")` gave; so that run goes on."""

    def log(told: Told) -> None:
        if jax.process_index() == 0:
            kind, numbers = _kind(told), _numbers(told)
            run.log({f"{kind}/{n}": v for n, v in numbers.items()}, step=told.step)

    return log


def _kind(told: Told) -> str:
    return type(told).__name__.lower()


def _numbers(told: Told) -> dict[str, Any]:
    found = {name: v for name, v in told._asdict().items() if name not in WHOLE}
    return {name: v if np.isfinite(v) else None for name, v in found.items()}


def _forget(path: Path, first: int) -> None:
    """Remove the lines from that step on, and one that a kill has torn."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    *whole, _ = path.read_bytes().split(b"\n")
    kept = [line for line in whole if _step(line, path) < first]
    write_file(path, b"".join(line + b"\n" for line in kept))


def _step(line: bytes, path: Path) -> int:
    try:
        found: Mapping[str, Any] = json.loads(line)
        return int(found["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds {line[:60]!r}, expected lines that json_lines has written; "
            "choose another file"
        ) from error
