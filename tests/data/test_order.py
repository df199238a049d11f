import numpy as np
import pytest

from reprojax.data import Split, batch, batches, in_order, steps


def numbered(n):
    """Row i shows the colour i, labelled i."""
    x = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), "u1")
    return Split(x, np.arange(n, dtype=np.int32))


def rows(made):
    return np.concatenate([y for _, y, _ in made])


@pytest.mark.parametrize("n, size, count", [(10, 4, 3), (12, 4, 3), (3, 8, 1)])
def test_every_row_once_an_epoch_and_the_filling_is_marked(n, size, count):
    split = numbered(n)
    assert steps(split, size) == count
    for make in (batches(split, size, 5, 2 * count, 3 * count), in_order(split, size)):
        made = list(make)
        assert len(made) == count
        for x, y, _ in made:
            assert x.shape == (size, 2, 2, 3) and x.dtype == np.uint8
            assert y.shape == (size,) and y.dtype == np.int32
            real = y >= 0
            assert (x[real] == y[real][:, None, None, None]).all()
        first = [x[0, 0, 0, 0] for x in np.concatenate([x for x, *_ in made])[:, None]]
        assert first == [first[i % n] for i in range(len(first))]  # real images again
        labels = rows(made)
        assert sorted(labels[labels >= 0]) == list(range(n))
        assert (labels[n:] == -1).all() and len(labels) == count * size


def test_the_order_is_numpys_permutation_of_seed_and_epoch():
    split = numbered(11)
    for seed, epoch in ((0, 0), (0, 1), (3, 1)):
        expected = np.random.default_rng((seed, epoch)).permutation(11)
        run = batches(split, 4, seed, 3 * epoch, 3 * epoch + 3)
        assert (rows(run)[:11] == expected).all()
    assert (rows(in_order(split, 4))[:11] == np.arange(11)).all()


def test_a_step_needs_no_steps_before_it():
    split = numbered(11)
    run = list(batches(split, 4, 7, 0, 12))
    for step in (9, 2, 11, 0, 5):  # any order, as after a resume
        x, y, _ = batch(split, 4, 7, step)
        assert (x == run[step][0]).all() and (y == run[step][1]).all()


def test_weighted_means_over_batches_equal_the_mean_over_rows():
    split = numbered(10)
    score = lambda x: x.astype(float).mean((1, 2, 3)) ** 2
    total = weight = 0.0
    for x, y, _ in in_order(split, 4):
        total += (score(x) * (y >= 0)).sum()
        weight += (y >= 0).sum()
    np.testing.assert_allclose(total / weight, score(split.x).mean())


def test_a_batch_can_be_changed_without_changing_the_data():
    split = numbered(8)
    x, y, _ = batch(split, 4, 0, 0)
    x[:], y[:] = 0, 0
    assert (split.y == np.arange(8)).all() and split.x[7].min() == 7


def test_bad_sizes():
    with pytest.raises(ValueError, match="batches of 0 images; expected at least 1"):
        batch(numbered(3), 0, 0, 0)
    with pytest.raises(ValueError, match="no batches of an empty split"):
        in_order(numbered(0), 4)
