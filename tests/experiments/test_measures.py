"""What is measured of a cell, on programs whose numbers are known."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from backbones import photos

from experiments.map import controls, measures, tasks
from experiments.map.cells import without_prompt
from reprojax import data
from reprojax.core import chain, reprogram
from reprojax.formats import fixed
from reprojax.locations import opaque
from reprojax.models import Model, Pixels
from reprojax.operators import add, resize

WIDE = 4


def brightness(frozen, x):
    """[B 2]: how bright an image is, and how dark."""
    mean = x.reshape(len(x), -1).mean(1)
    return frozen * jnp.stack([mean - 0.5, 0.5 - mean], 1)


@cache
def bench():
    """Bright images are of class 0, dark ones of class 1; one shift swaps them."""
    x, y = photos(40, side=WIDE), np.arange(40) % 2
    x = np.where(y[:, None, None, None] == 0, 128 + x // 2, x // 2).astype(np.uint8)
    task = data.from_arrays(x, y, ["bright", "dark"], duplicates="keep")
    roles = {"input": ("input", "input"), "features": ("output",)}
    card = Model("brightness", opaque(brightness), jnp.ones(()), PIXELS, roles)
    shifts = {"none": (x[:30], y[:30]), "swapped": (255 - x[:30], y[:30])}
    return tasks.Bench(card, task, (0, 1), 4, shifts=shifts)


PIXELS = Pixels(size=WIDE, mean=(0.5,) * 3, std=(0.5,) * 3)


def made(program):
    own = bench()
    return program, program.init(
        jax.random.key(0), own.model.frozen, measures.first(own.task.train.x)
    )


def test_accuracy_under_a_shift_that_swaps_the_classes():
    entry = without_prompt(bench(), "rule")
    found = measures.shifted(bench(), *made(entry.programs["no prompt"]))
    assert found == {"none": 1.0, "swapped": 0.0}
    bare = made(reprogram(bench().model.forward, bench().sized))
    assert measures.shifted(bench(), *bare, in_own=True) == found


def test_a_prompt_adds_an_operation_for_each_of_its_numbers():
    prompt = add(fixed(jnp.full((WIDE, WIDE, 3), 0.1)))
    both = chain(resize=resize(WIDE), prompt=prompt)
    program = reprogram(bench().model.forward, {"input": both})
    found = measures.costs(bench(), *made(program))
    extra = found["operations"]["program"] - found["operations"]["bare"]
    assert extra == WIDE * WIDE * 3
    assert all(seconds > 0 for seconds in found["latency"].values())


def test_nearest_neighbours_and_a_probe_of_what_is_plain():
    for name in ("nearest-input", "nearest-neighbour", "linear-probe"):
        found = controls.computed(bench(), name)
        assert found["test"] == 1.0 and found["shifted"]["none"] == 1.0, name
    assert found["shifted"]["swapped"] == 0.0
