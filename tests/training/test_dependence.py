"""Which value a cache may keep, and why none: read off tiny programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import zeros

from reprojax import Manipulation, Params, Scope, chain, informed, reprogram, stateless
from reprojax.alignments import linear, one_to_one
from reprojax.core import passthrough
from reprojax.formats import fixed, learnable
from reprojax.operators import add, dropout
from reprojax.training.dependence import cache_site

FROZEN = {name: np.eye(6, dtype=np.float32) for name in ("a", "b", "c")}
X = np.ones((4, 6), np.float32)
PROMPT = add(learnable(zeros))
HEAD = {"output": linear(3)}


def forward(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
    """Three layers; "key" alone does not decide what comes after it."""
    h = edit("first", jnp.tanh(edit("input", x) @ frozen["a"]))
    key = edit("key", h @ frozen["b"])
    h = edit("second", h + jnp.tanh(key))
    return edit("output", h @ frozen["c"])


def site_of(at: Any, forward: Any = forward, frozen: Any = FROZEN) -> str:
    return cache_site(reprogram(forward, at), frozen, X)


def used(function: Any) -> Manipulation:
    """value -> function(value, scope), without params."""
    return Manipulation(lambda *given: Params(), lambda p, v, scope: function(v, scope))


NOISE = used(
    lambda v, scope: (
        v if scope.key is None else v + jax.random.normal(scope.key, v.shape)
    )
)


@pytest.mark.parametrize(
    ("at", "site"),
    [
        ({"second": PROMPT}, "second/raw"),
        ({"first": PROMPT, "second": PROMPT}, "first/raw"),
        ({"second": PROMPT, "first": PROMPT}, "first/raw"),  # by calls, not by names
        ({("first", "second"): used(lambda v, s: v), **HEAD}, "output/raw"),
        (HEAD, "output/raw"),
        ({"output": one_to_one(3)}, "output/raw"),
        ({"input": stateless(lambda v: v / 2), "second": PROMPT}, "second/raw"),
        ({"first": stateless(jnp.abs), "second": PROMPT}, "second/raw"),
        ({"first": dropout(0.3), "second": PROMPT}, "first/raw"),  # random, hidden
        ({"first": add(fixed(jnp.ones(6))), **HEAD}, "output/raw"),
    ],
)
def test_the_value_below_the_lowest_edit(at, site):
    assert site_of(at) == site


def test_of_a_value_that_others_pass_by_the_one_before_is_kept():
    assert site_of({"key": PROMPT}) == "first"


def test_a_value_that_is_also_used_as_it_was_does_not_decide():
    def twice(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
        h = edit("input", x) @ frozen["a"]
        return edit("output", edit("first", h) @ frozen["b"] + h)

    with pytest.raises(ValueError, match="lowest edit is at 'first', and no layer"):
        site_of({"first": PROMPT}, twice)


def test_what_init_draws_counts_as_an_edit():
    drawn = Manipulation(
        lambda key, spec, scope: Params(fixed=jax.random.normal(key, (6,))),
        lambda params, value, scope: value + params.fixed,
    )
    assert site_of({"first": drawn, "second": PROMPT}) == "first/raw"


def test_running_statistics_count_as_an_edit():
    def apply(params, value, scope):
        scope.tap("fixed", {"mean": value.mean(0)})
        return value - params.fixed["mean"]

    running = Manipulation(lambda *given: Params(fixed={"mean": jnp.zeros(6)}), apply)
    assert site_of({"first": running, "second": PROMPT}) == "first/raw"


def dead(function: Any) -> Manipulation:
    """Looks at something that the answer does not hang on."""

    def looked(value: Any, scope: Scope) -> Any:
        function(value, scope)
        return value

    return used(looked)


def test_dead_code_is_no_dependence():
    draw = dead(lambda v, s: v if s.key is None else jax.random.normal(s.key, v.shape))
    assert site_of({"first": draw, "second": PROMPT}) == "second/raw"
    look = dead(lambda v, s: v + s.x.sum())
    assert site_of({"first": PROMPT, "second": look}) == "first/raw"


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"input": PROMPT, **HEAD}, "the lowest edit is at 'input', and no layer"),
        ({"input": NOISE, **HEAD}, "augmented: the value at 'input' is random"),
        (
            {"input": chain(small=stateless(jnp.abs), noise=NOISE), "second": PROMPT},
            "augmented: the value at 'input' is random",
        ),
        (
            {"first": PROMPT, "second": used(lambda v, scope: v + scope.x)},
            r"'second' reads the task's own input \(scope.x",
        ),
        (
            {"first": PROMPT, "output": used(lambda v, scope: v * scope.x)},
            "'output' reads the task's own input",
        ),
        ({"second": stateless(jnp.abs)}, "nothing in the program is learned"),
    ],
)
def test_why_nothing_is_cached(at, message):
    with pytest.raises(ValueError, match=message):
        site_of(at)


def test_a_context_made_from_x_is_a_look_at_x():
    at = {"first": PROMPT, "second": used(lambda v, scope: v + scope.context)}
    program = informed(reprogram(forward, at), lambda frozen, x: x @ frozen["a"])
    with pytest.raises(ValueError, match="'second' reads .*a context made from it"):
        cache_site(program, FROZEN, X)


def test_a_site_inside_remat_is_refused_by_name():
    def inside(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
        def block(h: Any) -> Any:
            return edit("second", jnp.tanh(h @ frozen["b"]))

        return edit("output", jax.checkpoint(block)(edit("input", x) @ frozen["a"]))

    with pytest.raises(ValueError, match="'second' lies inside remat.*without remat"):
        site_of({"second": PROMPT}, inside)
    assert site_of(HEAD, inside) == "output/raw"


def first_moved(size: int) -> Manipulation:
    return Manipulation(
        lambda *given: Params(jnp.zeros(size)),
        lambda params, value, scope: (value[0] + params.learnable, *value[1:]),
    )


def test_a_value_of_several_arrays_is_kept_if_each_has_the_rows():
    def pair(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
        x = edit("input", x)
        a, b = edit("pair", (x @ frozen["a"], x))
        return edit("output", a + b)

    def odd(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
        x = edit("input", x)
        a, scale = edit("pair", (x @ frozen["a"], jnp.ones(6)))
        return edit("output", a * scale)

    assert site_of({"pair": first_moved(6)}, pair) == "pair/raw"
    with pytest.raises(ValueError, match="'pair' is .*expected floats with a row for"):
        site_of({"pair": first_moved(6)}, odd)


def test_a_model_that_keeps_its_weights_to_itself_is_cached_at_its_end():
    def closed(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
        return edit("output", jnp.tanh(edit("input", x)))

    assert site_of(HEAD, closed, ()) == "output/raw"
    with pytest.raises(ValueError, match="nothing to cache"):
        site_of({"input": PROMPT}, closed, ())
