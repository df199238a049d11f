"""Save a trained program as one safetensors file of kilobytes, and load it.

>>> card = Card.of(backbone, method="watermark", arguments={"alignment": "blm"},
...                classes=("a", "b", "c"))
>>> save("digits.safetensors", params, card)

>>> saved = load("digits.safetensors", backbone)  # raises for another model's
>>> program, params = rebuild(saved, backbone)  # of recipes.registry
>>> params = saved.params_for(own, backbone.frozen, images)  # of your own program

The tensors are the leaves of `Params`, named "learnable/<site>/..." and
"fixed/<site>/..."; a "/" inside a key is written "~1" and a "~" "~0", as in a JSON
pointer (RFC 6901). The metadata holds the card as JSON, and a sha256 over everything.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from reprojax.core import Params, Program, PyTree
from reprojax.core.trees import (
    below,
    differences,
    fingerprint,
    named,
    plain_data,
    spec_text,
    specs,
)
from reprojax.saving.files import decode_json, open_regular, plain, write_file

FORMAT = "reprojax program 1"
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64"),
)


class Card(NamedTuple):
    """What a reader of the file alone must know. Values are as in JSON."""

    method: str
    """The recipe's name; `arguments` are its arguments."""
    arguments: Mapping[str, Any]
    backbone: str
    """The frozen model's name; `fingerprint` is its weights'."""
    fingerprint: str
    dtype: str = "float32"
    """That of its weights, with which it has to be loaded."""
    size: int = 0
    """The backbone's image size; `mean` and `std` are its normalisation."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image: tuple[int, ...] = ()
    """[h, w, C] of the task's images, the program's input."""
    classes: tuple[str, ...] = ()
    """The task's classes, in the order of the program's outputs."""
    template: str = ""
    """How the task's texts are presented to a language model, or the names of its
    classes to a pair of towers: a template a line."""
    coordinates: tuple[str, ...] = ()
    """(lambda, ell, tau, omega), from `describe`."""
    split: Mapping[str, Any] = {}
    """The data of training and selection: name, sizes, digest, seed of the split."""
    seed: int = 0
    metric: Mapping[str, float] = {}
    """Its scores, such as {"validation": .84, "test": .82}."""

    @classmethod
    def of(cls, model: Any, **rest: Any) -> "Card":
        """A card whose entries about the frozen model are taken from the model."""
        if hasattr(model.input, "mean"):
            reads = model.input
            pixels = {"mean": tuple(reads.mean), "std": tuple(reads.std)}
            rest = {"size": reads.size, **pixels, **rest}
        floats = [
            leaf
            for leaf in jax.tree.leaves(model.frozen)
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        ]  # of which a pair's scale and bias are float32 in any case
        if floats:
            largest = max(floats, key=jnp.size)
            rest = {"dtype": jnp.result_type(largest).name, **rest}
        return cls(backbone=model.name, fingerprint=model.fingerprint, **rest)


class Saved(NamedTuple):
    """A file's content."""

    params: dict[str, Any]
    """{"learnable": {site: ...}, "fixed": ...}, nested dicts of numpy arrays."""
    card: Card

    def restore(self, template: Params) -> Params:
        """The params in the tree of `template`: `jax.eval_shape(program.init, ...)`.

        One ValueError lists all leaves that are missing, unexpected, or of another
        shape or type.
        """
        came, expected = named(self.params), named(template)
        if lines := differences(specs(self.params), specs(template)):
            raise ValueError(
                f"the file's params are not those of the program:{below(lines)}\n"
                f"build it as the card says: {self.card.method} with "
                f"{dict(self.card.arguments)} for {len(self.card.classes)} classes"
            )
        leaves = [_like(came[name], leaf) for name, leaf in expected.items()]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def params_for(
        self, program: Program, frozen: PyTree, x: PyTree, context: PyTree = None
    ) -> Params:
        """The params of `program` on inputs like `x`: an array, or its spec; likewise
        the context."""
        key = jax.random.key(0)
        return self.restore(jax.eval_shape(program.init, key, frozen, x, context))


def save(path: str | Path, params: Params, card: Card) -> None:
    """Write one file, all of it or nothing, and make missing parent folders.

    Dtypes are those of jax: numpy's float64 becomes float32 unless x64 is on. The same
    params and card give the same bytes.

    Raises:
        ValueError: a leaf is NaN or infinite, or of a type that safetensors lacks; a
            field of the card has the wrong type.
    """
    path = Path(path)
    tensors = _tensors(params)
    _check_finite(tensors, "the params")
    text = _text(card)
    _card(text, "the card to be saved")
    metadata = {"format": FORMAT, "card": text, "sha256": _digest(text, tensors)}
    from safetensors.numpy import save as serialised

    write_file(path, _in_order(serialised(tensors, metadata)))


def load(path: str | Path, backbone: Any = None) -> Saved:
    """Read a file. With a backbone, raise if the program is for another one.

    Raises:
        ValueError: it is not a whole file that `save` wrote; it names a leaf that is
            NaN or infinite, or a field of the card with the wrong type.
    """
    metadata, tensors = _read(Path(path))
    text = metadata["card"]
    if metadata.get("sha256") != _digest(text, tensors):
        raise ValueError(
            f"{path} is damaged: its checksum does not match; expected the file as it "
            "was saved; copy it again"
        )
    card = _card(text, f"the card of {path}")
    _check_finite(tensors, str(path))
    if backbone is not None:
        check_backbone(card, backbone.name, backbone.fingerprint)
    return Saved(_nested(tensors), card)


def check_backbone(card: Card, name: str, came: str) -> None:
    """Raise unless a frozen model's name and fingerprint are the card's."""
    if came == card.fingerprint:
        return
    same = "the names agree, but not the weights or their dtype; "
    raise ValueError(
        f"got backbone {name!r} with fingerprint {came[:12]}, expected "
        f"{card.backbone!r} with {card.fingerprint[:12]}, for which the program was "
        f"made; {same if name == card.backbone else ''}load that one"
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(path).close()
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = file.keys() if metadata.get("format") == FORMAT else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} could not be read as safetensors ({error}), expected a whole file "
            "that reprojax.save wrote; copy it again"
        ) from error
    came = metadata.get("format", "no format of ours")
    if came != FORMAT or "card" not in metadata:
        raise ValueError(
            f"{path} has {came!r}, expected {FORMAT!r}: a program that "
            "reprojax.save wrote, not a model's weights; a newer format needs a newer "
            "reprojax"
        )
    return metadata, tensors


def _text(card: Card) -> str:
    """The card as JSON; numbers of numpy and jax become plain ones."""
    fields = card._asdict().items()
    return json.dumps({name: plain(v, f"the card's {name}") for name, v in fields})


def _card(text: str, name: str) -> Card:
    """A card from JSON; raise unless its fields have the right types."""
    fields = decode_json(text, dict[str, Any], name)
    needed = set(Card._fields) - set(Card._field_defaults)
    if unknown := sorted((set(fields) - set(Card._fields)) | (needed - set(fields))):
        raise ValueError(
            f"{name} differs from this reprojax's in {unknown}, expected "
            f"{list(Card._fields)}; use the version of reprojax that wrote it"
        )
    types = msgspec.defstruct("Fields", [*get_type_hints(Card).items()])
    whole = json.dumps(Card(**fields)._asdict())
    card = Card(**msgspec.structs.asdict(decode_json(whole, types, name)))
    if not all(0 <= n < 1 << 20 for n in (card.size, *card.image)):
        raise ValueError(
            f"{name} has images of {list(card.image)} and a model of size {card.size}, "
            "expected sides from 0 to a million; copy the file again"
        )
    return card


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted; the library's order varies."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[size:]


def _check_finite(tensors: Mapping[str, np.ndarray], name: str) -> None:
    lines = [
        f"{leaf}: {count} of {a.size} numbers"
        for leaf, a in sorted(tensors.items())
        if a.dtype.kind not in "biu" and (count := int((~np.isfinite(a)).sum()))
    ]
    if lines:
        raise ValueError(
            f"{name} has leaves that are NaN or infinite:{below(lines)}\nexpected "
            "finite numbers; such a program has no answers: train it again, from a "
            "checkpoint before the loss diverged"
        )


def _nested(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {"learnable": {}, "fixed": {}}
    for name, tensor in tensors.items():
        keys = [key.replace("~1", "/").replace("~0", "~") for key in name.split("/")]
        place: Any = nested
        for key in keys[:-1]:
            place = place.setdefault(key, {}) if isinstance(place, dict) else None
        taken = not isinstance(place, dict) or place.get(keys[-1], {}) != {}
        if keys[0] not in Params._fields or taken:
            raise ValueError(
                f"got a tensor named {name!r}, expected learnable/... or "
                "fixed/..., and no name that begins another; save the program again"
            )
        place[keys[-1]] = tensor
    return nested


def _tensors(params: Params) -> dict[str, np.ndarray]:
    tensors, wrong = {}, []
    for name, leaf in named(params).items():
        try:
            tensors[name] = np.asarray(plain_data(leaf), order="C")
        except TypeError:
            wrong.append(f"{name}: {leaf!r}")
        else:
            if tensors[name].dtype.name not in DTYPES:
                wrong.append(f"{name}: {spec_text(leaf)}")
    if wrong:
        raise ValueError(
            f"got leaves that safetensors cannot hold:{below(wrong)}\nexpected "
            f"arrays of {', '.join(DTYPES)}"
        )
    return tensors


def _like(tensor: np.ndarray, leaf: Any) -> jax.Array:
    data = jnp.asarray(tensor)
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return data
    return jax.random.wrap_key_data(data, impl=leaf.dtype)


def _digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    return fingerprint({"card": np.frombuffer(text.encode(), np.uint8), **tensors})
