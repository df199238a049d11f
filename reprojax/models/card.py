"""The card of a frozen model: all that a method must know about it, for any input.

>>> images = card(network, frozen, name="net", input=Pixels(8, mean, std),
...               features="head:in", blocks="conv:in")
>>> series = card(wave, weights, name="wave", input=Series(6), features="hidden")
>>> arrays = card(rows, weights, name="rows", input=Arrays(spec_of(x)))
>>> images.input.size, series.width, arrays.classes
(8, 7, ('0', '1', '2', '3', '4'))

What depends on the kind of input (pixels' normalisation, a tokeniser) is in
`model.input`. Your own kind is a NamedTuple with the two functions of `Input`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import flax.linen as nn
import jax

from reprojax.core import Forward, PyTree, sites
from reprojax.core.guards import nearest
from reprojax.core.trees import fingerprint
from reprojax.locations import linen


class Input(Protocol):
    """The kind of input of a model."""

    def example(self) -> PyTree:
        """The spec of a batch of one."""
        ...

    def forward(self, network: nn.Module | Forward) -> Forward:
        """The network, preceded by the preprocessing of this kind of input."""
        ...


class Arrays(NamedTuple):
    """Any tree of arrays that the network takes."""

    spec: PyTree
    """Shapes and types of a batch of one."""

    def example(self) -> PyTree:
        return self.spec

    def forward(self, network: nn.Module | Forward) -> Forward:
        return linen(network) if isinstance(network, nn.Module) else network


class Series(NamedTuple):
    """A time series [B L C]."""

    length: int
    channels: int = 1
    rate: float | None = None
    """Samples a second."""

    def example(self) -> PyTree:
        return jax.ShapeDtypeStruct((1, self.length, self.channels), "float32")

    def forward(self, network: nn.Module | Forward) -> Forward:
        return Arrays(self.example()).forward(network)


Kind_co = TypeVar("Kind_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Model(Generic[Kind_co]):
    """A frozen model. `roles` names its sites, so that methods need no site names:

    input      before and after preprocessing: ("input", "normalized")
    embedding  the vectors of the words or patches, as the model makes them
    blocks     the input of each block
    kv         of a language model, keys and values in each block: Tokens of a pair
    keys, values   [B L h d] of each block of a vision transformer
    patches    of a vision transformer, one site: patches [B L D] without positions
    tokens     of a vision transformer, one site: its last sequence [B L D], normed
    features   one site: the input of the head, [B D] or [B L D]
    """

    name: str
    forward: Forward
    """forward(frozen, x, edit) -> y"""
    frozen: PyTree
    input: Kind_co
    """`Pixels`, `Words`, `Series`, `Arrays`, or a kind of your own."""
    roles: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...] = ()
    """The names of its classes, in order; () if it does not answer with classes."""
    weights: Callable[[PyTree], PyTree] = lambda frozen: frozen
    """What of `frozen` was not computed of the rest of it."""

    def _replace(self, **changes: Any) -> "Model[Any]":
        """A changed card, as of a NamedTuple (which type checkers do not take generic).

        Fields of its input may be changed, too: `model._replace(tokenizer=t)`.
        """
        own = {n: v for n, v in changes.items() if n in self.__dataclass_fields__}
        read = {n: v for n, v in changes.items() if n not in own}
        if read:
            own["input"] = own.get("input", self.input)._replace(**read)
        return replace(self, **own)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Fields of its input: `model.size` is `model.input.size`."""
            fields = getattr(self.__dict__.get("input"), "_fields", ())
            if name not in fields:
                raise AttributeError(
                    f"neither the card nor its input {sorted(fields)} has {name!r}"
                )
            return getattr(self.input, name)

    @property
    def fingerprint(self) -> str:
        """sha256 of its weights. What was computed of them does not count, because its
        last bits depend on the device."""
        return fingerprint(self.weights(self.frozen))

    @property
    def width(self) -> int:
        """D of the values at its blocks, or else at its head; found by tracing."""
        for name in ("blocks", "embedding", "features"):
            if self.roles.get(name):
                return _shape(self, self.roles[name][0])[-1]
        raise ValueError(
            f"{self.name} names neither blocks nor features, expected a role that has "
            "a width; call card(..., features=...)"
        )

    @property
    def heads(self) -> int:
        """The number of heads h of its attention, [B L h d]; found by tracing."""
        for name in ("keys", "kv"):
            if self.roles.get(name):
                return _shape(self, self.roles[name][0])[-2]
        raise ValueError(
            f"{self.name} names no keys, expected a role 'keys' or 'kv'; call "
            "card(..., keys=...)"
        )


def _shape(model: Model[Any], site: str) -> tuple[int, ...]:
    """The shape of the first array of the value at a site."""
    shape = sites(model.forward, model.frozen, model.input.example())[site]
    shape = getattr(shape, "value", shape)  # if it is Tokens
    while not isinstance(shape[0], int):  # a pair of keys and values
        shape = shape[0]
    return shape


def role(model: Model[Any], name: str, who: str = "") -> tuple[str, ...]:
    """The sites of a role of the card; raise if there are none. `who` needs them."""
    if not model.roles.get(name):
        raise ValueError(
            f"{model.name} has the roles {sorted(model.roles)}, expected {name!r} "
            f"among them{who and f' for {who}'}; name its sites in the card's roles"
        )
    return model.roles[name]


def outputs(model: Model[Any]) -> tuple[str, ...]:
    """The sites of the blocks' outputs. They are not the next blocks' inputs, because
    the last block has no next one."""
    blocks = role(model, "blocks")
    if not all(site.endswith(":in") for site in blocks):
        raise ValueError(
            f"got the blocks {list(blocks)} of {model.name}, expected sites such as "
            "'block_0:in', with outputs at 'block_0:out'; name them so in the card's "
            "roles"
        )
    return tuple(site.removesuffix(":in") + ":out" for site in blocks)


def card(
    network: nn.Module | Forward,
    frozen: PyTree,
    *,
    name: str,
    input: Kind_co,
    features: str | None = None,
    classes: Sequence[str] | None = None,
    **roles: str | Sequence[str],
) -> Model[Kind_co]:
    """The card of your own model, checked by tracing, without running it.

    Args:
        network: a linen module, or a forward; `locations` makes one of other modules.
            The preprocessing of `input` precedes it: for pixels, the network's "input"
            becomes the card's "normalized".
        input: what the model reads: `Pixels`, `Words`, `Series`, `Arrays`.
        features: the site of the head's input, [B D], or Tokens of [B L D].
        classes: the class names in order; by default numbers.
        roles: sites by role: "blocks", "keys", as in `Model`. A star matches any part
            of one name: "block_*:in", in the order of calls.
    """
    if not all(hasattr(input, part) for part in Input.__dict__ if part[0] != "_"):
        raise ValueError(
            f"{name} got input={input!r}, expected what the model reads, such as "
            "Pixels(224, mean, std), Series(length) or Arrays(spec_of(x))"
        )
    forward = input.forward(network)  # pyright: ignore[reportAttributeAccessIssue]
    shapes = sites(forward, frozen, input.example())  # pyright: ignore
    found = {
        role: _matching(given, shapes, role)
        for role, given in {"features": features, **roles}.items()
        if given is not None
    }
    if features is not None:
        heads = {site: shapes[site] for site in found["features"]}
        if len(heads) > 1 or not all(map(_is_feature, heads.values())):
            raise ValueError(
                f"features={features!r} gives {list(heads.items())}, expected one site "
                "of [B D], or of Tokens [B L D]; sites(forward, frozen, x) lists them"
            )
    found |= {"input": tuple(s for s in ("input", "normalized") if s in shapes)}
    if "blocks" in found:
        found.setdefault("embedding", found["blocks"][:1])
    names = _names(name, shapes["output"], classes)
    return Model(name, forward, frozen, input, found, names)


def _names(name: str, answer: Any, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a model's classes; raise unless they match its answer."""
    count = answer[-1] if isinstance(answer, tuple) and len(answer) == 2 else None
    if not isinstance(count, int):
        count = None
    names = tuple(map(str, range(count or 0) if classes is None else classes))
    if len(names) != (count or 0) or not _is_array(answer):
        raise ValueError(
            f"{name} answers {answer} to one row, expected an array, (1, S) for "
            f"{len(names) or 'S'} classes; give as many names, or a forward that "
            "returns the logits alone: linen(module, lambda m, x: m(x).logits)"
        )
    return names


def _is_array(answer: Any) -> bool:
    """Whether the shape that `sites` gives is that of an array, or of Tokens."""
    answer = getattr(answer, "value", answer)
    return isinstance(answer, tuple) and all(isinstance(n, int) for n in answer)


def _is_feature(shape: Any) -> bool:
    """Whether a head can read it: [B D], Tokens, or a value of unknown structure."""
    return hasattr(shape, "value") or not _is_array(shape) or len(shape) == 2


def _matching(
    given: str | Sequence[str], shapes: Mapping[str, Any], role: str
) -> tuple[str, ...]:
    """The sites that a role's pattern, or each of its patterns, matches."""
    patterns = [given] if isinstance(given, str) else list(given)
    out = []
    for pattern in patterns:
        form = re.escape(pattern).replace(r"\*", "[^/:]*")
        hits = [site for site in shapes if re.fullmatch(form, site)]
        if not hits:
            raise ValueError(
                f"{role} is {pattern!r}, but the model has no such site"
                f"{nearest(pattern, shapes)}; sites(forward, frozen, x) lists them"
            )
        out += hits
    return tuple(out)
