"""Images a second: from memory, and from a folder of JPEG files read by batch.

    python -m experiments.benchmarks.data

Writes a folder of noisy JPEGs (500 x 375), loads it both ways at 224 pixels, and takes
batches in four forms: from memory; from files one image after the other; from files,
each batch decoded in threads when it is asked for; and from files read ahead by grain,
as `fit` does. First with nothing else to do, then with a step on an accelerator beside
it (which the host waits for: a sleep). Medians of paired passes.

Expected on two cores of an Intel Xeon: memory 43,000, files one by one 430, in threads
and read ahead 770; beside a step of .15 s 212, 141, 162 and 202. Reading
ahead gains nothing while the cores are busy decoding, and hides the step, or the
decoding, where the step runs elsewhere. One minute.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.benchmarks.timing import machine, paired
from reprojax.commands.outputs import command
from reprojax.data import Split, batch, batches, load


@dataclass(frozen=True)
class Config:
    """How fast batches come."""

    images: int = 256
    batch: int = 32
    size: int = 224
    steps: int = 8
    step_seconds: float = 0.15
    repeats: int = 5


def main(config: Config) -> None:
    print(machine("grain", "pillow"))
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), config.images)
        lazy, whole = (
            load(folder, size=config.size, lazy=kind).train for kind in (True, False)
        )
        for label, wait in (("alone", 0.0), ("beside a step", config.step_seconds)):
            calls = {
                name: pass_over(made, wait)
                for name, made in forms(lazy, whole, config).items()
            }
            seconds = paired(calls, config.repeats)
            for name, each in seconds.items():
                rate = config.steps * config.batch / np.median(each)
                print(f"{label:15}{name:34}{rate:10.0f} images/s", flush=True)


def forms(
    lazy: Split, whole: Split, config: Config
) -> dict[str, Callable[[], Iterator]]:
    """The batches of the first steps in four forms."""
    size, steps = config.batch, range(config.steps)
    rows = np.random.default_rng(0).integers(0, len(lazy.y), (config.steps, size))
    one = lambda step: [lazy.x[int(i)] for i in rows[step]]
    return {
        "memory": lambda: batches(whole, size, 0, 0, config.steps),
        "files, one by one": lambda: map(one, steps),
        "files, in threads when asked": lambda: (
            batch(lazy, size, 0, step) for step in steps
        ),
        "files, read ahead": lambda: batches(lazy, size, 0, 0, config.steps),
    }


def pass_over(made: Callable[[], Iterator], wait: float) -> Callable[[], None]:
    def run() -> None:
        for _ in made():
            time.sleep(wait)

    return run


def draw(folder: Path, count: int) -> None:
    """`count` JPEGs of two classes: smooth noise, about 50 KB each."""
    random = np.random.default_rng(0)
    for i in range(count):
        small = random.integers(0, 256, (75, 100, 3), dtype=np.uint8)
        path = folder / "ab"[i % 2] / f"{i:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(small).resize((500, 375)).save(path, quality=90)


if __name__ == "__main__":
    command(main, Config)
