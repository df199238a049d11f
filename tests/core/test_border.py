"""What a user does wrong is said with its site, its name and what to do: see border."""

import border
import jax
import jax.numpy as jnp
import pytest
from toys import DENSE_FROZEN, ROWS, dense

from reprojax import Params, chain, reprogram, shared, stateless
from reprojax.alignments import bayesian
from reprojax.core.faults import PartError
from reprojax.core.names import name_of
from reprojax.formats import learnable, through
from reprojax.operators import add, crop, flip, masked_add, mlp, pad, resize

EVERY = (*border.SLIPS, *border.MISTAKES)


@pytest.mark.parametrize("case", EVERY, ids=[case.name for case in EVERY])
def test_what_is_wrong_is_said_with_its_place_and_its_remedy(case, unchecked):
    with pytest.raises(ValueError) as caught:
        case.run()
    missing = [piece for piece in case.says if piece not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def test_the_table_is_long_enough():
    assert len(border.SLIPS) >= 20 and len(border.MISTAKES) >= 20
    assert len({case.name for case in EVERY}) == len(EVERY)


def failing(error):
    def apply(params, value, scope):
        raise error

    return border.own(apply)


def test_the_error_that_came_is_chained():
    """Once, whatever number of parts lies around it."""
    first = KeyError("scale")
    program = reprogram(dense, {"hidden": chain(a=chain(b=failing(first)))})
    with pytest.raises(PartError) as caught:
        program.init(border.KEY, DENSE_FROZEN, ROWS)
    assert caught.value.__cause__ is first
    assert [where.split(" (")[0] for where in caught.value.where] == [
        "the manipulation of 'hidden'",
        "its part 'a'",
        "its part 'b'",
    ]


def test_an_error_of_an_outer_program_is_not_the_models():
    params = border.PROGRAM.init(border.KEY, DENSE_FROZEN, ROWS)
    inner = lambda frozen, x, edit: border.PROGRAM.apply(params, frozen, x, edit=edit)
    outer = reprogram(inner, {"hidden": failing(KeyError("scale"))})
    with pytest.raises(PartError, match="^the manipulation of 'hidden' .failing.: a"):
        outer.init(border.KEY, DENSE_FROZEN, ROWS)


@pytest.mark.parametrize(
    "error", [RuntimeError("no device"), MemoryError(), jax.errors.JaxRuntimeError("a")]
)
def test_what_is_no_mistake_of_a_function_passes(error):
    program = reprogram(dense, {"hidden": failing(error)})
    with pytest.raises(type(error)) as caught:
        program.init(border.KEY, DENSE_FROZEN, ROWS)
    assert caught.value is error


def test_the_compiled_program_has_none_of_it():
    """The jaxpr is that of the formula, written out."""
    scale = Params({"scale": jnp.ones(7)})
    program = reprogram(dense, {"hidden": chain(own=border.own())})
    nested = Params({"hidden": {"own": scale.learnable}}, {"hidden": {"own": ()}})

    def formula(params, frozen, x):
        h = jnp.tanh(x @ frozen["a"])
        return (params.learnable["hidden"]["own"]["scale"] * h) @ frozen["b"]

    found, expected = (
        jax.make_jaxpr(call)(nested, DENSE_FROZEN, ROWS)
        for call in (program.apply, formula)
    )
    assert str(found) == str(expected)


# -- names


def test_a_program_prints_its_sites():
    soft = learnable(jax.nn.initializers.zeros)
    sigmoid = stateless(jax.nn.sigmoid)
    place = chain(resize=resize(8), place=pad(through(soft, sigmoid), 4))
    at = {"input": place, ("a", "b"): shared(add(soft)), "output": bayesian(3)}
    program = reprogram(dense, at)
    assert repr(program) == (
        "Program(\n"
        "  input: chain(resize, place=pad(through(learnable, sigmoid)))\n"
        "  a, b: add(learnable)\n"
        "  output: bayesian\n"
        ")"
    )
    assert repr(reprogram(dense, {})) == "Program()"
    other = reprogram(dense, at)
    assert program == program and program != other
    assert len({program, program, other}) == 2


def doubled(value):
    return 2 * value


def test_a_part_has_the_name_of_what_made_it():
    soft = learnable(jax.nn.initializers.zeros)
    named = {
        "flip": flip(),
        "crop": crop(4),
        "doubled": stateless(doubled),
        "masked_add(learnable, mlp)": masked_add(soft, mlp(3)),
        "own": border.own(),
        "learnable": soft,
    }
    assert {name: name_of(part) for name, part in named.items()} == dict(
        zip(named, named, strict=True)
    )
