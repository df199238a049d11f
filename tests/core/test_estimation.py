"""Label maps and running averages: what a program sees in its own forward passes."""

from typing import Any

import fitting
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fitting import FORWARD, FROZEN, SOURCES, TARGETS, TASK, Average
from jax.nn.initializers import normal, zeros

from reprojax import Params, record, reprogram, shared
from reprojax.alignments import bayesian, bayesian_plus, linear, one_to_one
from reprojax.core import chain, estimation
from reprojax.data import Split
from reprojax.formats import learnable, through
from reprojax.operators import add, network
from reprojax.training.steps import estimate, observe_batch

MAPS = {
    "one to one": one_to_one(TARGETS),
    "bayesian": bayesian(TARGETS),
    "bayesian plus": bayesian_plus(TARGETS, k=2),
}


def with_map(align: Any, **more: Any) -> tuple[Any, Params]:
    """A program that ends in a map, with a prompt that is not zero."""
    at = {"normalized": add(learnable(normal(0.3))), "output": align, **more}
    program = reprogram(FORWARD, at)
    return program, program.init(jax.random.key(0), FROZEN, TASK.train.x[:4])


def sums(program: Any, params: Params, x: np.ndarray, y: np.ndarray) -> Any:
    """Observed from a recorded call, as a training step does."""
    call = record(program.apply, estimation.raw_sites(program))
    _, seen = call(params, FROZEN, x)
    return estimation.observe(program, params, seen, jnp.asarray(y))


def assert_near(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )


@pytest.mark.parametrize("name", MAPS)
def test_the_sums_of_batches_add_up_and_filling_does_not_count(name):
    program, params = with_map(MAPS[name])
    x, y, _ = TASK.train
    whole = sums(program, params, x, y)
    assert set(whole) == {"output"} and whole["output"].shape == (SOURCES, TARGETS)
    parts = [sums(program, params, x[i : i + 3], y[i : i + 3]) for i in (0, 3, 6, 9)]
    assert_near(jax.tree.map(lambda *a: sum(a), *parts), whole)
    filled = np.concatenate([x, x[:4]]), np.concatenate([y, np.full(4, -1)])
    assert_near(sums(program, params, *filled), whole)


def test_what_is_counted_is_the_answer_of_the_model_and_not_of_the_map():
    program, params = with_map(bayesian(TARGETS))
    x, y, _ = TASK.train
    shifted = fitting.normalized(x) + params.learnable["normalized"]
    answers = np.asarray(fitting.Net().apply(FROZEN, shifted)).argmax(1)
    expected = np.zeros((SOURCES, TARGETS))
    for answer, label in zip(answers, y, strict=True):
        expected[answer, label] += 1
    assert len(set(answers)) > 2
    assert_near(sums(program, params, x, y)["output"], expected)
    other = params._replace(fixed={**params.fixed, "output": 7 * jnp.ones((5, 3))})
    assert_near(sums(program, other, x, y)["output"], expected)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("batch", [3, 10, 64])
def test_an_estimate_in_batches_is_that_of_the_whole(name, batch):
    program, params = with_map(MAPS[name])
    whole = sums(program, params, *TASK.train[:2])
    expected = estimation.refresh(program, params, whole)
    assert_near(estimate(program, params, FROZEN, TASK.train, batch), expected)


def test_only_the_maps_are_refreshed():
    parts = chain(a=add(learnable(zeros)), table=bayesian(TARGETS), b=linear(TARGETS))
    program, params = with_map(parts)
    assert list(estimation.estimated(program)) == ["output"]
    assert estimation.raw_sites(program) == ["output/raw"]
    seen = sums(program, params, *TASK.train[:2])
    new = estimation.refresh(program, params, seen)
    assert new.learnable is params.learnable
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert jnp.abs(new.fixed["output"]["table"] - params.fixed["output"]["table"]).max()
    assert new.fixed["normalized"] == params.fixed["normalized"] == ()


def test_a_program_without_maps_observes_nothing():
    program, params = with_map(linear(TARGETS))
    assert estimation.raw_sites(program) == []
    assert observe_batch(program, params, FROZEN, *TASK.train[:2]) == {}
    assert estimate(program, params, FROZEN, TASK.train, 4) is params


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [-1, -1, -1, -1], [2, -1, 2, 0]])
def test_absent_classes_give_a_whole_map(name, labels):
    program, params = with_map(MAPS[name])
    seen = Split(TASK.train.x[:4], np.array(labels, np.int32))
    table = estimate(program, params, FROZEN, seen, 4).fixed["output"]
    assert np.isfinite(table).all() and (table >= 0).all()
    np.testing.assert_allclose(table.sum(0), 1, rtol=1e-6)


# -- running averages


def news(program: Any, params: Params, key: Any) -> dict[str, Any]:
    call = record(program.apply, [], also=estimation.is_news)
    return call(params, FROZEN, TASK.train.x, key=key)[1]


def test_new_statistics_find_their_place_in_parts_of_parts():
    inner = chain(first=network(Average()), second=network(Average()))
    deep = through(learnable(zeros), network(Prompted()))
    at = {"normalized": chain(net=inner, prompt=add(deep)), "output": linear(TARGETS)}
    program = reprogram(FORWARD, at)
    params = program.init(jax.random.key(0), FROZEN, TASK.train.x)
    new = estimation.put_news(params, news(program, params, jax.random.key(1)))
    expected = fitting.normalized(TASK.train.x).mean((0, 1, 2)) / 2
    for name in ("first", "second"):
        mean = new.fixed["normalized"]["net"][name]["statistics"]["mean"]
        np.testing.assert_allclose(mean, expected, rtol=1e-5)
    place = new.fixed["normalized"]["prompt"]["edit"]["statistics"]["calls"]
    assert (
        place == params.fixed["normalized"]["prompt"]["edit"]["statistics"]["calls"] + 1
    )
    assert new.learnable is params.learnable
    assert jax.tree.structure(new) == jax.tree.structure(params)


class Prompted(nn.Module):
    """Counts its calls."""

    @nn.compact
    def __call__(self, prompt, train: bool):
        calls = self.variable("statistics", "calls", jnp.zeros, ())
        if train:
            calls.value += 1
        return prompt * self.param("scale", nn.initializers.ones, ())


def test_evaluation_has_no_news():
    program, params = with_map(bayesian(TARGETS), **{"conv:in": network(Average())})
    assert news(program, params, None) == {}
    assert list(news(program, params, jax.random.key(0))) == ["conv:in/fixed"]


def test_the_longest_site_takes_the_news():
    params = Params({}, {"stage": {"a": 0}, "stage/conv:out": {"a": 0}})
    new = estimation.put_news(params, {"stage/conv:out/a/fixed": 5, "output": 3})
    assert new.fixed == {"stage": {"a": 0}, "stage/conv:out": {"a": 5}}


def test_one_network_at_several_sites_is_refused_by_name():
    both = shared(network(Average()))
    program = reprogram(FORWARD, {("input", "normalized"): both, "output": linear(3)})
    x = jnp.asarray(TASK.train.x, jnp.float32) / 255
    params = program.init(jax.random.key(0), FROZEN, x)
    call = record(program.apply, [], also=estimation.is_news)
    _, seen = call(params, FROZEN, x, key=jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"'normalized/fixed', expected one below a site"
    ):
        estimation.put_news(params, seen)
