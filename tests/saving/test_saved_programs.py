"""A kept program is one file: everything comes back, and nothing wrong gets in."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes.small_languages import QUERIES, losses, parity
from recipes.small_languages import card as small
from safetensors import safe_open
from safetensors.numpy import save_file

from reprojax.alignments import label_words
from reprojax.core import Manipulation, Params, padded, passthrough, reprogram, spec_of
from reprojax.core.trees import fingerprint
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.recipes.model_reprogramming import additive_prompt
from reprojax.recipes.prompt_tuning import (
    black_box_tuning,
    decomposed_prompt_tuning,
    loreft,
    p_tuning_v2,
    prefix_tuning,
    prompt_tuning,
    without_mlp,
)
from reprojax.recipes.prompt_tuning.soft_prompts import METHOD
from reprojax.recipes.registry import rebuild
from reprojax.saving import programs
from reprojax.saving.programs import Card, load, save
from reprojax.training.losses import Seen, cross_entropy


class Pair(NamedTuple):
    left: Any
    right: Any


def forward(frozen, x, edit=passthrough):
    x = edit("input", x)
    return edit("output", edit("block_0/attn:in", x) @ frozen["w"])


def shift(*keys: str) -> Manipulation:
    def init(key, spec, scope):
        learnable = {k: jax.random.normal(key, spec.shape[1:]) for k in keys}
        return Params(learnable, (jnp.arange(3), ()))

    def apply(params, value, scope):
        return value + sum(params.learnable.values())

    return Manipulation(init, apply)


def backbone(
    name: str = "toy", seed: int = 0, dtype: Any = jnp.float32
) -> Model[Pixels]:
    w = jax.random.normal(jax.random.key(seed), (4, 2)).astype(dtype)
    mean, std = (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)
    return Model(name, forward, {"w": w}, Pixels(8, mean, std), {}, ("a", "b"))


PROGRAM = reprogram(forward, {"input": shift("p"), "block_0/attn:in": shift("p", "q")})
X = jnp.ones((5, 4))


def card(**changes: Any) -> Card:
    rest = {
        "method": "shift",
        "arguments": {"keys": ["p", "q"], "rate": 0.1, "nested": {"mask": None}},
        "image": (8, 8, 3),
        "classes": ("zero", "one/two", "größer"),
        "coordinates": ("learnable", "input", "additive", "identity"),
        "split": {"name": "digits", "train": 1000, "seed": 3},
        "seed": 7,
        "metric": {"test": 0.84},
    }
    return Card.of(backbone(), **rest | changes)


def trained() -> Params:
    return PROGRAM.init(jax.random.key(5), backbone().frozen, X)


def test_a_program_computes_the_same_from_its_file(tmp_path):
    path = tmp_path / "new" / "folder" / "digits.safetensors"
    params, frozen = trained(), backbone().frozen
    save(path, params, card())
    saved = load(path, backbone())
    assert saved.card == card()
    back = saved.params_for(PROGRAM, frozen, jax.ShapeDtypeStruct((1, 4), jnp.float32))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    np.testing.assert_array_equal(
        PROGRAM.apply(back, frozen, X), PROGRAM.apply(params, frozen, X)
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size < 3000


def test_names_and_card_are_readable_without_us(tmp_path):
    save(tmp_path / "p", trained(), card())
    with safe_open(tmp_path / "p", framework="np") as file:
        assert set(file.keys()) == {
            "learnable/input/p",
            "learnable/block_0~1attn:in/p",
            "learnable/block_0~1attn:in/q",
            "fixed/input/0",
            "fixed/block_0~1attn:in/0",
        }
        text = json.loads(file.metadata()["card"])
    assert text["method"] == "shift" and text["classes"][2] == "größer"
    assert text["fingerprint"] == fingerprint(backbone().frozen)
    assert text["mean"] == [0.5, 0.5, 0.5] and text["size"] == 8


def test_params_come_as_nested_dicts_by_site(tmp_path):
    save(tmp_path / "p", trained(), card())
    params = load(tmp_path / "p").params
    assert set(params["learnable"]) == {"input", "block_0/attn:in"}
    np.testing.assert_array_equal(params["fixed"]["input"]["0"], [0, 1, 2])


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
    + ["float16", "bfloat16", "float32", "complex64"],
)
def test_dtypes_are_kept(tmp_path, dtype):
    params = Params({"a": (jnp.arange(6) - 2).astype(dtype).reshape(2, 3).T}, ())
    save(tmp_path / "p", params, card())
    back = load(tmp_path / "p").restore(jax.eval_shape(lambda: params))
    assert back.learnable["a"].dtype == params.learnable["a"].dtype
    assert (
        np.array(back.learnable["a"]).tobytes()
        == np.array(params.learnable["a"]).tobytes()
    )


def test_any_tree_comes_back(tmp_path):
    learnable = {
        "a~/b": [jnp.ones(2), (jnp.zeros(()), Pair((), jnp.ones((0, 3))))],
        "~1": {"": jnp.array(2.0), "empty": {}},
        "numbers": {3: None, 1: jnp.ones(1)},
    }
    params = Params(learnable, jax.random.split(jax.random.key(1, impl="rbg"), 2))
    save(tmp_path / "p", params, card())
    back = load(tmp_path / "p").restore(jax.eval_shape(lambda: params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert back.fixed.dtype == params.fixed.dtype
    key = np.asarray(jax.random.key_data(params.fixed))
    np.testing.assert_array_equal(jax.random.key_data(back.fixed), key)
    jax.tree.map(np.testing.assert_array_equal, back.learnable, params.learnable)


def test_a_program_without_numbers_is_kept(tmp_path):
    save(tmp_path / "p", Params(), card())
    saved = load(tmp_path / "p")
    assert saved.params == {"learnable": {}, "fixed": {}}
    assert saved.restore(Params()) == Params()


def test_numbers_of_numpy_and_jax_are_fine_in_a_card(tmp_path):
    metric = {"test": np.float32(0.5), "last": jnp.float32(0.25)}
    save(tmp_path / "p", Params(), card(metric=metric, seed=np.int64(3)))
    back = load(tmp_path / "p").card
    assert back.metric == {"test": 0.5, "last": 0.25} and back.seed == 3


def test_another_backbone_is_refused(tmp_path):
    save(tmp_path / "p", trained(), card())
    own = fingerprint(backbone().frozen)[:12]
    with pytest.raises(ValueError, match="for which the program was made") as caught:
        load(tmp_path / "p", backbone("other", seed=1))
    came = fingerprint(backbone(seed=1).frozen)[:12]
    assert f"backbone 'other' with fingerprint {came}, expected" in str(caught.value)
    assert f"expected 'toy' with {own}" in str(caught.value)
    for other in (backbone(seed=1), backbone(dtype=jnp.bfloat16)):
        with pytest.raises(ValueError, match="names agree, but not the weights"):
            load(tmp_path / "p", other)
    load(tmp_path / "p", backbone("renamed"))


def test_leaves_that_do_not_fit_are_all_listed(tmp_path):
    save(tmp_path / "p", trained(), card())
    other = reprogram(forward, {"input": shift("p", "r"), "output": shift("s")})
    with pytest.raises(ValueError, match="not those of the program") as caught:
        x = jnp.ones((5, 4), jnp.bfloat16)
        template = jax.eval_shape(other.init, jax.random.key(0), backbone().frozen, x)
        fixed = {"input": (jax.ShapeDtypeStruct((2,), jnp.float32), ())}
        load(tmp_path / "p").restore(template._replace(fixed=fixed))
    for line in (
        "learnable/input/r: got nothing, expected float32[4]",
        "learnable/output/s: got nothing, expected float32[2]",
        "learnable/block_0~1attn:in/q: got float32[4], expected nothing",
        "fixed/input/0: got int32[3], expected float32[2]",
        "build it as the card says: shift with {'keys': ['p', 'q']",
    ):
        assert line in str(caught.value)
    assert "learnable/input/p" not in str(caught.value)


def test_files_of_other_kinds_are_refused(tmp_path):
    path, bad = tmp_path / "p.safetensors", tmp_path / "bad.safetensors"
    save(path, trained(), card())
    whole = path.read_bytes()
    for content in (whole[:-3], whole[:30], b"", b"PK\x03\x04 no"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="could not be read as safetensors"):
            load(bad)
    with pytest.raises(ValueError, match="could not be read as safetensors"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="could not be read as safetensors"):
        load(tmp_path)
    for metadata in (None, {"format": "pt"}, {"format": "reprojax program 2"}):
        save_file({"w": np.ones(3)}, bad, metadata)
        with pytest.raises(ValueError, match="not a model's weights"):
            load(bad)


def test_a_card_of_another_version_is_refused(tmp_path):
    written(tmp_path / "p", mood="good")
    with pytest.raises(ValueError, match="differs from this reprojax's") as caught:
        load(tmp_path / "p")
    assert "'mood'" in str(caught.value)


def test_every_flipped_bit_is_noticed(tmp_path):
    save(tmp_path / "p", trained(), card())
    whole = (tmp_path / "p").read_bytes()
    for at in range(0, len(whole), 7):
        data = bytearray(whole)
        data[at] ^= 1
        (tmp_path / "p").write_bytes(data)
        with pytest.raises(ValueError):
            load(tmp_path / "p")


def test_what_cannot_be_kept_is_named_before_anything_is_written(tmp_path):
    path = tmp_path / "p"
    params = Params({"a": jnp.ones(2, jnp.int4), "b": "text", "c": jnp.ones(2)}, ())
    with pytest.raises(ValueError, match="safetensors cannot hold") as caught:
        save(path, params, card())
    assert "learnable/a: int4[2]" in str(caught.value)
    assert "learnable/b: 'text'" in str(caught.value)
    assert "learnable/c" not in str(caught.value)
    with pytest.raises(ValueError, match="the card's arguments is not JSON"):
        save(path, Params(), card(arguments={"init": jnp.sin}))
    with pytest.raises(ValueError, match="two leaves named 'fixed/1'"):
        save(path, Params((), Same()), card())
    assert not list(tmp_path.iterdir())


@jax.tree_util.register_pytree_with_keys_class
class Same:
    """A tree of two leaves whose keys read alike."""

    def tree_flatten_with_keys(self):
        keys = (jax.tree_util.DictKey(1), jax.tree_util.DictKey("1"))
        return tuple((key, jnp.ones(1)) for key in keys), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls()


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    path = Path(tmp_path / "p")
    save(path, trained(), card())
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, Params(), card())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# -- prompts of language models


ROWS = padded(QUERIES, "left")
LABELS = (11, 6, 17)
BLANK = learnable(jax.nn.initializers.zeros)


def prompt_card(language: Any, method: str, **changes: Any) -> Card:
    rest = {
        "arguments": {"labels": LABELS},
        "classes": ("a", "b", "c"),
        "method": method,
    }
    template = "Review: {text} Sentiment: {label}"
    return Card.of(language, **rest | {"template": template} | changes)


@pytest.mark.parametrize(
    "method, recipe, sizes",
    [
        ("prompt-tuning", prompt_tuning, {"length": 3}),
        ("prefix-tuning", prefix_tuning, {"length": 3, "hidden": 8}),
        ("prefix-tuning", prefix_tuning, {"length": 2, "hidden": None}),
        ("loreft", loreft, {"rank": 2, "first": 1, "last": 2}),
        (
            "decomposed-prompt-tuning",
            decomposed_prompt_tuning,
            {"length": 2, "rank": 2, "words": 8},
        ),
        ("black-box-tuning", black_box_tuning, {"length": 3, "size": 4}),
        ("additive-prompt", additive_prompt, {"length": 2}),
    ],
)
def test_a_prompt_answers_the_same_from_its_file(tmp_path, method, recipe, sizes):
    """All of it is kept, an MLP that makes a prefix too: training can go on."""
    language = small("rotary")
    program = recipe(language, label_words(LABELS), **sizes)
    params = program.init(jax.random.key(5), language.frozen, ROWS)
    arguments = {"labels": LABELS, **sizes}
    save(tmp_path / "p", params, prompt_card(language, method, arguments=arguments))
    saved = load(tmp_path / "p", language)
    assert saved.card.template.startswith("Review") and saved.card.size == 0
    again, back = rebuild(saved, language)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    run = lambda program, params: jax.jit(program.apply)(params, language.frozen, ROWS)
    np.testing.assert_array_equal(run(again, back), run(program, params))


def test_a_prompt_with_its_own_head_and_one_that_writes(tmp_path):
    language = small("learned")
    program = p_tuning_v2(language, targets=3, length=2)
    params = program.init(jax.random.key(5), language.frozen, ROWS)
    own = prompt_card(language, "p-tuning-v2", arguments={"length": 2})
    save(tmp_path / "p", params, own)
    _, back = rebuild(load(tmp_path / "p"), language)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    writes = prompt_tuning(language, length=2)
    params = writes.init(jax.random.key(5), language.frozen, ROWS)
    card = prompt_card(language, "prompt-tuning", arguments={"length": 2}, classes=())
    save(tmp_path / "p", params, card)
    again, back = rebuild(load(tmp_path / "p"), language)
    y = jax.eval_shape(again.apply, back, language.frozen, ROWS)
    assert y.value.shape == (3, 2 + 6, 23)


def test_a_prompt_for_another_model_recipe_or_length_is_refused(tmp_path):
    """Before anything is compiled: the weights are not even there."""
    language, path = small("rotary"), tmp_path / "p"
    program = prompt_tuning(language, label_words(LABELS), length=3, initial=BLANK)
    save(
        path,
        program.init(jax.random.key(0), language.frozen, ROWS),
        prompt_card(language, "prompt-tuning", arguments={"length": 3}),
    )
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), language.frozen)
    for other in (small("learned"), language._replace(frozen=half), backbone()):
        with pytest.raises(ValueError, match="for which the program was made"):
            load(path, other)
        with pytest.raises(ValueError, match="for which the program was made"):
            rebuild(load(path), other)
    saved, weights = load(path, language), spec_of(language.frozen)
    longer = prompt_tuning(language, label_words(LABELS), length=4, initial=BLANK)
    with pytest.raises(ValueError, match=r"got float32\[3, 16\], expected .*\[4, 16"):
        saved.params_for(longer, weights, spec_of(ROWS))
    other = prefix_tuning(language, label_words(LABELS), length=3, hidden=None)
    with pytest.raises(ValueError, match="not those of the program") as caught:
        saved.params_for(other, weights, spec_of(ROWS))
    text = str(caught.value)
    assert "block_0~1kv: got nothing, expected float32[4, 3, 2, 4]" in text
    assert "build it as the card says: prompt-tuning with {'length': 3}" in text
    own = saved._replace(card=saved.card._replace(method="prompt-tunning"))
    with pytest.raises(ValueError, match="did you mean 'prompt-tuning'"):
        rebuild(own, language)


def test_a_kept_prompt_goes_on_and_starts_another_recipe(tmp_path):
    """It is where it was: on its task, on another's words, in front of each layer."""
    language, path, site = small("rotary"), tmp_path / "p", "embed:out"
    program = prompt_tuning(language, label_words([0, 1]), length=4)
    curve, params = losses(program, language, METHOD.preset, 60)
    save(path, params, prompt_card(language, "prompt-tuning", arguments={"length": 4}))
    rows = load(path, language).params["learnable"][site]
    on = prompt_tuning(language, label_words([0, 1]), length=4, initial=learnable(rows))
    further, _ = losses(on, language, METHOD.preset, 5)
    x, labels = parity()
    y = program.apply(params, language.frozen, x)
    was = cross_entropy(Seen({"output": y}, labels)).mean()
    np.testing.assert_allclose(further[0], was, rtol=1e-4)
    assert was < curve[0] / 2
    other = prompt_tuning(
        language, label_words(LABELS), initial=learnable(rows), length=4
    )
    begun = other.init(jax.random.key(1), language.frozen, ROWS)
    np.testing.assert_array_equal(begun.learnable[site], rows)
    with pytest.raises(ValueError, match=r"\(4, 16\), expected \(5, 16\)"):
        longer = prompt_tuning(language, initial=learnable(rows), length=5)
        longer.init(jax.random.key(1), language.frozen, ROWS)
    prefix = prefix_tuning(language, length=4, hidden=None)
    params = prefix.init(jax.random.key(2), language.frozen, ROWS)
    save(path, params, prompt_card(language, "prefix-tuning"))
    start = load(path, language).params["learnable"]["block_0/kv"]
    behind = prefix_tuning(language, length=4, hidden=8, start=jnp.asarray(start))
    begun = behind.init(jax.random.key(3), language.frozen, ROWS)
    found = without_mlp(language, begun).learnable["block_0/kv"]
    np.testing.assert_allclose(found, start, atol=1e-4)


# -- what is wrong in a file


def written(path: Path, tensors: Any = None, **fields: Any) -> None:
    """A file with a right checksum, whatever is in it."""
    text = json.dumps(card()._asdict() | fields)
    tensors = programs._tensors(trained()) if tensors is None else tensors
    seal = programs._digest(text, tensors)
    save_file(tensors, path, {"format": programs.FORMAT, "card": text, "sha256": seal})


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_numbers_that_are_not_finite_are_named(tmp_path, wrong, dtype):
    path, one = tmp_path / "p", jnp.ones(3).at[1].set(wrong).astype(dtype)
    params = Params({"a": jnp.ones(2), "b": one}, {"c": one, "d": jnp.arange(2)})
    lines = "fixed/c: 1 of 3 numbers\n  learnable/b: 1 of 3 numbers\nexpected finite"
    with pytest.raises(ValueError, match=lines):
        save(path, params, card())
    assert not path.exists()
    written(path, programs._tensors(params))
    with pytest.raises(ValueError, match=f"/p has leaves that are NaN .*\n  {lines}"):
        load(path)


OTHERS = ("text", 3, 1.5, None, True, ["a"], [1], {"a": 1}, {"a": "b"}, [[1]])
FITTING = {
    "method": ("text",),
    "arguments": ({"a": 1}, {"a": "b"}),
    "backbone": ("text",),
    "fingerprint": ("text",),
    "dtype": ("text",),
    "size": (3,),
    "mean": ([1],),
    "std": ([1],),
    "image": ([1],),
    "classes": (["a"],),
    "template": ("text",),
    "coordinates": (["a"],),
    "split": ({"a": 1}, {"a": "b"}),
    "seed": (3,),
    "metric": ({"a": 1},),
}


def test_each_field_of_a_card_by_each_wrong_type(tmp_path):
    assert set(FITTING) == set(Card._fields)
    for field, fitting in FITTING.items():
        for value in OTHERS:
            written(tmp_path / "p", **{field: value})
            if any(value is fine or repr(value) == repr(fine) for fine in fitting):
                load(tmp_path / "p")
                continue
            with pytest.raises(ValueError, match=rf"of another type .*\$\.{field}"):
                load(tmp_path / "p")
            with pytest.raises(ValueError, match=rf"of another type .*\$\.{field}"):
                save(tmp_path / "q", Params(), card()._replace(**{field: value}))
    with pytest.raises(ValueError, match="the card's metric is not JSON"):
        save(tmp_path / "q", Params(), card(metric={"test": float("nan")}))
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"seed": NaN}', "[" * 10**5])
def test_a_card_that_is_no_object_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setattr(programs, "_text", lambda card: text)
    with pytest.raises(ValueError, match="the card to be saved is"):
        save(tmp_path / "p", Params(), card())


def test_swapped_tensors_and_pipes_are_refused(tmp_path):
    tensors, text = programs._tensors(trained()), json.dumps(card()._asdict())
    tensors["learnable/block_0~1attn:in/q"] = np.ones(4, np.float32)
    seal = programs._digest(text, tensors)
    names = "learnable/block_0~1attn:in/p", "learnable/block_0~1attn:in/q"
    swapped = tensors | {names[0]: tensors[names[1]], names[1]: tensors[names[0]]}
    metadata = {"format": programs.FORMAT, "card": text, "sha256": seal}
    save_file(swapped, tmp_path / "p", metadata)
    with pytest.raises(ValueError, match="its checksum does not match"):
        load(tmp_path / "p")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a named pipe"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize(
    "names", [("other/a",), ("learnable/a", "learnable/a/b"), ("fixed/a/b", "fixed/a")]
)
def test_names_of_no_tree_are_refused(tmp_path, names):
    written(tmp_path / "p", {name: np.ones(2) for name in names})
    with pytest.raises(ValueError, match="got a tensor named"):
        load(tmp_path / "p")


def test_the_same_program_is_the_same_file(tmp_path):
    for name in "abcdef":  # by chance they would rarely all agree
        save(tmp_path / name, trained(), card())
    assert len({(tmp_path / name).read_bytes() for name in "abcdef"}) == 1
    back = load(tmp_path / "a").params_for(PROGRAM, backbone().frozen, X)
    save(tmp_path / "again", back, card())
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a").read_bytes()


def test_a_card_without_a_template_or_a_dtype_is_read(tmp_path, monkeypatch):
    """As cards were written before they had these."""
    old = card()._asdict()
    del old["template"], old["dtype"]
    monkeypatch.setattr(programs, "_text", lambda card: json.dumps(old))
    save(tmp_path / "p", Params(), card())
    assert load(tmp_path / "p").card == card()
    del old["fingerprint"]
    text = json.dumps(old)
    metadata = {"format": programs.FORMAT, "card": text}
    save_file({}, tmp_path / "p", metadata | {"sha256": programs._digest(text, {})})
    with pytest.raises(ValueError, match=r"differs .* in \['fingerprint'\]"):
        load(tmp_path / "p")
