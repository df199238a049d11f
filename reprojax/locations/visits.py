"""Site names of submodules, shared by the adapters."""

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
    "<path>:in" (the first argument of the tuple) and "<path>:out"; at its second call
    "<path>#2:in" and so on. A method other than its call (`attend` of a tied nn.Embed)
    has no site.

    scan may trace its body more than once, and one trace serves all its layers. So each
    trace counts calls from one again, and a site inside scan, vmap or remat has one
    name for all layers and all calls: an edit there serves them all.
    """

    def __init__(
        self, edit: Edit, trace: Callable[[], Any] = get_opaque_trace_state
    ) -> None:
        self.edit, self.trace = returned(edit), trace
        self.counts: list[tuple[Any, Counter]] = []

    def __call__(
        self, path: str, function: Callable, args: tuple, kwargs: Mapping[str, Any]
    ) -> Any:
        """Call function(*args, **kwargs) with edits at its sites."""
        visits = self._count()
        visits[path] += 1
        if visits[path] > 1:
            path = f"{path}#{visits[path]}"
        args, kwargs = self.edit(f"{path}:call", (args, kwargs))
        if args:  # a module may get keyword arguments only
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
    """The edit, which raises if it returns None."""
    return lambda site, value: handed_on(site, value, edit(site, value))


def check_tree(
    adapter: str, kind: str, expected: Iterable[str], found: Iterable[str]
) -> None:
    """Raise unless the frozen tree has the paths of the adapter's tree."""
    if differ := sorted(set(expected) ^ set(found)):
        raise ValueError(
            f"the frozen tree and {kind} differ in {differ[:3]}, expected the tree "
            f"that {adapter}(module) gave, or one of its structure"
        )


def refuse(who: str, module: Any, expected: str) -> NoReturn:
    """Raise: the adapter got another kind of module; name the adapter that takes it."""
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
    """The default call of a model."""
    return module(x)


def tapped(kind: type, **own: Any) -> type:
    """A subclass whose calls go through the tap that the instance carries.

    Args:
        own: further attributes of the class.
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
