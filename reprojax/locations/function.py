"""A function as a forward. One that calls `edit` itself needs no adapter."""

from collections.abc import Callable

import jax

from reprojax.core import Edit, Forward, PyTree, passthrough
from reprojax.locations.visits import returned


def opaque(function: Callable[[PyTree, PyTree], PyTree]) -> Forward:
    """function(frozen, x) -> y in JAX, reached at its two ends alone.

    A function that is not JAX (a service, a compiled program) only answers: it has no
    gradient, and `reprojax.searches` asks it.
    """

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        edit = returned(edit)
        x = edit("input", x)
        try:
            y = function(frozen, x)
        except jax.errors.TracerArrayConversionError as error:
            name = getattr(function, "__name__", type(function).__name__)
            raise ValueError(
                f"{name} asks for the numbers of a traced array, expected a JAX "
                "function; what only answers is asked by reprojax.searches"
            ) from error
        return edit("output", y)

    return forward
