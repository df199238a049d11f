"""Checks for an argument of another kind: an array for a format, a card for a forward.

Each check runs where the argument is given, before tracing. The error says what it got,
what was expected and what to write instead.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core.names import is_ours, name_of
from reprojax.core.vocabulary import (
    Format,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
)

ADAPTERS = {
    "flax.linen": "linen",
    "flax.nnx": "nnx",
    "torch.nn": "torchax",
    "equinox": "equinox",
    "haiku": "haiku",
    "keras": "keras",
}
"""{package of a module's class: the adapter of `locations` that takes it}"""
MISSING: Any = object()
"""Default of a required argument, so that leaving it out gives our own error."""


def is_card(value: Any) -> bool:
    """Whether it is a model's card."""
    return hasattr(value, "forward") and hasattr(value, "frozen")


def shown(value: Any) -> str:
    """Any value in a few words, for errors."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Format | Manipulation):
        return f"a {type(value).__name__} ({name_of(value)})"
    if is_card(value):
        return f"the card {value.name!r}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {array_text(value)}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, bool | int | float | complex | None):
        return repr(value)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return f"a dict of {sorted(value)}"[:80]
    if hasattr(value, "__qualname__") or hasattr(value, "func"):
        return f"the function {name_of(value)}"
    return f"a {type(value).__name__}"


def array_text(value: Any) -> str:
    """float32[4,7]"""
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def takes(function: Any, *args: Any, **kw: Any) -> bool:
    """Whether its signature, if it has one, accepts these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*args, **kw)
    except TypeError:
        return False
    return True


def arguments(function: Any) -> str:
    """(frozen, x), from its signature."""
    return f"({', '.join(inspect.signature(function).parameters)})"


def _check_takes(who: str, call: str, function: Any, names: str) -> None:
    if callable(function) and takes(function, *names.split(", ")):
        return
    got = shown(function)
    if callable(function):
        got = f"one of {arguments(function)}"
    raise ValueError(
        f"{who}: its {call} is {got}, expected a function of ({names}); "
        "declare the arguments that it does not use, too"
    )


def check_format(who: str, came: Any) -> None:
    """Raise unless an operator got a Format whose functions take its arguments."""
    if isinstance(came, Format):
        name = f"{who} got the format {name_of(came)}"
        _check_takes(name, "init", came.init, "key, shape, scope")
        _check_takes(name, "read", came.read, "params, value, scope")
        return
    name = name_of(came) if callable(came) else "array"
    do = f"call {who}(learnable({name})) to train it"
    if isinstance(came, Manipulation):
        do = (
            "put it at a site or into chain(...) itself; a prompt goes through it by "
            "through(learnable(...), manipulation)"
        )
    elif getattr(came, "__module__", "") == "reprojax.formats" or is_ours(came):
        do = f"call it first: {who}({name}(...))"
    elif not callable(came):
        do += f", or {who}(fixed({name})) to leave it as it is"
    raise ValueError(
        f"{who} got {shown(came)}, expected a Format, which says where a prompt's "
        f"numbers come from; {do}"
    )


def check_manipulation(where: str, came: Any) -> None:
    """Raise unless the value at a site, or in a chain, is a valid Manipulation."""
    if isinstance(came, Manipulation):
        name = f"{where} got the manipulation {name_of(came)}"
        _check_takes(name, "init", came.init, "key, spec, scope")
        _check_takes(name, "apply", came.apply, "params, value, scope")
        _check_estimated(name, came)
        return
    raise ValueError(
        f"{where} got {shown(came)}, expected a Manipulation; {_instead(came)}"
    )


def _check_estimated(name: str, came: Manipulation) -> None:
    if (came.observe is None) != (came.refresh is None):
        has, lacks = "observe", "refresh"
        if came.observe is None:
            has, lacks = lacks, has
        raise ValueError(
            f"{name}, which has {has} and no {lacks}, expected both or none; give "
            f"{lacks}, too: Manipulation(init, apply, observe, refresh)"
        )
    if came.observe is not None:
        _check_takes(name, "observe", came.observe, "params, value, labels")
        _check_takes(name, "refresh", came.refresh, "params, sums")


def _instead(came: Any) -> str:
    """What to write instead of a value that is not a Manipulation."""
    if isinstance(came, Format):
        return "call an operator on it: add(format), or insert(format, length)"
    if isinstance(came, type):
        return f"make one first: {came.__name__}(...)"
    if came is None:
        return "leave the entry out: sites without an entry are not changed"
    if isinstance(came, Program):
        return (
            "a program is not a manipulation but makes a forward: reprogram("
            "partial(program.apply, params), {...})"
        )
    if callable(came) and (is_ours(came) or not takes(came, None)):
        return f"call it first: {name_of(came)}(...)"
    if callable(came):
        return f"call stateless({name_of(came)}), if it is a function of the value"
    if isinstance(came, Mapping | list | tuple):
        return "call chain(a=..., b=...) for several, one after the other"
    return "call an operator such as add(learnable(array)), or stateless(function)"


def check_forward(came: Any) -> None:
    """Raise unless it can be called as a forward."""
    what, do = shown(came), "call locations.opaque(function), if it is (frozen, x) -> y"
    if is_card(came) and not adapter(came):
        do = "give the card's forward: reprogram(card.forward, {...})"
    elif isinstance(came, Program):
        do = "a program with its params is a forward: partial(program.apply, params)"
    elif isinstance(came, Mapping):
        do = "the order is reprogram(forward, {site: manipulation})"
    elif isinstance(came, type):
        call = adapter(came) or "opaque"
        do = f"make one first: locations.{call}({came.__name__}(...))"
    elif adapter(came):
        do = f"call locations.{adapter(came)}(module)"
    elif callable(came) and takes(came, None, None, edit=None):
        return
    elif callable(came):
        what += f" of {arguments(came)}"
    raise ValueError(
        f"reprogram got {what}, expected a forward (frozen, x, edit=passthrough) that "
        f"calls edit at its named places; {do}"
    )


def adapter(came: Any) -> str | None:
    """The name of the adapter for a module or its class; None if there is none."""
    kind = came if isinstance(came, type) else type(came)
    homes = [base.__module__ for base in kind.__mro__]
    fits = (a for home, a in ADAPTERS.items() if any(h.startswith(home) for h in homes))
    return next(fits, None)


def whole_ids(who: str, ids: Any) -> list[int]:
    """Ids of words as ints; a text, or several ids for one word, raise ValueError."""
    each = [ids] if isinstance(ids, str) else list(ids)
    for one in each:
        if isinstance(one, str):
            raise ValueError(
                f"{who} got {shown(one)}, expected ids of words; encode it with the "
                "model's own tokenizer: tokenizer.encode(text)"
            )
        if np.ndim(one) or not np.issubdtype(np.asarray(one).dtype, np.integer):
            raise ValueError(
                f"{who} got {one!r:.40}, expected one id each, a whole number; "
                "text.labels.one_token_each gives those of labels"
            )
    return [int(one) for one in each]


# -- what a program is called with


def check_key(key: Any) -> None:
    """Raise unless it is a PRNG key of JAX."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None:
        old = dtype == np.uint32 and np.shape(key)[-1:] == (2,)
        if old or jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return
    number = key if isinstance(key, int) else 0
    raise ValueError(
        f"got {shown(key)} for a key of randomness, expected one of JAX's; call "
        f"jax.random.key({number})"
    )


def check_given(who: str, frozen: Any, x: Any, context: Any) -> None:
    """Raise at a wrong kind of frozen tree, x or context."""
    first = "key" if who == "init" else "params"
    order = f"the order is {who}({first}, frozen, x, context)"
    if x is MISSING:
        raise ValueError(
            f"{who} got {shown(frozen)} and no x, expected the frozen tree and x; "
            f"{order}, such as {who}({first}, card.frozen, x)"
        )
    check_no_card(who, frozen)
    texts = [a for a in jax.tree.leaves((x, context)) if isinstance(a, str)]
    texts += [a for a in jax.tree.leaves((x, context)) if _holds_texts(a)]
    if texts:
        raise ValueError(
            f"{who} got {shown(texts[0])} in x, expected numbers: the ids of its "
            "tokens; call core.padded([tokenizer.encode(text) for text in ...]), or "
            "text.tasks.encoded for a whole task"
        )
    if any(map(_is_shared, jax.tree.leaves(context, is_leaf=_is_shared))):
        raise ValueError(
            f"{who} got data.Shared in the context, expected the array or tree that it "
            "holds; give its .value, as fit gives it to programs: context=shared.value"
        )
    if callable(context):
        raise ValueError(
            f"{who} got a function for the context, expected arrays; pass an edit by "
            "its name: apply(params, frozen, x, edit=...)"
        )
    if hasattr(context, "dtype") and jnp.issubdtype(context.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"{who} got a key for the context, expected arrays; pass it by its name: "
            "apply(params, frozen, x, key=key)"
        )


def _is_shared(value: Any) -> bool:
    """Whether it is a data.Shared, told by name: `data` is on a higher floor."""
    return type(value).__name__ == "Shared" and hasattr(value, "value")


def _holds_texts(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OUS"


def check_no_card(who: str, frozen: Any) -> None:
    """Raise if a card or a program is given for the frozen tree."""
    if is_card(frozen):
        raise ValueError(
            f"{who} got {shown(frozen)} for the frozen tree, expected its weights; "
            "give card.frozen"
        )
    if isinstance(frozen, Program | Params | Manipulation):
        raise ValueError(
            f"{who} got {shown(frozen)} for the frozen tree, expected the model's "
            "weights; the frozen tree is the argument between the program or params "
            "and x"
        )


def check_params(params: Any, names: list[str]) -> None:
    """Raise unless they are Params of this program."""
    if not isinstance(params, Params):
        do = "call Params(learnable, fixed) on their two trees"
        if isinstance(getattr(params, "params", None), Params):
            do = f"give its params: {type(params).__name__.lower()}.params"
        elif isinstance(params, Mapping) and set(names) == set(params):
            do = "give params itself, not params.learnable; or " + do
        raise ValueError(
            f"apply got {shown(params)} for params, expected the Params that init "
            f"gives; {do}"
        )
    for field, tree in params._asdict().items():
        # A site without arrays (a rule) may be missing or extra: no number is lost.
        tree = tree if isinstance(tree, Mapping) or tree == () else {"": tree}
        more = {site for site in set(tree) - set(names) if jax.tree.leaves(tree[site])}
        if more or not set(names) <= set(tree):
            raise ValueError(
                f"apply got {field} params of the sites {sorted(tree)}, expected "
                f"{sorted(names)}: they belong to another program; call this one's init"
            )


def check_at(at: PyTree) -> None:
    """Raise unless it is a mapping from sites, or tuples of sites."""
    if isinstance(at, Mapping) and all(
        key and isinstance(key, str | tuple) for key in at
    ):
        return
    do = "sites(forward, frozen, x) lists a model's sites"
    if isinstance(at, Manipulation):
        do = f'give it a site: {{"input": manipulation}}; {do}'
    raise ValueError(
        f"reprogram got {shown(at)}, expected {{site, or a tuple of sites: "
        f"manipulation}}; {do}"
    )


def context_width(who: str, scope: Scope) -> int:
    """D of a context [B D], of which init may know the shape alone."""
    found: Any = scope.context
    if getattr(found, "ndim", None) != 2:
        raise ValueError(
            f"{who} got {shown(found)} as context, expected a feature of each row "
            "[B D]; call core.informed(program, look), where look(frozen, x) is the "
            "frozen model's own feature, or give one with the call"
        )
    return found.shape[1]
