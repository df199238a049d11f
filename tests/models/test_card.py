"""Cards: random weights as a control, and fingerprints."""

import jax
import jax.numpy as jnp
import model_files as files
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from reprojax.core import record
from reprojax.core.trees import fingerprint
from reprojax.models import card, language, load, random


def leaves(frozen):
    return flatten_dict(frozen["params"], sep="/")


@pytest.fixture(params=sorted(files.MODELS))
def model(request, tmp_path):
    name = request.param
    return load(files.write(tmp_path, name), size=files.SIZES[name], **files.TOLD[name])


def test_random_weights_keep_the_shapes_and_nothing_else(model):
    x = files.photos(model.input.size, 8)
    key = jax.random.key(0)
    drawn, again = random(model, key, x), random(model, key, x)
    old, new = leaves(model.frozen), leaves(drawn.frozen)
    assert drawn.name == f"{model.name} (random weights)"
    assert {n: (v.shape, v.dtype) for n, v in old.items()} == {
        n: (v.shape, v.dtype) for n, v in new.items()
    }
    assert not any(np.array_equal(old[name], new[name]) for name in old)
    jax.tree.map(np.testing.assert_array_equal, drawn.frozen, again.frozen)


def test_random_kernels_are_as_wide_as_their_fan_in_asks(tmp_path):
    model = load(files.write(tmp_path, "vit"), **files.TOLD["vit"])
    new = leaves(random(model, jax.random.key(0)).frozen)
    other = leaves(random(model, jax.random.key(1)).frozen)
    assert not np.allclose(other["head/kernel"], new["head/kernel"])
    for name, fan_in in (
        ("block_0/attention/query/kernel", 128),
        ("block_0/mlp/down/kernel", 32),
        ("patches/kernel", 192 / 2),  # He: twice the variance
    ):
        np.testing.assert_allclose(new[name].std(), fan_in**-0.5, rtol=0.05)


@pytest.mark.parametrize("name", ["resnet", "cifar"])
def test_batch_statistics_are_those_of_the_data(tmp_path, name):
    model = load(
        files.write(tmp_path, name), size=files.SIZES[name], **files.TOLD[name]
    )
    x = files.photos(model.input.size, 8)
    drawn = random(model, jax.random.key(0), x)
    new = leaves(drawn.frozen)
    norms = [path.removesuffix("/mean") for path in new if path.endswith("/mean")]
    assert len(norms) == (12 if name == "resnet" else 7)
    _, seen = record(drawn.forward, [f"{n}:in" for n in norms])(drawn.frozen, x)
    for norm in norms:
        value = np.asarray(seen[f"{norm}:in"])
        mean, var = value.mean((0, 1, 2)), value.var((0, 1, 2))
        scale = np.sqrt(var.max())
        np.testing.assert_allclose(new[f"{norm}/mean"], mean, atol=1e-3 * scale)
        np.testing.assert_allclose(new[f"{norm}/var"], var, rtol=1e-2)


def test_folded_batch_norms_are_set_on_data_too(tmp_path):
    model = load(files.write(tmp_path, "mobilenet"), size=32)
    x = files.photos(32, 8)
    drawn = random(model, jax.random.key(0), x)
    places = [f"block_{i}/depthwise:out" for i in range(17)] + ["top:out"]
    _, seen = record(drawn.forward, places)(drawn.frozen, x)
    for value in map(np.asarray, seen.values()):
        alive = value.std((0, 1, 2)) > 0.1  # a place of one pixel may not vary
        np.testing.assert_allclose(value.mean((0, 1, 2)), 0, atol=1e-3)
        np.testing.assert_allclose(value.std((0, 1, 2))[alive], 1, atol=1e-2)


def test_without_data_there_are_no_statistics(tmp_path):
    for name in ("resnet", "cifar", "mobilenet"):
        model = load(files.write(tmp_path, name), **files.TOLD[name])
        with pytest.raises(ValueError, match=r"call random\(model, key, x\)"):
            random(model, jax.random.key(0))


def test_a_fingerprint_is_of_every_bit_name_and_type():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.ones(2)}}
    own = fingerprint(tree)
    assert own == fingerprint({"b": {"c": np.ones(2, np.float32)}, "a": tree["a"]})
    assert len(own) == 64 and int(own, 16)
    others = [
        tree | {"a": tree["a"].at[1, 2].set(5.0000005)},
        tree | {"a": tree["a"].reshape(3, 2)},
        tree | {"a": tree["a"].astype(jnp.bfloat16)},
        {"a": tree["a"], "b": {"d": jnp.ones(2)}},
        {"a": tree["a"]},
    ]
    assert len({own, *map(fingerprint, others)}) == 6


def test_a_language_model_has_a_card_in_one_call():
    own = language.load("abacus")
    named = {"features": own.roles["features"][0], "blocks": "block_*:in"}
    made = card(own.forward, own.frozen, name="own", input=own.input, **named)
    assert made.width == own.width and made.classes == ()
    assert made.roles["features"] == own.roles["features"]
    assert made.roles["blocks"] == own.roles["blocks"]
    with pytest.raises(ValueError, match="or of Tokens"):
        card(
            own.forward, own.frozen, name="own", input=own.input, features="block_*:in"
        )
