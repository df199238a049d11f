"""Hooks of `fit`: functions that get numbers during training, and may end a run.

>>> log, ends = hooks.json_lines("log.jsonl"), hooks.patience(5)
>>> fitted = fit(program, frozen, task, optimizer=adam, epochs=2, batch=4,
...              on_step=hooks.every(10, log), on_epoch=hooks.first_of(log, ends))

A hook gets plain numbers. Each call copies them to the host and waits for the step, so
limit the calls by `every`. A run gives the same bits with and without hooks, until
`on_epoch` ends it by returning True. The checkpoint stores that, so a resumed run stays
ended. A stopping rule should therefore read the curves, which a resumed run has, too,
and not its own memory. Hooks do not define a run: in a folder whose run one rule has
ended, another rule finds it ended. For a rule that waits longer use another folder.

If it does not learn: a gradient of 0 means that the prompt does not reach the loss; a
small `moved`, that the rate is too small; a large `moved` at a constant loss, that the
rate is too large or the map is wrong.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from reprojax.saving.files import write_file


class Step(NamedTuple):
    """The numbers after a training step."""

    step: int
    """From 1, counted through all epochs."""
    loss: float
    gradient: float
    """The norm of the gradient of all learnable params."""
    update: float
    """The norm of the optimiser's update."""
    moved: float
    """The norm of the params' difference from the initial ones."""


class Epoch(NamedTuple):
    """The numbers after an epoch; norms are those of its last step."""

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
    """-1 if a lower validation score is better."""

    def shown(self) -> dict[str, str]:
        """The texts of the progress line."""
        norms = {n: f"{getattr(self, n):.2g}" for n in ("gradient", "update", "moved")}
        return {"validation": f"{self.validation:.3f}", **norms}


OnStep = Callable[[Step], Any]
OnEpoch = Callable[[Epoch], "bool | None"]
Told = Step | Epoch
WHOLE = ("curves", "sign")  # fields that are not numbers of this moment


class Every(NamedTuple):
    """A hook that is called at each `steps`-th step."""

    steps: int
    hook: OnStep


def every(steps: int, hook: OnStep) -> Every:
    """Call a hook at each `steps`-th step only; the other steps are not waited for."""
    return Every(steps, hook)


def checked_hooks(on_step: Any, on_epoch: Any) -> tuple[int, OnStep | None]:
    """(how often to call the step's hook, the hook or None)."""
    often, tell = on_step if isinstance(on_step, Every) else (1, on_step)
    for name, hook in (("on_step", tell), ("on_epoch", on_epoch)):
        if hook is not None and not callable(hook):
            raise ValueError(
                f"got {name}={hook!r}, expected a function of a Step or Epoch, such as "
                "print; combine several by hooks.first_of(...)"
            )
    if not isinstance(often, int) or often < 1:
        raise ValueError(f"got every({often!r}, ...), expected a whole number from 1")
    return often, tell


def first_of(*hooks: Callable[[Any], Any]) -> Callable[[Any], bool]:
    """A hook that calls all of these in order, and returns True if any of them does."""
    return lambda told: any([bool(hook(told)) for hook in hooks])


def patience(epochs: int) -> OnEpoch:
    """End a run after that many epochs without a better validation score."""

    def ends(told: Epoch) -> bool:
        best = int((told.sign * told.curves[:, 1]).argmax())
        return len(told.curves) - 1 - best >= epochs

    return ends


# -- adapters: process 0 writes


def json_lines(path: str | Path) -> Callable[[Told], None]:
    """Append {"kind": "step" or "epoch", "step": ..., ...} as a line to a file.

    At its first call it removes the file's lines from that step on, so a resumed run
    has no line twice, and a restarted run an empty file. A number that is not finite is
    written as null.
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
            file.write(line.encode())  # one unbuffered call, so a kill cuts no line

    return log


def tensorboard(folder: str | Path) -> Callable[[Told], None]:
    """Write scalars "step/loss", "epoch/validation" and so on, by tensorboardX.

    What a killed run wrote after the step at which this run continues is purged.
    """
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore
    except ImportError as error:
        raise ValueError(
            "hooks.tensorboard needs tensorboardX, which is not installed; pip install "
            "tensorboardX"
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
    """Log to a run of `wandb.init(id=..., resume="allow")`, so that it can continue."""

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
    """Remove the lines from that step on, and a last line that a kill has cut."""
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
            f"{path} holds {line[:60]!r}, expected lines written by json_lines; "
            "choose another file"
        ) from error
