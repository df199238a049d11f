"""The cells of the map: where programs stand, how large they are, that they train."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from backbones import photos, transformer

from experiments.map import controls, parts, shifts, tasks
from experiments.map.cells import CELLS, OUTSIDE, Config, entries, learned_numbers, main
from reprojax import data
from reprojax.core import Scope, padded
from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS, Cell, describe
from reprojax.training import fit

SMALL = {"train": 20, "validation": 10, "test": 12}
KINDS = list(product(FORMATS, LOCATIONS, OPERATORS))


@cache
def bench(name):
    if name == "transformer":
        y = np.arange(24) % 3
        task = data.from_arrays(photos(24), y, list("abc"), duplicates="keep")
        return tasks.Bench(transformer(), task, (4, 5, 6), 48, photos(8, side=16))
    return tasks.BENCHES[name](**SMALL)  # within a test, whose pool is small


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(tasks, "POOL", 120)
    monkeypatch.setattr(tasks, "SIZES", SMALL)
    monkeypatch.setattr(tasks, "FEWER", {})


@cache
def every(name):
    return entries(bench(name))


def coordinates(name, entry, program):
    model = bench(name).model
    x = jax.tree.map(lambda a: jnp.asarray(a[:2]), entry.task.train.x)
    return describe(program, model.frozen, x, roles=model.roles).coordinates


def chosen(name):
    """One program of each kind of prompt, each with another alignment than the last."""
    for i, kind in enumerate(KINDS):
        cell = Cell(*kind, OMEGAS[i % len(OMEGAS)])
        if every(name)[cell].programs:
            yield cell, every(name)[cell]


@pytest.mark.parametrize("name", ["figures", "maps", "transformer"])
def test_a_program_stands_in_its_cell(name):
    for cell, entry in chosen(name):
        program = next(iter(entry.programs.values()))
        *kind, omega = cell
        assert coordinates(name, entry, program) == f"{' '.join(kind)} -> {omega}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figures", "maps"])
def test_every_program_stands_in_its_cell(name):
    for cell, entry in every(name).items():
        *kind, omega = cell
        for candidate, program in entry.programs.items():
            seen = coordinates(name, entry, program)
            assert seen == f"{' '.join(kind)} -> {omega}", candidate


@pytest.mark.parametrize("name", ["figures", "maps"])
def test_learnable_cells_have_as_many_numbers(name):
    counts = {format: [] for format in FORMATS}
    for cell, entry in every(name).items():
        if cell.omega != "rule" or not entry.programs:
            continue
        counts[cell.format].append(learned_numbers(bench(name), entry))
        assert 1 <= len(entry.programs) <= 8
    assert len(counts["learnable"]) == {"figures": 9, "maps": 6}[name]
    assert max(counts["learnable"]) <= 1.1 * min(counts["learnable"])
    assert set(counts["fixed"]) == {0}


@pytest.mark.parametrize(
    "name, whole", [("figures", 72), ("digits", 54), ("maps", 56), ("functions", 42)]
)
def test_a_cell_has_programs_or_a_reason(name, whole):
    found = every(name)
    assert list(found) == list(CELLS)
    assert all(bool(e.programs) != bool(e.why_not) for e in found.values())
    assert sum(bool(entry.programs) for entry in found.values()) == whole
    outside = [cell.omega for cell, e in found.items() if e.why_not == OUTSIDE]
    assert set(outside) == ({"identity"} if not bench(name).own else set())


def test_the_list_is_printed(capsys):
    main(Config("maps", 20))
    said = capsys.readouterr().out.splitlines()
    assert "56 of 72 cells" in said[1] and len(said) == 2 + 1 + 18 + 2
    with pytest.raises(ValueError, match="got the bench 'mapps', expected one of fig"):
        main(Config("mapps"))


@pytest.mark.parametrize(
    "name, cell",
    [
        ("figures", ("learnable", "embedding", "concatenative", "identity")),
        ("maps", ("learnable", "hidden", "additive", "linear")),
    ],
)
def test_a_cell_trains(name, cell):
    own = bench(name)
    (entry,) = entries(own, [Cell(*cell)]).values()
    (program,) = entry.programs.values()
    adam = optax.adam(0.01)
    settings = {"optimizer": adam, "epochs": 3, "batch": 20, "progress": False}
    fitted = fit(program, own.model.frozen, entry.task, **settings)
    assert fitted.curves[-1, 0] < fitted.curves[0, 0]


# -- parts


def test_a_coarse_prompt_has_its_numbers_and_is_interpolated():
    fmt = parts.coarse(1728)
    for shape, grid in (((16, 16, 24), (8, 9, 24)), ((8, 8, 3), (8, 8, 3))):
        params = fmt.init(jax.random.key(0), shape, Scope())
        assert params.learnable.shape == grid
        ones = params._replace(learnable=jnp.ones(grid))
        np.testing.assert_allclose(fmt.read(ones, None, Scope()), jnp.ones(shape))


def test_a_filter_leaves_an_even_image_and_smooths_a_point():
    m = parts.filtered(jnp.full((3, 3), 1 / 9))
    x = jnp.ones((1, 5, 5, 2)).at[0, 2, 2, 1].add(9.0)
    out = m.apply(m.init(None, x, Scope()), x, Scope())
    np.testing.assert_allclose(out[..., 0], x[..., 0], rtol=1e-6)
    np.testing.assert_allclose(out[0, 1:4, 1:4, 1], 2.0, rtol=1e-6)
    np.testing.assert_allclose(out[0, 0, :, 1], 1.0, rtol=1e-6)


def test_a_substitution_drops_tokens_and_counts_on():
    m = parts.substituted(jnp.array([0, 3, 2, 1]), jnp.array([1.0, 1.0, 0.0, 1.0]))
    x = padded([[1, 2, 3], [2, 0]])
    out = m.apply(m.init(None, x, Scope()), x, Scope())
    assert out.value[0].tolist() == [3, 2, 1]
    assert out.weight.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert out.position[0].tolist() == [0, 0, 1]


def test_moments_are_moved_to_those_of_the_source():
    rng = np.random.default_rng(0)
    own = parts.values(rng.normal(3, 2, (20, 4, 6)))
    source = parts.values(rng.normal(-1, 5, (30, 7, 6)))
    m = parts.transforms(own, source)["moments moved to the source's"]
    moved = parts.values(m.apply(m.init(None, None, Scope()), own.value, Scope()))
    np.testing.assert_allclose(moved.mean, source.mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moved.deviation, source.deviation, rtol=1e-4)


def test_padding_is_no_part_of_the_moments():
    x = padded([[1, 2, 3], [4]])._replace(value=jnp.full((2, 3, 2), 1e6))
    real = x.weight[..., None] > 0
    held = parts.values(x._replace(value=jnp.where(real, 2.0, x.value)))
    np.testing.assert_allclose(held.mean, 2.0)


# -- tasks


def test_own_classes_are_the_labels_where_the_answer_is_read_as_it_is():
    own = bench("figures")
    task = tasks.in_own_classes(own.task, own.own)
    assert task.answers == "words" and task.train.y.shape == (20, 1)
    assert task.train.y[:, 0].tolist() == [own.own[i] for i in own.task.train.y]
    assert task.classes == ()


def test_maps_are_read_off_their_demonstrations():
    texts, y = tasks.drawn_maps(tasks.OTHER_FORM, 30)
    for text, label in zip(texts, y, strict=True):
        *shown, asked = text.split(",")
        pairs = dict(one.split(">") for one in shown)
        assert pairs[asked.removesuffix(">")] == tasks.LABELS[label]
        assert len(shown) == 8 and len(pairs) == 4


def test_printed_digits_are_ten_and_centred():
    x, y = shifts.printed_digits()
    assert x.shape == (200, 8, 8, 1) and set(y) == set(range(10))
    ink = x[..., 0].sum((1, 2))
    across = (x[..., 0].sum(1) @ np.arange(8)) / ink
    assert np.abs(across - 3.5).max() < 1.2 and ink.min() > 255


def test_shifted_images_keep_their_labels_and_lose_what_the_shift_takes():
    x = photos(30, side=32)
    found = shifts.of_images(x, np.arange(30))
    assert [y.tolist() for _, y in found.values()] == 3 * [list(range(30))]
    rough = lambda a: np.abs(np.diff(a.astype(float), axis=2)).mean()
    assert rough(found["blur"][0]) < rough(x) < rough(found["noise"][0])
    deviation = lambda a: a.astype(float).std((1, 2, 3))
    ratio = deviation(found["less contrast"][0]) / deviation(x)
    np.testing.assert_allclose(ratio, 0.4, atol=0.01)


def test_shifted_texts_say_the_same_function():
    texts, y = shifts.applied(["copy", "double"], sign="=", alphabet="01")
    for text, label in zip(texts, y, strict=True):
        word, made = text.split("=")
        assert set(word) <= {"0", "1"} and made == word * (1 + label)


# -- controls


def test_fine_tuning_starts_from_the_model_and_learns_all_its_weights():
    own = bench("figures")
    outer, entry = controls.trained(own, "fine-tuning", 0)
    (program,) = entry.programs.values()
    x = jnp.asarray(own.task.train.x[:3])
    params = program.init(jax.random.key(0), outer.model.frozen, x)
    assert not jax.tree.leaves(outer.model.frozen)
    learned = params.learnable["output"]["model"]
    jax.tree.map(np.testing.assert_array_equal, learned, own.model.frozen)
    seen = program.apply(params, (), x)
    wanted = controls.features(own, own.task.train.x[:3])
    kernel = params.learnable["output"]["head"]["kernel"]
    assert seen.shape == (3, 10) and kernel.shape == (wanted.shape[1], 10)


@pytest.mark.parametrize("name", ["figures", "maps"])
def test_an_untrained_model_has_other_weights_of_the_same_shapes(name):
    own = bench(name)
    frozen = controls.untrained(own, 0).frozen
    pairs = zip(*map(jax.tree.leaves, (frozen, own.model.frozen)), strict=True)
    assert all((a != b).any() for a, b in pairs if a.ndim > 1)
    again = controls.untrained(own, 0).frozen
    jax.tree.map(np.testing.assert_array_equal, frozen, again)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(frozen) == shapes(own.model.frozen)
