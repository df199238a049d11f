"""Checks that are written once are each function's own."""

import checker
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, TypeCheckError, jaxtyped


def made(kind, default=None):
    def inner(x: kind, y: kind | None = default) -> kind:
        return x if y is None else y

    return jaxtyped(inner, typechecker=checker.check)


def test_functions_of_one_name_are_checked_by_their_own_types():
    for kind, right, wrong in ((int, 1, "a"), (str, "a", 1), (int, 1, "a")):
        assert made(kind)(right) == right
        assert made(kind, right)(right) == right
        with pytest.raises(TypeCheckError, match="parameters"):
            made(kind)(wrong)
        with pytest.raises(TypeCheckError, match="parameters"):
            made(kind)(right, wrong)
        with pytest.raises(TypeCheckError, match="return value"):
            made(kind, wrong)(right)


def test_equal_checks_are_written_once(monkeypatch):
    made(float)
    written = []
    monkeypatch.setattr(checker, "_checked", lambda f: written.append(f) or f)
    made(float)
    assert not written
    made(bytes)
    assert len(written) == 2  # of the parameters, and with the answer


def test_an_answers_shape_is_that_of_the_arguments():
    @jaxtyped(typechecker=checker.check)
    def first(x: Float[Array, "b d"], rows: int) -> Float[Array, "b"]:
        return x[:rows, 0]

    assert first(jnp.ones((3, 2)), 3).shape == (3,)
    with pytest.raises(TypeCheckError, match="return value"):
        first(jnp.ones((3, 2)), 2)
