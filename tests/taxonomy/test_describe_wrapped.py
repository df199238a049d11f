"""describe() of programs whose apply selects or makes params, or runs other programs.

The expected coordinates and counts are those of the same prompts at the same sites,
typed by hand.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.nn.initializers import normal
from toys import (
    DECODER_FROZEN,
    DENSE_FROZEN,
    IDS,
    IMAGES,
    MIXER_FROZEN,
    ROWS,
    decoder,
    dense,
    mixer,
)

from reprojax import Manipulation, Params, Program, chain, informed, reprogram
from reprojax.alignments import bayesian, linear
from reprojax.core import (
    Scope,
    passthrough,
    stack_params,
    stacked,
    stateless,
    tokens,
    watching,
)
from reprojax.data import Shared
from reprojax.formats import fixed, from_context, learnable
from reprojax.operators import add, frame, insert, resize
from reprojax.taxonomy import Description, describe

SOFT = learnable(normal(1.0))
MEAN = stateless(lambda y: y.value.mean(1))
TASK = jnp.array([0, 2, 1, 2])
"""Which of three tasks each row is of."""
PROMPTED = reprogram(
    mixer,
    {"block_0:in": insert(SOFT, 2), "block_1:in": add(SOFT, 1), "output": linear(3)},
)
EXPECTED = (
    "learnable embedding concatenative + learnable hidden additive -> linear",
    # site, shapes, learnable, acting, fixed; 4 patches of width 12, 10 classes
    ("block_0:in", ((2, 12),), 24, 24, 0),
    ("block_1:in", ((1, 12),), 12, 12, 0),
    ("output", ((3,), (10, 3)), 33, 33, 0),
)


def told(found: Description) -> tuple[Any, ...]:
    return found.coordinates, *(
        (row.site, row.shapes, row.learnable, row.acting, row.fixed)
        for row in found.rows
    )


def by_row(program: Program, size: int) -> Program:
    """K prompts as an author writes them: each row is answered with its task's."""

    def init(key: Any, frozen: Any, x: Any, context: Any = None) -> Params:
        keys = jax.random.split(key, size)
        return stack_params([program.init(k, frozen, x) for k in keys])

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        def one(x: Any, task: Any) -> Any:
            own = jax.tree.map(lambda a: a[task], params)
            return program.apply(own, frozen, x[None], **kw)[0]

        return jax.vmap(one)(x, context)

    return Program(init, apply, program.at)


def in_batches(program: Program) -> Program:
    """The same, a row at a time in a loop."""

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        return jax.lax.map(lambda x: program.apply(params, frozen, x[None])[0], x)

    return program._replace(apply=apply)


def compiled(program: Program) -> Program:
    """The same, through jit, which remembers what it has traced."""
    run = jax.jit(lambda params, frozen, x: program.apply(params, frozen, x))

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        return run(params, frozen, x)

    return program._replace(apply=apply)


def remade(program: Program) -> Program:
    """The same with half of each number, in a checkpoint: other arrays, same sizes."""

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        own = jax.tree.map(lambda a: a / 2, params)
        return jax.checkpoint(program.apply)(own, frozen, x)

    return program._replace(apply=apply)


def repeated(program: Program) -> Program:
    """The same in a loop that ends by what it finds, and behind a choice."""

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        run = lambda x: program.apply(params, frozen, x)
        step = lambda state: (state[0] + 1, jax.lax.cond(True, run, run, x))
        start = 0, jnp.zeros((len(x), 3))
        return jax.lax.while_loop(lambda state: state[0] < 1, step, start)[1]

    return program._replace(apply=apply)


@pytest.mark.parametrize("wrap", [in_batches, compiled, remade, repeated])
def test_a_wrapped_program_is_described_as_the_one_inside(wrap):
    whole = partial(describe, embedding=["block_0:in"])
    wrapped = wrap(PROMPTED)
    wrapped.apply(  # an answer first: jit has traced it without a watcher
        PROMPTED.init(jax.random.key(0), MIXER_FROZEN, IMAGES), MIXER_FROZEN, IMAGES
    )
    assert told(whole(wrapped, MIXER_FROZEN, IMAGES)) == EXPECTED


def test_the_program_inside_is_described_as_typed_by_hand():
    found = describe(PROMPTED, MIXER_FROZEN, IMAGES, embedding=["block_0:in"])
    assert told(found) == EXPECTED


def test_prompts_of_several_tasks_under_vmap():
    coordinates, *rows = EXPECTED
    expected = [
        (site, tuple((3, *shape) for shape in shapes), 3 * n, 3 * act, 0)
        for site, shapes, n, act, _ in rows
    ]
    whole = partial(describe, embedding=["block_0:in"])
    found = whole(by_row(PROMPTED, 3), MIXER_FROZEN, IMAGES, TASK)
    assert told(found) == (coordinates, *expected)
    ours = whole(stacked(mixer, PROMPTED, 3), MIXER_FROZEN, IMAGES, TASK)
    assert told(found) == told(ours)


def test_the_prompts_of_tasks_that_no_row_can_be_of_do_not_act():
    program = by_row(PROMPTED, 3)

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        return program.apply(params, frozen, x, context % 2, **kw)

    found = describe(
        program._replace(apply=apply), MIXER_FROZEN, IMAGES, jnp.array([0, 1, 1, 0])
    )
    assert found.learnable == 3 * 69 and found.acting == 2 * 69


CHOSEN = reprogram(dense, {"input": add(SOFT)})


def by_switch(params: Params, frozen: Any, x: Any, context: Any, **kw: Any) -> Any:
    one = lambda k, x: CHOSEN.apply(jax.tree.map(lambda a: a[k], params), frozen, x)
    return jax.lax.switch(context[0], [partial(one, k) for k in range(5)], x)


def by_switch_of_rows(
    params: Params, frozen: Any, x: Any, context: Any, **kw: Any
) -> Any:
    one = lambda row, task: by_switch(params, frozen, row[None], task[None])[0]
    return jax.vmap(one)(x, context)


def by_first_row(params: Params, frozen: Any, x: Any, context: Any, **kw: Any) -> Any:
    own = jax.tree.map(lambda a: a[context[0]], params)
    return CHOSEN.apply(own, frozen, x)


def by_two_indices(params: Params, frozen: Any, x: Any, context: Any, **kw: Any) -> Any:
    two = jax.tree.map(lambda a: a.reshape(5, 2, 3), params)  # halves of each prompt
    own = jax.tree.map(lambda a: jnp.tile(a[context, context[::-1] % 2], 2), two)
    return jax.vmap(lambda own, x: CHOSEN.apply(own, frozen, x[None])[0])(own, x)


@pytest.mark.parametrize(
    "context",
    [
        jnp.zeros(4, int),
        jnp.arange(4),
        jax.ShapeDtypeStruct((4,), jnp.int32),
        Shared(jnp.ones(4, int)),
    ],
    ids=["one", "four", "shapes", "shared"],
)
@pytest.mark.parametrize(
    "apply", [None, by_switch, by_switch_of_rows, by_first_row, by_two_indices]
)
def test_what_can_be_chosen_acts_however_it_is_chosen(apply, context):
    """Five prompts of six numbers."""
    program = by_row(CHOSEN, 5)
    program = program._replace(apply=apply or program.apply)
    found = describe(program, DENSE_FROZEN, ROWS, context)
    assert found.coordinates == "learnable input additive -> identity"
    assert (found.learnable, found.acting) == (30, 30)


def test_ours_and_a_choice_of_two_leaves_act_in_full():
    context = jnp.zeros(4, int)
    ours = stacked(dense, CHOSEN, 5)
    assert describe(ours, DENSE_FROZEN, ROWS, context).acting == 30

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        own = jax.tree.map(lambda a: a[context["a"], 1 * context["b"]], params)
        run = lambda own, x: CHOSEN.apply(own, frozen, x[None])[0]
        return jax.vmap(run)(own, x)

    def init(key: Any, frozen: Any, x: Any, context: Any = None) -> Params:
        one = CHOSEN.init(key, frozen, x)
        return jax.tree.map(lambda a: jnp.ones((7, 2, *a.shape)), one)

    squared = Program(init, apply, CHOSEN.at)
    two = {"a": context, "b": jnp.zeros(4, bool)}
    found = describe(squared, DENSE_FROZEN, ROWS, two)
    assert found.learnable == found.acting == 7 * 2 * 6


def test_a_prompt_made_of_factors_counts_its_factors_once():
    """One shared prompt times a rank-one matrix of each site, as in MPT."""
    sites, size = ("block_0:in", "block_1:in"), (2, 12)
    inner = reprogram(mixer, {site: insert(SOFT, 2) for site in sites})

    def init(key: Any, frozen: Any, x: Any, context: Any = None) -> Params:
        draw = lambda *shape: jnp.ones(shape)
        each = {site: (draw(2, 1), draw(1, 12)) for site in sites}
        return Params({"shared": draw(*size), "factors": each})

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        shared, factors = params.learnable["shared"], params.learnable["factors"]
        prompts = {site: shared * u * v for site, (u, v) in factors.items()}
        own = Params(prompts, dict.fromkeys(sites, ()))
        return inner.apply(own, frozen, x, **kw)

    found = describe(Program(init, apply, ()), MIXER_FROZEN, IMAGES)
    assert found.coordinates == "learnable hidden concatenative -> identity"
    assert [row.site for row in found.rows] == [*sites]
    assert found.learnable == found.acting == 24 + 2 * (2 + 12)


def test_numbers_that_no_manipulation_is_made_of_are_told_too():
    def init(key: Any, frozen: Any, x: Any, context: Any = None) -> Params:
        return Params({"scale": jnp.ones(6), "unused": jnp.ones(5)})

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        inner = reprogram(dense, {"hidden": add(fixed(jnp.ones(7)))})
        own = Params({"hidden": ()}, {"hidden": jnp.ones(7)})
        return inner.apply(own, frozen, x * params.learnable["scale"], **kw)

    found = describe(Program(init, apply, ()), DENSE_FROZEN, ROWS)
    assert found.coordinates == "fixed hidden additive -> identity"
    assert (found.learnable, found.acting) == (11, 6)
    assert str(found).splitlines()[-1].split() == ["total", "11", "(6", "act)", "7"]


def with_more(program: Program, more: dict[str, Any], use: Any) -> Program:
    """A program with learned numbers beside those of its sites.

    Args:
        use: (own params, more, frozen, x, context, key and edit) -> the answer.
    """

    def init(key: Any, frozen: Any, x: Any, context: Any = None) -> Params:
        own = program.init(key, frozen, x, jnp.zeros(x.shape))
        return Params({**own.learnable, **more}, own.fixed)

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        own = {site: a for site, a in params.learnable.items() if site not in more}
        extra = {name: params.learnable[name] for name in more}
        return use(params._replace(learnable=own), extra, frozen, x, context, **kw)

    return Program(init, apply, program.at)


GIVEN = Manipulation(lambda *_: Params(), lambda p, v, scope: v + scope.context)
TOLD = reprogram(dense, {"input": GIVEN, "output": linear(3)})


@pytest.mark.parametrize(
    ("more", "make", "context"),
    [
        (jnp.eye(6), lambda m, context: context @ m, jnp.ones((4, 6))),
        (jnp.ones((5, 6)), lambda m, context: m[context], jnp.arange(4)),
    ],
    ids=["projected", "looked up"],
)
def test_a_context_that_learned_numbers_make_is_a_learnable_prompt(more, make, context):
    def use(
        own: Params, extra: Any, frozen: Any, x: Any, context: Any, **kw: Any
    ) -> Any:
        return TOLD.apply(own, frozen, x, make(extra["m"], context), **kw)

    found = describe(with_more(TOLD, {"m": more}, use), DENSE_FROZEN, ROWS, context)
    assert found.coordinates == "learnable input additive -> linear"
    alignment = TOLD.init(jax.random.key(0), DENSE_FROZEN, ROWS, ROWS).learnable
    rest = sum(a.size for a in jax.tree.leaves(alignment))
    assert [row.learnable for row in found.rows] == [more.size, rest]
    assert found.acting == more.size + rest


def test_a_context_that_a_wrapper_looks_up_is_a_fixed_prompt():
    def init(key: Any, frozen: Any, x: Any, context: Any = None) -> Params:
        return TOLD.init(key, frozen, x, jnp.eye(6)[context])

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        return TOLD.apply(params, frozen, x, jnp.eye(6)[context], **kw)

    program = Program(init, apply, TOLD.at)
    found = describe(program, DENSE_FROZEN, ROWS, jnp.arange(4))
    assert found.coordinates == "fixed input additive -> linear"


def adapted(
    own: Params, extra: Any, frozen: Any, x: Any, context: Any, **kw: Any
) -> Any:
    weights = frozen["a"] + extra["l"] @ extra["r"]
    return PLAIN.apply(own, {**frozen, "a": weights}, x, **kw)


def gated(own: Params, extra: Any, frozen: Any, x: Any, context: Any, **kw: Any) -> Any:
    return PLAIN.apply(own, frozen, x, **kw) * extra["gate"].sum()


PLAIN = reprogram(dense, {"output": linear(3)})
WIDE, DEEP = DENSE_FROZEN["a"].shape


@pytest.mark.parametrize(
    ("more", "use"),
    [
        ({"l": jnp.ones((WIDE, 2)), "r": jnp.zeros((2, DEEP))}, adapted),
        ({"gate": jnp.ones(7)}, gated),
    ],
    ids=["weights", "gate"],
)
def test_learned_numbers_of_no_site_have_a_row_of_their_own(more, use):
    plain = describe(PLAIN, DENSE_FROZEN, ROWS)
    found = describe(with_more(PLAIN, more, use), DENSE_FROZEN, ROWS)
    assert found.coordinates == plain.coordinates == "no prompt -> linear"
    *rows, last = found.rows
    assert rows == list(plain.rows) and last.site == ""
    assert last.learnable == last.acting == sum(a.size for a in more.values())


def test_numbers_that_a_wrapper_throws_away_do_not_act():
    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        own = jax.tree.map(lambda a: a.at[2:].set(0), params)
        return CHOSEN.apply(own, frozen, x, **kw)

    found = describe(CHOSEN._replace(apply=apply), DENSE_FROZEN, ROWS)
    assert (found.learnable, found.acting) == (6, 2)


def test_a_program_that_runs_none_of_its_manipulations():
    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        return dense(frozen, x) * params.learnable["input"].sum()

    found = describe(CHOSEN._replace(apply=apply), DENSE_FROZEN, ROWS)
    assert found.coordinates == "no prompt -> identity"
    assert (found.learnable, found.acting) == (6, 6)


def test_masked_numbers_do_not_act_through_a_wrapper_either():
    inner = reprogram(mixer, {"input": add(SOFT, mask=frame(3))})
    found = describe(in_batches(inner), MIXER_FROZEN, IMAGES)
    assert found.coordinates == "learnable input additive -> identity"
    assert (found.learnable, found.acting) == (768, (16 * 16 - 10 * 10) * 3)


def test_uint8_images_through_a_wrapper():
    mark = chain(size=resize(16), mark=add(SOFT))
    inner = reprogram(mixer, {"input": mark, "output": bayesian(3)})
    found = describe(remade(inner), MIXER_FROZEN, jnp.zeros((4, 16, 16, 3), jnp.uint8))
    assert found.coordinates == "learnable input additive -> statistical"


def test_tokens_of_several_tasks():
    inner = reprogram(decoder, {"embed:out": insert(SOFT, 2), "output": MEAN})

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        def one(x: Any, task: Any) -> Any:
            own = jax.tree.map(lambda a: a[task], params)
            row = jax.tree.map(lambda a: a[None], x)
            return jax.tree.map(lambda a: a[0], inner.apply(own, frozen, row))

        return jax.vmap(one)(x, context)

    whole = partial(describe, embedding=["embed:out"])
    own = by_row(inner, 3)._replace(apply=apply)
    found = whole(own, DECODER_FROZEN, tokens(IDS), TASK)
    assert found.coordinates == "learnable embedding concatenative -> rule"
    width = DECODER_FROZEN["embed"].shape[1]
    assert found.learnable == found.acting == 3 * 2 * width


def test_an_informed_program_whose_params_are_selected():
    """The prompt is what the model's own features make of the context."""
    program = reprogram(dense, {"hidden": add(from_context()), "output": linear(3)})
    own = informed(program, lambda frozen, x: jnp.tanh(x @ frozen["a"]))
    found = describe(by_task(own), DENSE_FROZEN, ROWS, TASK)
    assert found.coordinates == "fixed hidden additive -> linear"
    assert found.learnable == 3 * (5 * 3 + 3)


def by_task(program: Program) -> Program:
    """Of three sets of params, by the first row's task."""

    def init(key: Any, frozen: Any, x: Any, context: Any = None) -> Params:
        keys = jax.random.split(key, 3)
        return stack_params([program.init(k, frozen, x) for k in keys])

    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        every = jax.vmap(lambda own: program.apply(own, frozen, x, **kw))(params)
        return every[context, jnp.arange(len(x))]

    return program._replace(init=init, apply=apply)


def test_a_loop_over_layers_is_hidden_and_a_loop_over_rows_is_not():
    def forward(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
        layer = lambda x, w: (jnp.tanh(edit("blocks:in", x) @ w), None)
        return edit("output", jax.lax.scan(layer, edit("input", x), frozen)[0])

    inner = reprogram(forward, {"blocks:in": add(SOFT)})
    layers = jnp.ones((3, 6, 6))
    params = inner.init(jax.random.key(0), layers, ROWS)
    frozen_inside = reprogram(partial(inner.apply, params), {"output": linear(2)})
    found = describe(frozen_inside, layers, ROWS, embedding=["blocks:in"])
    assert found.coordinates == "fixed hidden additive -> linear"


def test_what_a_loop_of_no_steps_would_do_is_not_made_up():
    def apply(
        params: Params, frozen: Any, x: Any, context: Any = None, **kw: Any
    ) -> Any:
        run = lambda x: PROMPTED.apply(params, frozen, x[None])[0]
        return jax.lax.map(run, x[:0])

    program = PROMPTED._replace(apply=apply)
    with pytest.raises(ValueError, match="'block_0:in'.*expected jit, vmap, scan"):
        describe(program, MIXER_FROZEN, IMAGES)


def test_a_watcher_sees_what_acts_and_is_gone_after_an_error():
    program = reprogram(dense, {"hidden": add(SOFT), "output": linear(2)})
    params = program.init(jax.random.key(0), DENSE_FROZEN, ROWS)
    seen = []

    def act(m: Manipulation, own: Params, value: Any, scope: Scope, inner: bool) -> Any:
        seen.append(scope.site)
        return m.apply(own, value, scope)

    run = jax.jit(lambda params: program.apply(params, DENSE_FROZEN, ROWS))
    plain = run(params)
    with pytest.raises(RuntimeError), watching(act):
        watched = run(params)
        raise RuntimeError("on the way")
    assert seen == ["hidden", "output"]
    assert (watched == plain).all() and (run(params) == plain).all()
    assert seen == ["hidden", "output"]
