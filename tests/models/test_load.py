"""`load` on small files: what it makes of good ones, and what it says of bad ones."""

import json

import jax
import jax.numpy as jnp
import model_files as files
import numpy as np
import pytest
from safetensors.numpy import save_file

from reprojax.core import record, reprogram, sites
from reprojax.formats import learnable
from reprojax.models import load, names
from reprojax.models.vision.sizes import patch, transformer_blocks
from reprojax.operators import insert

VIT = files.TOLD["vit"]


@pytest.fixture(params=sorted(files.MODELS))
def model(request, tmp_path):
    name = request.param
    size = files.SIZES[name]
    return load(files.write(tmp_path, name), size=size, **files.TOLD[name])


def test_sites_come_in_order_and_roles_are_among_them(model):
    x = files.photos(model.input.size)
    found = sites(model.forward, model.frozen, x)
    order = list(found)
    assert order[:2] == ["input", "normalized"] and order[-1] == "output"
    assert found["output"] == (2, 5) == (2, len(model.classes))
    wanted = [site for role in model.roles.values() for site in role]
    assert set(wanted) <= set(order)
    along = [order.index(site) for site in model.roles["blocks"]]
    assert along == sorted(along) and len(along) >= 2
    assert model.roles["embedding"] == model.roles["blocks"][:1]
    (features,) = model.roles["features"]
    assert len(found[features]) == 2


def test_keys_and_values_have_heads(tmp_path):
    model = load(files.write(tmp_path, "vit"), **VIT)
    found = sites(model.forward, model.frozen, files.photos(16))
    for role in ("keys", "values"):
        assert len(model.roles[role]) == 2
        assert {found[site] for site in model.roles[role]} == {(2, 5, 2, 64)}


def test_uint8_equals_floats_and_normalisation_is_the_cards(model):
    x = files.photos(model.input.size)
    _, seen = record(model.forward, ["input", "normalized"])(model.frozen, x)
    assert seen["input"].dtype == jnp.uint8
    expected = (x / 255 - np.array(model.input.mean)) / np.array(model.input.std)
    np.testing.assert_allclose(seen["normalized"], expected, rtol=1e-5, atol=1e-5)
    y = model.forward(model.frozen, x)
    floats = model.forward(model.frozen, x.astype(np.float32) / 255)
    np.testing.assert_allclose(y, floats, rtol=1e-5, atol=1e-5)


def test_bfloat16_in_bfloat16_out(model):
    # rounded once more a layer: close to float32, and nothing is promoted back
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.frozen)
    x = files.photos(model.input.size)
    places = ["normalized", *model.roles["blocks"], *model.roles["features"]]
    y, seen = record(model.forward, places)(half, x)
    assert {value.dtype for value in seen.values()} == {jnp.dtype(jnp.bfloat16)}
    exact = model.forward(model.frozen, x)
    assert y.dtype == jnp.bfloat16
    assert float(jnp.abs(y - exact).max()) < 0.1 * float(jnp.abs(exact).max())


def test_load_casts(tmp_path):
    path = files.write(tmp_path, "cifar")
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(load(path).frozen)}
    assert dtypes == {jnp.dtype(jnp.float32)}
    half = load(path, dtype=jnp.bfloat16)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(half.frozen)}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    for wrong in (jnp.int8, "half", "no type"):
        with pytest.raises(ValueError, match="expected jnp.float32 or jnp.bfloat16"):
            load(path, dtype=wrong)


@pytest.mark.parametrize("stored", [np.float16, jnp.bfloat16])
def test_sixteen_bit_files_are_read(tmp_path, stored):
    tensors = {name: value.astype(stored) for name, value in files.vit().items()}
    save_file(tensors, tmp_path / "half.safetensors")
    frozen = load(tmp_path / "half.safetensors", **VIT).frozen["params"]
    expected = tensors["head.weight"].astype(np.float32).T
    np.testing.assert_array_equal(frozen["head"]["kernel"], expected)


def test_every_misfit_is_listed_in_one_error(tmp_path):
    tensors = files.vit()
    del tensors["norm.bias"], tensors["blocks.1.attn.qkv.weight"]
    tensors["head.bias"] = np.zeros(7, np.float32)
    tensors["blocks.0.mlp.fc2.weight"] = np.zeros((128, 31), np.float32)
    tensors["blocks.0.attn.relative"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "bad.safetensors", **VIT)
    lines = dict(
        line.strip().split(": ") for line in str(caught.value).split("\n")[1:-1]
    )
    assert lines["missing"] == "blocks.1.attn.qkv.weight, norm.bias"
    assert lines["unexpected"] == "blocks.0.attn.relative"
    assert (
        "blocks.0.mlp.fc2.weight is [128, 31], expected [128, 32]"
        in (lines["misshaped"])
    )
    assert "head.bias is [7], expected [5]" in lines["misshaped"]


@pytest.mark.parametrize("name", sorted(files.MODELS))
@pytest.mark.parametrize("which", [0, 1, 2, -2, -1])
def test_any_one_tensor_may_be_the_missing_one(tmp_path, name, which):
    tensors = files.MODELS[name]()
    gone = [n for n in tensors if not n.endswith("tracked")][which]
    del tensors[gone]
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=f"missing: .*{gone}"):
        load(tmp_path / "bad.safetensors", **files.TOLD[name])


def test_files_that_are_none(tmp_path):
    path = files.write(tmp_path, "vit")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    text = tmp_path / "text.safetensors"
    text.write_text("not weights at all")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for bad in (cut, text, empty):
        with pytest.raises(ValueError, match=f"{bad.name} could not be read"):
            load(bad)
    other = tmp_path / "other.safetensors"
    save_file({"encoder.layer.0.attention.self.query.weight": np.zeros((2, 2))}, other)
    with pytest.raises(ValueError, match="none of the known architectures") as caught:
        load(other)
    labels = (
        "ViT",
        "DINOv2",
        "ResNet",
        "CIFAR",
        "MobileNetV2",
        "ConvNeXt",
        "Swin",
        "BEiT",
        "DINOv3",
        "EfficientNet",
    )
    for known in (*labels, "attention.self"):
        assert known in str(caught.value)


def test_shards_equal_one_file(tmp_path):
    tensors = files.vit()
    folder = files.write_shards(tmp_path / "shards", tensors)
    sharded = load(folder, **VIT)
    whole = load(files.write(tmp_path, "vit"), **VIT)
    jax.tree.map(np.testing.assert_array_equal, sharded.frozen, whole.frozen)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks .*model-00002-of-00003"):
        load(folder)


def test_what_a_folder_says_beside_the_weights(tmp_path):
    save_file(files.vit(), tmp_path / "model.safetensors")
    labels = {str(i): f"bird {i}" for i in (3, 1, 0, 2, 4)}
    config = {"num_attention_heads": 4, "id2label": labels, "architecture": "vit"}
    looks = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(looks))
    model = load(tmp_path)
    assert model.classes == tuple(f"bird {i}" for i in range(5))
    assert (model.input.mean, model.input.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert model.input.size == 32 and model.name == tmp_path.name
    found = sites(model.forward, model.frozen, files.photos(32))
    assert found["block_0/attention/key:out"] == (2, 17, 4, 32)
    own = load(tmp_path, classes="abcde", size=16, mean=(0.0, 0.0, 0.0), heads=2)
    assert (
        own.classes == tuple("abcde")
        and own.input.size == 16
        and own.input.mean == (0, 0, 0)
    )
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not whole, valid JSON"):
        load(tmp_path)


def test_timm_says_it_in_its_own_config(tmp_path):
    save_file(files.vit(), tmp_path / "model.safetensors")
    looks = {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 24, 24]}
    arguments = {"num_heads": 4, "img_size": [24, 24], "global_pool": "token"}
    config = {"architecture": "vit_small_patch16_224.of_mine", "pretrained_cfg": looks}
    config |= {"num_classes": 5, "model_args": arguments, "global_pool": "token"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load(tmp_path)
    assert (model.input.size, model.input.mean, model.input.std) == (
        24,
        (0.1,) * 3,
        (0.2,) * 3,
    )


def test_a_model_without_a_head_gives_its_features(tmp_path):
    tensors = {n: v for n, v in files.vit().items() if not n.startswith("head")}
    save_file(tensors, tmp_path / "bare.safetensors")
    model = load(tmp_path / "bare.safetensors", **VIT)
    y, seen = record(model.forward, ["head:in"])(model.frozen, files.photos(16))
    assert model.classes == () and y.shape == (2, 128)
    np.testing.assert_array_equal(y, seen["head:in"])


def test_wrappers_prefixes_are_taken_off(tmp_path):
    tensors = {f"module.{name}": value for name, value in files.resnet().items()}
    save_file(tensors, tmp_path / "wrapped.safetensors")
    wrapped = load(tmp_path / "wrapped.safetensors", **files.TOLD["resnet"])
    plain = load(files.write(tmp_path, "resnet"), **files.TOLD["resnet"])
    jax.tree.map(np.testing.assert_array_equal, wrapped.frozen, plain.frozen)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(classes=["a"]), "1 class names .* 5 classes"),
        (dict(mean=(0.5,)), "three finite numbers"),
        (dict(std=(0.5, 0.5, 0.0)), "std positive"),
        (dict(heads=3), "width 128 with 3 heads"),
        (dict(size=20), "size 20 for patches of 8 pixels"),
        (dict(size=0), "size 0"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says):
        load(files.write(tmp_path, "vit"), **VIT | wrong)


def test_a_convnext_of_fewer_pixels_than_it_divides_by(tmp_path):
    path = files.write(tmp_path, "convnext")
    with pytest.raises(ValueError, match="size 7 for a ConvNeXt .* at least 8"):
        load(path, size=7, **files.TOLD["convnext"])


@pytest.mark.parametrize("extra", ["registers", "a distilled token"])
def test_inserted_tokens_take_no_other_tokens_place(tmp_path, extra):
    """Where attention mixes nothing, a prompt after the class token is not read."""
    tensors, name = files.vit(), "vit_small_patch14_reg4_dinov2"
    for end in ("weight", "bias"):
        for i in range(2):
            tensors[f"blocks.{i}.attn.proj.{end}"] *= 0
    if extra == "registers":
        tensors["reg_token"] = np.ones((1, 4, 128), np.float32)
    else:
        name = "deit_tiny_distilled_patch16_224"
        tensors |= files.vit_head("head_dist", 128)
        tensors["dist_token"] = np.full((1, 1, 128), 0.5, np.float32)
        tensors["pos_embed"] = np.linspace(-1, 1, 6 * 128).reshape(1, 6, 128) ** 3
    save_file(tensors, tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors", architecture=name, heads=2)
    assert model.input.size == 16 and patch(model) == 8
    prompt = insert(learnable(jax.nn.initializers.normal(1.0)), 3, at=1)
    program = reprogram(model.forward, {"block_0:in": prompt})
    x = files.photos(16)
    params = program.init(jax.random.key(0), model.frozen, x)
    y = program.apply(params, model.frozen, x)
    np.testing.assert_allclose(y, model.forward(model.frozen, x), atol=1e-5)


def test_an_efficientnet_wants_its_stages(tmp_path):
    """Strides are in no shape."""
    tensors = {"encoder.top_conv.weight": np.ones((4, 4, 1, 1), np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"model_type": "efficientnet", "depth_coefficient": 1.0}
    for more, says in (
        ({}, "expected all three, .* config.json"),
        ({"num_block_repeats": [1, 2], "strides": [1]}, "one of each for a stage"),
        ({"num_block_repeats": [2**30], "strides": [1]}, "layers with 1 tensors"),
        ({"num_block_repeats": [1], "strides": [3]}, "`int` <= 2"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"pooling_type": "max"}, "pooling_type"),
        ({"num_block_repeats": [1], "strides": [2]}, "missing: .*block.*squeeze"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | more))
        with pytest.raises(ValueError, match=says):
            load(tmp_path)
    with pytest.raises(ValueError, match="without a name of its architecture"):
        load(tmp_path / "model.safetensors")


def test_a_dinov3_gives_its_class_token_at_any_size(tmp_path):
    tensors = files.dinov3()
    save_file(tensors, tmp_path / "m.safetensors")
    told = dict(architecture="dinov3_vit", heads=2)
    for size in (16, 24):
        model = load(tmp_path / "m.safetensors", size=size, **told)
        found = sites(model.forward, model.frozen, files.photos(size))
        length = 3 + (size // 8) ** 2
        assert found["output"] == (2, 16) and model.classes == ()
        assert {found[site] for site in model.roles["keys"]} == {(2, length, 2, 8)}
        assert found[model.roles["blocks"][0]] == (2, length, 16)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.frozen)
    assert jax.eval_shape(model.forward, half, files.photos(24)).dtype == jnp.bfloat16
    for wrong, says in (
        (dict(size=20), "size 20 for patches of 8"),
        (dict(heads=3), "width 16 with 3 heads"),
        (dict(heads=None), "with no heads, expected .*heads=..."),
        (dict(architecture="dinov2"), "is a 'dinov2' in the tensor names"),
        (dict(architecture=None), "without a name of its architecture"),
    ):
        with pytest.raises(ValueError, match=says):
            load(tmp_path / "m.safetensors", **told | wrong)
    tensors["classifier.weight"] = np.ones((5, 16), np.float32)
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="unexpected: classifier.weight"):
        load(tmp_path / "m.safetensors", **told)


def test_two_heads_of_a_distilled_model_are_one(tmp_path):
    """Their mean, as one head that reads both tokens."""
    tensors = files.vit() | files.vit_head("head_dist", 128)
    tensors["dist_token"] = np.ones((1, 1, 128), np.float32)
    tensors["pos_embed"] = np.ones((1, 6, 128), np.float32)
    save_file(tensors, tmp_path / "m.safetensors")
    name = "deit_tiny_distilled_patch16_224"
    model = load(tmp_path / "m.safetensors", architecture=name, heads=2)
    _, seen = record(model.forward, ["head:in"])(model.frozen, files.photos(16))
    assert seen["head:in"].shape == (2, 256)
    del tensors["head_dist.bias"]
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"unexpected: head_dist.weight"):
        load(tmp_path / "m.safetensors", architecture=name, heads=2)


@pytest.mark.parametrize("size", [10, 12])
def test_windows_of_a_swin_fill_its_grids(tmp_path, size):
    path = files.write(tmp_path, "swin")
    with pytest.raises(ValueError, match=rf"size {size} for a Swin .* \(2, 2\) places"):
        load(path, size=size, **files.TOLD["swin"])


def test_windows_of_a_swin_are_squares(tmp_path):
    tensors = files.swin()
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    tensors[name] = np.zeros((15, 2), np.float32)
    save_file(tensors, tmp_path / "swin.safetensors")
    with pytest.raises(ValueError, match="15 biases, .*expected a square number"):
        load(tmp_path / "swin.safetensors", **files.TOLD["swin"])
    tensors[name] = np.zeros((9, 3), np.float32)
    save_file(tensors, tmp_path / "swin.safetensors")
    with pytest.raises(ValueError, match=r"\(8, 16\) with \(3, 4\) heads"):
        load(tmp_path / "swin.safetensors", **files.TOLD["swin"])


def test_a_swins_mask_of_older_files_is_passed_over(tmp_path):
    tensors = files.swin()
    tensors["layers.0.blocks.1.attn_mask"] = np.zeros((4, 4, 4), np.float32)
    at = "layers.0.blocks.1.attn.relative_position_index"
    tensors[at] = np.zeros((4, 4), np.int64)
    save_file(tensors, tmp_path / "old.safetensors")
    old = load(tmp_path / "old.safetensors", **files.TOLD["swin"])
    new = load(files.write(tmp_path, "swin"), **files.TOLD["swin"])
    jax.tree.map(np.testing.assert_array_equal, old.frozen, new.frozen)


def test_no_token_can_be_put_into_a_swin(tmp_path):
    model = load(files.write(tmp_path, "swin"), **files.TOLD["swin"])
    with pytest.raises(ValueError, match="is no transformer with tokens .*a Swin"):
        transformer_blocks(model)


def test_a_response_norm_of_a_channel_that_is_zero_has_a_gradient(tmp_path):
    """A GELU of a large negative number is 0; the root has no slope there."""
    tensors = files.convnext()
    for stage, width in ((0, 32), (1, 48)):
        at = f"stages.{stage}.blocks.0."
        del tensors[at + "gamma"]
        tensors[at + "mlp.grn.weight"] = np.ones(width, np.float32)
        tensors[at + "mlp.grn.bias"] = np.ones(width, np.float32)
        tensors[at + "mlp.fc1.bias"][0] = -100
    save_file(tensors, tmp_path / "second.safetensors")
    model = load(tmp_path / "second.safetensors", size=8, architecture="convnextv2")
    x = files.photos(8) / np.float32(255)
    total = lambda x: model.forward(model.frozen, x).sum()
    slope = np.asarray(jax.jit(jax.grad(total))(x))
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_names_that_are_none(tmp_path):
    for name in names():
        assert load(name).name == name
    with pytest.raises(ValueError, match="'vit_tiny'; expected 'glyphs', a .safeten"):
        load("vit_tiny")
    with pytest.raises(ValueError, match="no file or folder .*lost.safetensors"):
        load(tmp_path / "lost.safetensors")
    with pytest.raises(ValueError, match=r"holds \[\] of safetensors"):
        load(tmp_path)


@pytest.mark.parametrize(
    "x, says",
    [
        (np.zeros((2, 20, 20, 3), np.uint8), r"\[2, 20, 20, 3\].*put resize\(16\)"),
        (np.zeros((2, 16, 16, 1), np.uint8), r"expected \[batch, 16, 16, 3\]"),
        (np.zeros((16, 16, 3), np.uint8), r"expected \[batch, 16, 16, 3\]"),
        (np.zeros((2, 16, 16, 3), np.int32), "dtype int32, expected uint8 or floats"),
    ],
)
def test_images_that_do_not_fit(tmp_path, x, says):
    model = load(files.write(tmp_path, "vit"), **VIT)
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(model.forward, model.frozen, x)


def test_positions_of_another_grid(tmp_path):
    tensors = files.vit()
    tensors["pos_embed"][:, 1:] = np.arange(128) / 100  # the same everywhere
    save_file(tensors, tmp_path / "even.safetensors")
    small, large = (
        load(tmp_path / "even.safetensors", size=s, **VIT) for s in (16, 56)
    )
    few, many = (m.frozen["params"]["positions"] for m in (small, large))
    assert few.shape == (1, 5, 128) and many.shape == (1, 50, 128)
    np.testing.assert_array_equal(few[:, 0], many[:, 0])
    np.testing.assert_allclose(many[0, 1:], np.tile(few[0, 1], (49, 1)), rtol=1e-5)
    assert large.forward(large.frozen, files.photos(56)).shape == (2, 5)
