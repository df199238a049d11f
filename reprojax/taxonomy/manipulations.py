"""Observe one manipulation by running it alone on random numbers.

Its derivative along a random tangent of the value shows where the value passes through
and where the prompt is. `taxonomy.describe` derives a program's coordinates from that.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import (
    Manipulation,
    Params,
    PyTree,
    Scope,
    Tokens,
    bare,
    on_value,
    spec_of,
)


class Alone(NamedTuple):
    """A manipulation at one site, with all that it needs to run alone."""

    manipulation: Manipulation
    params: Params
    spec: PyTree
    """The spec of its input value."""
    scope: Scope
    seed: int


class Seen(NamedTuple):
    """Masks over the numbers [N] of a manipulation's result."""

    passes: np.ndarray
    """Contains the value, with a derivative independent of the value and the prompt."""
    depends: np.ndarray
    """Depends on the value."""
    of_prompt: np.ndarray
    """Depends on the prompt."""
    of_task: np.ndarray
    """Depends on the task's own input, before any edit."""
    longer: bool
    """Whether the result has more numbers than the value."""


def operator(alone: Alone) -> str:
    """tau, observed; "" if there is no prompt (a resize, a cast).

    If the value passes nowhere: parametric. If the prompt is where it passes: additive.
    If the prompt is elsewhere: concatenative, but parametric if that also reads the
    task's input, or if it is the value's own place and depends on the value.
    """
    holds = {**alone.params._asdict(), "context": alone.scope.context}
    prompt = next((name for name in holds if jax.tree.leaves(holds[name])), "")
    leaves = jax.tree.leaves(bare(alone.spec))
    if not all(hasattr(a, "dtype") for a in leaves):  # a call's arguments, with flags
        return "parametric" if prompt in Params._fields else ""
    seen = observe(alone, prompt)
    if not seen.of_prompt.any():
        return "concatenative" if _grows(seen, leaves) else ""
    if (seen.of_task & seen.of_prompt).any() or not seen.passes.any():
        return "parametric"
    if (seen.passes & seen.of_prompt).any():
        return "additive"
    in_place = not seen.longer and (seen.of_prompt & seen.depends).any()
    return "parametric" if in_place else "concatenative"


def _grows(seen: Seen, leaves: Sequence[Any]) -> bool:
    """Whether ids are added that depend on no value and no params: a fixed template."""
    ids = all(jnp.issubdtype(a.dtype, jnp.integer) for a in leaves)
    new = seen.depends.size - sum(prod(a.shape) for a in leaves)
    return ids and new > 0 and bool((~seen.depends).sum() >= new)


def alignment(alone: Alone) -> str:
    """omega, by its params; without params, by whether it changes the answer."""
    if jax.tree.leaves(alone.params.learnable):
        return "linear"
    if jax.tree.leaves(alone.params.fixed):
        return "statistical"
    y = draw(np.random.default_rng(alone.seed), alone.spec)
    out = alone.manipulation.apply(alone.params, y, alone.scope)
    before, after = jax.tree.leaves(y), jax.tree.leaves(out)
    same = len(before) == len(after) and all(map(np.array_equal, before, after))
    return "identity" if same else "rule"


def observe(alone: Alone, prompt: str) -> Seen:
    """Run it on two prompts, two values with a tangent, and two inputs of the task.

    Args:
        prompt: what is the prompt: "learnable", "fixed", "context", or "" for none.
    """
    random, scope = np.random.default_rng(alone.seed), alone.scope
    given = {**alone.params._asdict(), "context": scope.context, "": ()}[prompt]
    p, p2 = (draw(random, spec_of(given)) for _ in range(2))
    v, v2, t = (draw(random, alone.spec, scope.site == "input") for _ in range(3))
    run = compiled(alone, partial(_run, prompt))
    out, size = run(p, v, scope.x), flat(v).size
    of_prompt = out != run(p2, v, scope.x)
    of_task = out != run(p, v, draw_task(random, scope.x))
    if all(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(bare(v))):
        along = compiled(alone, partial(_along, prompt))
        d, d2 = np.asarray(along(p, v, t)), np.asarray(along(p2, v2, t))
        # Equal derivatives at two values and prompts: the value passes unchanged.
        depends, passes = d != 0, np.isclose(d, d2, rtol=1e-5, atol=0) & (d != 0)
    else:
        depends = np.asarray(out != run(p, v2, scope.x))
        passes = depends & np.isin(out, flat(v))
    changed = np.asarray(of_prompt), np.asarray(of_task)
    return Seen(passes, depends, *changed, out.size > size)


def compiled(alone: Alone, function: Callable[..., Any]) -> Callable[..., Any]:
    """function(alone, *args), compiled once.

    All draws use one executable, so equal numbers have equal bits. Arrays enter as
    arguments: closed over, they would become constants in the program.
    """
    scope = alone.scope
    arrays = (alone.params, scope.frozen, scope.x, scope.context)

    def call(arrays: tuple, *args: Any) -> Any:
        params, *rest = arrays
        at = scope._replace(**dict(zip(("frozen", "x", "context"), rest, strict=True)))
        return function(alone._replace(params=params, scope=at), *args)

    return partial(jax.jit(call), arrays)


def _run(prompt: str, alone: Alone, p: PyTree, value: PyTree, x: PyTree) -> jax.Array:
    """The manipulation's result [N] for another prompt, value and x."""
    m, params, _, scope, _ = alone
    scope = scope._replace(x=x)
    if prompt == "context":
        return flat(m.apply(params, value, scope._replace(context=p)))
    own = params._replace(**{prompt: p}) if prompt else params
    return flat(m.apply(own, value, scope))


def _along(prompt: str, alone: Alone, p: PyTree, value: PyTree, t: PyTree) -> jax.Array:
    """The result's derivative along a tangent of the value."""

    def inner(a: PyTree) -> jax.Array:
        return _run(prompt, alone, p, on_value(lambda _: a, value), alone.scope.x)

    return jax.jvp(inner, (bare(value),), (bare(t),))[1]


def acting(group: Sequence[Alone], patience: int = 8, most: int = 64) -> int:
    """How many learnable numbers change the answer at some site of a group.

    Tries the given params and random ones until `patience` draws in a row find no new
    numbers, because a clip, say, hides some in each draw. Numbers that integers of the
    context select count, even if the given integers do not select them. If none acts in
    evaluation (an argmax, say, has no derivative), training is tried.
    """
    learnable = group[0].params.learnable
    leaves = jax.tree.leaves(learnable)
    if not all(jnp.issubdtype(a.dtype, jnp.floating) for a in leaves):
        return sum(a.size for a in leaves)  # token ids have no derivative
    random, slopes = np.random.default_rng(group[0].seed), [*map(_slope, group)]
    hit, still, at = jnp.zeros(sum(a.size for a in leaves), bool), 0, learnable
    most += 2 * max(_widths(learnable), default=0)  # walking a table takes two a row
    for i in range(most if leaves else 0):
        before = hit.sum()
        for one, slope in zip(group, slopes, strict=True):
            for context in _contexts(one.scope.context, learnable, i // 2):
                hit |= slope(at, random, context)
        still = still + 1 if hit.sum() == before else 0
        if still == patience or hit.all():
            break
        scale = 0.1 if i % 2 else 1.0  # small params pass a clip, large ones reach far
        at = jax.tree.map(lambda a, s=scale: s * a, draw(random, spec_of(learnable)))
    if leaves and not hit.any() and group[0].scope.key is None:
        key = jax.random.key(group[0].seed)
        trained = [a._replace(scope=a.scope._replace(key=key)) for a in group]
        return acting(trained, patience, most)
    return int(hit.sum())


def _widths(learnable: PyTree) -> set[int]:
    """The leaves' numbers of rows; any leaf may be a table."""
    return {len(a) for a in jax.tree.leaves(learnable) if jnp.ndim(a)}


def _contexts(context: PyTree, learnable: PyTree, step: int) -> list[PyTree]:
    """The given context, and others whose integers select other things.

    Over the steps the integers walk through all numbers up to the largest given one,
    and through all rows of each leaf. A second leaf advances when the first has gone
    round, like the digits of a number.
    """
    leaves, form = jax.tree.flatten(context)
    arrays = [jnp.asarray(a) for a in leaves]
    choose = [i for i, a in enumerate(arrays) if _counts(a)]
    if not choose:
        return [context]

    def walked(below: int) -> PyTree:
        new = dict(enumerate(arrays))
        for digit, i in enumerate(choose):
            new[i] = _walk(arrays[i], step // below**digit, below)
        return form.unflatten(new.values())

    given = {int(arrays[i].max()) + 1 for i in choose}
    belows = sorted(below for below in given | _widths(learnable) if below > 0)
    return [context, *map(walked, belows)]


def _counts(a: jax.Array) -> bool:
    whole = jnp.issubdtype(a.dtype, jnp.integer) or a.dtype == bool
    return bool(whole and a.size)


def _walk(a: jax.Array, start: int, below: int) -> jax.Array:
    """start, start + 1 and so on, modulo `below`."""
    below = 2 if a.dtype == bool else below
    numbers = (start + np.arange(a.size)) % below
    return jnp.asarray(numbers.reshape(a.shape)).astype(a.dtype)


def _slope(alone: Alone) -> Callable[..., jax.Array]:
    """(learnable, random, context) -> mask of the learnable numbers that move the
    answer to a random value. Numbers moved only through NaN (a missing row) do not."""

    def answer(alone: Alone, learnable: PyTree, value: PyTree) -> jax.Array:
        return _run("learnable", alone, learnable, value, alone.scope.x)

    def pull(
        alone: Alone, learnable: PyTree, value: PyTree, weigh: Any, context: PyTree
    ) -> jax.Array:
        here = alone._replace(scope=alone.scope._replace(context=context))
        out, back = jax.vjp(lambda p: answer(here, p, value), learnable)
        return jnp.abs(flat(back(weigh.astype(out.dtype))[0])) > 0

    def value(random: np.random.Generator) -> PyTree:
        return draw(random, alone.spec, alone.scope.site == "input")

    some = alone.params.learnable, value(np.random.default_rng(alone.seed))
    shape = jax.eval_shape(partial(answer, alone), *some).shape
    run = compiled(alone, pull)

    def slope(
        learnable: PyTree, random: np.random.Generator, context: PyTree
    ) -> jax.Array:
        weigh = random.normal(size=shape).astype(np.float32)
        return run(learnable, value(random), weigh, context)

    return slope


# -- random numbers


def draw(
    random: np.random.Generator,
    spec: PyTree,
    pixels: bool = False,
    below: int = 1 << 20,
) -> PyTree:
    """Random values of the given shapes; Tokens get positions 0, 1, ...

    Args:
        pixels: floats are from [0, 1], and uint8 images become such floats.
        below: the bound of integers.
    """
    if isinstance(spec, Tokens):
        order = jnp.broadcast_to(jnp.arange(spec.weight.shape[-1]), spec.weight.shape)
        value = draw(random, spec.value, pixels, below)
        return Tokens(value, order, jnp.ones(spec.weight.shape), spec.span)
    return jax.tree.map(lambda a: _draw_leaf(random, a, pixels, below), spec)


def _draw_leaf(random: np.random.Generator, a: Any, pixels: bool, below: int) -> Any:
    if not hasattr(a, "dtype"):
        return a  # a flag among a module's arguments
    if pixels and a.dtype == jnp.uint8:
        return jnp.asarray(random.uniform(size=a.shape), jnp.float32)
    if jnp.issubdtype(a.dtype, jnp.floating):
        values = (random.uniform if pixels else random.normal)(size=a.shape)
        return jnp.asarray(values, a.dtype)
    if jnp.issubdtype(a.dtype, jnp.integer):
        return jnp.asarray(random.integers(0, below, a.shape)).astype(a.dtype)
    return jnp.zeros(a.shape, a.dtype)


def draw_task(random: np.random.Generator, x: PyTree) -> PyTree:
    """Another x; its integers stay within the given ones, because they index tables."""
    arrays = [a for a in jax.tree.leaves(x) if not isinstance(a, jax.ShapeDtypeStruct)]
    ids = [a for a in arrays if jnp.issubdtype(a.dtype, jnp.integer) and a.size]
    below = max([2, *(int(np.max(a)) + 1 for a in ids)])
    return draw(random, spec_of(x), pixels=True, below=below)


def real(random: np.random.Generator, tree: PyTree) -> PyTree:
    """The tree, with random numbers if it has shapes only; integers fit any table."""
    leaves = jax.tree.leaves(tree)
    given = any(isinstance(a, jax.ShapeDtypeStruct) for a in leaves)
    return draw(random, tree, below=2) if given else tree


def flat(value: PyTree) -> jax.Array:
    """All numbers of a value, in one row."""
    return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(bare(value))])
