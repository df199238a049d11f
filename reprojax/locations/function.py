"""A function as a forward. One that calls `edit` itself needs no adapter."""

from collections.abc import Callable

from reprojax.core import Forward, PyTree, passthrough


def black_box(function: Callable[[PyTree, PyTree], PyTree]) -> Forward:
    """function(frozen, x) -> y, reached at its two ends alone."""

    def forward(frozen: PyTree, x: PyTree, edit: Callable = passthrough) -> PyTree:
        return edit("output", function(frozen, edit("input", x)))

    return forward
