"""How the adapters name what passes through a submodule."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from jax.extend.core import get_opaque_trace_state

from reprojax.core import Edit
from reprojax.core.guards import handed_on
from reprojax.core.slips import adapter


class Visits:
    """One pass through a model.

    A submodule has the sites "<path>:call" (its arguments, a tuple and a dict),
    "<path>:in" (the first of the tuple) and "<path>:out". One that is called again has
    "<path>#2:in" and so on. What it does by another method than its call (`attend` of
    a tied nn.Embed) has no site.

    A body of scan may be traced more than once, and one trace serves all its layers. So
    each trace numbers anew, and a site inside scan, vmap or remat has one name for all
    layers and all calls from outside: an edit there serves them all.
    """

    def __init__(
        self, edit: Edit, trace: Callable[[], Any] = get_opaque_trace_state
    ) -> None:
        self.edit, self.trace = returned(edit), trace
        self.counts: list[tuple[Any, Counter]] = []

    def __call__(
        self, path: str, function: Callable, args: tuple, kwargs: Mapping[str, Any]
    ) -> Any:
        """function(*args, **kwargs) with its sites."""
        visits = self._count()
        visits[path] += 1
        if visits[path] > 1:
            path = f"{path}#{visits[path]}"
        args, kwargs = self.edit(f"{path}:call", (args, kwargs))
        if args:  # a module may be called by keywords alone
            args = (self.edit(f"{path}:in", args[0]), *args[1:])
        return self.edit(f"{path}:out", function(*args, **kwargs))

    def _count(self) -> Counter:
        here = self.trace()
        for trace, count in self.counts:
            if trace == here:
                return count
        self.counts.append((here, Counter()))
        return self.counts[-1][1]


def returned(edit: Edit) -> Edit:
    """The edit, which raises where it forgot to return a value."""
    return lambda site, value: handed_on(site, value, edit(site, value))


def check_tree(
    adapter: str, kind: str, expected: Iterable[str], found: Iterable[str]
) -> None:
    """Raise unless the frozen tree has the paths that the adapter gave it."""
    if differ := sorted(set(expected) ^ set(found)):
        raise ValueError(
            f"the frozen tree and {kind} differ in {differ[:3]}, expected the tree "
            f"that {adapter}(module) gave, or one of its structure"
        )


def refuse(who: str, module: Any, expected: str) -> NoReturn:
    """Say what came instead of a module, and which adapter takes it."""
    kind = module if isinstance(module, type) else type(module)
    do = "write forward(frozen, x, edit), or take opaque(function) for its two ends"
    if (fits := adapter(module)) is not None:
        do = f"call {fits}(module)"
    found = kind.__name__
    if kind is module:
        found, do = (
            f"the class {found}",
            f"make one first, as in {found}(...), and {do}",
        )
    raise ValueError(f"{who} got {found}, expected {expected}; {do}")


def plain(module: Callable, x: Any) -> Any:
    """How a model is called if nothing else is said."""
    return module(x)


def tapped(kind: type, **own: Any) -> type:
    """A class of modules whose calls are visits of the tap that a module carries.

    Args:
        own: what else the class has.
    """

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        tap = self._reprojax_tap

        def function(*args: Any, **kwargs: Any) -> Any:
            return kind.__call__(self, *args, **kwargs)

        return tap.visits(tap.path, function, args, kwargs)

    own |= {
        "__call__": __call__,
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
    }
    return type(kind)(kind.__name__, (kind,), own)
