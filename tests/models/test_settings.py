"""What files beside weights say is used, known to be harmless, or refused."""

import json
import re

import jax
import model_files as files
import numpy as np
import pytest
from safetensors.numpy import save_file

from reprojax.models import images, load

VIT = {"architecture": "vit", "model_args": {"num_heads": 2}}
DINO3 = {"model_type": "dinov3_vit", "num_attention_heads": 2}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def folder(path, name="vit", config=VIT, looks=None):
    """One of the small models with what may lie beside it."""
    path.mkdir(exist_ok=True)
    tensors = files.dinov3() if name == "dinov3" else files.MODELS[name]()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    if looks is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(looks))
    return path


@pytest.mark.parametrize("name", ["vit", "resnet", "convnext", "swin", "beit"])
def test_a_bare_file_of_a_family_of_many_wants_its_name(tmp_path, name):
    """ResNets that blur where they stride, and ViTs of other heads, have its shapes."""
    with pytest.raises(ValueError, match=r"without a name .*load\(..., architecture="):
        load(files.write(tmp_path, name))
    other = {
        "vit": "vit_base_patch16_rpn_224",
        "resnet": "resnetaa50.a1h_in1k",
        "convnext": "convnext_tiny_hnf",
        "swin": "swinv2_tiny_window8_256",
        "beit": "beit3_base_patch16_224",
    }[name]
    with pytest.raises(ValueError, match=f"is a {other!r} in the tensor names"):
        load(files.write(tmp_path, name), architecture=other)


@pytest.mark.parametrize(
    "name, config, message",
    [
        ("resnet", {"architecture": "resnetaa50"}, "is a 'resnetaa50' in the tensor"),
        ("resnet", {"architecture": "resnet50", "global_pool": "max"}, "global_pool"),
        (
            "resnet",
            {"architecture": "resnet50", "model_args": {"output_stride": 8}},
            r"model_args .*\{'output_stride': 8\}.*ignore=\['output_stride'\]",
        ),
        ("resnet", {"model_type": "resnet", "hidden_act": "gelu"}, "hidden_act"),
        ("vit", VIT | {"is_encoder_decoder": True}, "is_encoder_decoder = True"),
        ("convnext", {"architecture": "convnext_xxlarge"}, "is a 'convnext_xxlarge'"),
        ("convnext", {"model_type": "convnext", "hidden_act": "relu"}, "hidden_act"),
        (
            "convnext",
            {"architecture": "convnext_tiny", "model_args": {"head_norm_first": True}},
            "head_norm_first",
        ),
        ("swin", {"model_type": "swinv2"}, "is a 'swinv2'"),
        ("swin", {"model_type": "swin", "use_absolute_embeddings": True}, "absolute"),
        (
            "swin",
            {"architecture": "swin", "model_args": {"always_partition": True}},
            "always_partition",
        ),
        (
            "swin",
            {"architecture": "swin", "model_args": {"window_size": [1, 5]}},
            "expected squares",
        ),
        ("beit", {"model_type": "data2vec-vision"}, "is a 'data2vec-vision'"),
        (
            "beit",
            {"model_type": "beit", "use_shared_relative_position_bias": True},
            "use_shared",
        ),
        ("beit", {"architecture": "beit", "global_pool": "token"}, "global_pool"),
        ("dinov3", DINO3 | {"mlp_bias": False}, "mlp_bias"),
        ("dinov3", DINO3 | {"hidden_act": "relu"}, "hidden_act"),
        ("dinov3", DINO3 | {"rope_scaling": {"x": 1}}, "not known here"),
        ("mobilenet", {"model_type": "mobilenet_v1"}, "is a 'mobilenet_v1'"),
        (
            "mobilenet",
            {"model_type": "mobilenet_v2", "output_stride": 16},
            "output_stride = 16",
        ),
        ("vit", VIT | {"interpolate_offset": 0.1}, "interpolate_offset = 0.1"),
        ("vit", {"model_type": "vit_mae"}, "is a 'vit_mae'"),
        ("vit", VIT | {"architectures": ["ViTForMaskedImageModeling"]}, "was saved as"),
        ("vit", VIT | {"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
        ("vit", VIT | {"rope": True}, r"not known here: \{'rope': True\}"),
        ("vit", VIT | {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("vit", {"architecture": "vit"}, "width 128 with no heads"),
        ("vit", VIT | {"layer_norm_eps": 0}, r"> 0.0 - at `\$.layer_norm_eps`"),
        ("vit", VIT | {"num_hidden_layers": 2**40}, r"at `\$.num_hidden_layers`"),
        ("vit", VIT | {"num_hidden_layers": 2**30}, "layers with .* tensors"),
        ("vit", VIT | {"num_hidden_layers": "2"}, "got `str`"),
        ("vit", VIT | {"model_args": [4]}, r"got `array` - at `\$.model_args`"),
        ("vit", VIT | {"id2label": {"0": "a", "2": "b"}}, "one for each number from 0"),
        ("vit", VIT | {"id2label": ["a"]}, r"got `array` - at `\$.id2label`"),
        ("vit", [], "Expected `object`, got `array`"),
    ],
)
def test_what_would_be_another_model_is_refused(tmp_path, name, config, message):
    with pytest.raises(ValueError, match=message):
        load(folder(tmp_path / "m", name, config))


def test_settings_that_are_used_or_harmless(tmp_path):
    config = VIT | {"layer_norm_eps": 0.5, "hidden_dropout_prob": 0.1, "_mine": 1}
    model = load(folder(tmp_path / "m", config=config))
    plain = load(folder(tmp_path / "plain"))
    x = files.photos(16)
    y, z = (m.forward(m.frozen, x) for m in (model, plain))
    assert np.abs(y - z).max() > 0.01  # the epsilon
    config |= {"rope": True}
    again = load(folder(tmp_path / "m", config=config), ignore=["rope"])
    np.testing.assert_array_equal(again.forward(again.frozen, x), y)


def _twice(x):
    return (x * 2 / 255 - 0.5) / 0.5


@pytest.mark.parametrize(
    "looks, expected",
    [
        (HALF, lambda x: x / 127.5 - 1),
        (HALF | {"do_normalize": False}, lambda x: x / 255),
        (HALF | {"include_top": True}, lambda x: (x / 255 - 0.5) / 0.25),
        (
            HALF | {"include_top": True, "do_normalize": False},
            lambda x: x / 255 / 0.5,
        ),
        (HALF | {"do_rescale": False}, lambda x: (x - 0.5) / 0.5),
        (HALF | {"do_rescale": True, "rescale_factor": 2 / 255}, _twice),
        ({"do_rescale": False, "do_normalize": False}, lambda x: 1.0 * x),
    ],
)  # fmt: skip
def test_pixels_are_what_the_processor_makes_of_them(tmp_path, looks, expected):
    model = load(folder(tmp_path / "m", looks=looks))
    x = files.photos(16)
    mine = (x / 255 - np.array(model.input.mean)) / np.array(model.input.std)
    np.testing.assert_allclose(mine, expected(x.astype(float)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "looks, message",
    [
        (HALF | {"image_std": [0.5, 0.5, 0]}, "the std positive"),
        (HALF | {"image_mean": [0.5]}, "three finite numbers"),
        (HALF | {"image_mean": 0.5}, r"got `float` - at `\$.image_mean`"),
        (HALF | {"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"include_top": True}, "include_top without image_std"),
        (HALF | {"do_sharpen": True}, "'do_sharpen': True"),
        (HALF | {"size": {"height": 16, "width": 24}}, r"images of \[16, 24\]"),
        ({"size": {"height": "16"}}, "preprocessor_config.json is JSON of another"),
    ],
)
def test_processors_that_are_refused(tmp_path, looks, message):
    with pytest.raises(ValueError, match=message):
        load(folder(tmp_path / "m", looks=looks))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0])
def test_constants_are_finite(wrong):
    for mean, std in (((wrong or np.nan,) * 3, (1.0,) * 3), ((0.0,) * 3, (wrong,) * 3)):
        with pytest.raises(ValueError, match="three finite numbers"):
            images(lambda frozen, x, edit: x, 4, mean, std)


# -- the tensors


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_weights_that_are_not_finite_are_named(tmp_path, wrong, stored):
    tensors = {name: value.astype(stored) for name, value in files.resnet().items()}
    tensors["layer2.0.bn1.running_var"][3] = wrong
    save_file(tensors, tmp_path / "m.safetensors")
    message = r"m.safetensors holds layer2.0.bn1.running_var with 1 of 16 numbers NaN"
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m.safetensors", architecture="resnet18")


@pytest.mark.parametrize("kind", ["I8", "U8", "F8_E4M3", "F8_E5M2"])
def test_eight_bits_are_refused(tmp_path, kind):
    """They stand for numbers that a scale elsewhere makes of them."""
    data = files.cifar()["conv1.weight"]
    header = {
        "conv1.weight": {
            "dtype": kind, "shape": data.shape, "data_offsets": [0, data.size]
        }
    }  # fmt: skip
    text = json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data.size))
    with pytest.raises(
        ValueError, match=rf"conv1.weight as {kind}, expected F16, BF16"
    ):
        load(path)


def test_headers_that_lie(tmp_path):
    """About lengths, places and shapes: ends at once, with the file's name."""
    path = tmp_path / "m.safetensors"
    for size, shape, end in (
        (2**40, [4], 16),
        (None, [2**40], 16),
        (None, [4], 2**40),
        (None, [0, 2**40], 0),
        (None, [-1], 16),
    ):
        its = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
        text = json.dumps({"conv1.weight": its}).encode()
        head = (size or len(text)).to_bytes(8, "little")
        path.write_bytes(head + text + bytes(min(end, 16)))
        with pytest.raises(ValueError, match="m.safetensors (could not|holds)"):
            load(path)


def test_numbers_in_names_that_lie(tmp_path):
    tensors = files.vit()
    tensors[f"blocks.{2**40}.norm1.bias"] = tensors["blocks.0.norm1.bias"]
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="expected some for each layer"):
        load(tmp_path / "m.safetensors", **files.TOLD["vit"])


def test_tensors_of_another_rank_are_listed(tmp_path):
    for name in ("vit", "resnet", "cifar", "mobilenet"):
        tensors = files.MODELS[name]()
        first = next(n for n in tensors if n.endswith("weight"))
        tensors[first] = np.ones(3, np.float32)
        save_file(tensors, tmp_path / "m.safetensors")
        with pytest.raises(ValueError, match=rf"{first} is \[3\]"):
            load(tmp_path / "m.safetensors", **files.TOLD[name])


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.model.module."]
)
def test_prefixes_in_any_order(tmp_path, prefix):
    tensors = {prefix + name: value for name, value in files.cifar().items()}
    save_file(tensors, tmp_path / "m.safetensors")
    wrapped, plain = (
        load(tmp_path / "m.safetensors"),
        load(files.write(tmp_path, "cifar")),
    )
    jax.tree.map(np.testing.assert_array_equal, wrapped.frozen, plain.frozen)


def test_layers_that_were_compiled_one_by_one(tmp_path):
    names = lambda name: re.sub(r"^(layer\d\.\d)\.", r"\1._orig_mod.", name)
    tensors = {names(name): value for name, value in files.cifar().items()}
    save_file(tensors, tmp_path / "m.safetensors")
    wrapped, plain = (
        load(tmp_path / "m.safetensors"),
        load(files.write(tmp_path, "cifar")),
    )
    jax.tree.map(np.testing.assert_array_equal, wrapped.frozen, plain.frozen)


def test_two_models_in_one_file(tmp_path):
    tensors = files.cifar()
    tensors |= {
        f"module.{name}": np.array(value + 1) for name, value in tensors.items()
    }
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="holds a second tensor .*expected one"):
        load(tmp_path / "m.safetensors")


# -- which file


@pytest.mark.parametrize("name", ["../own.safetensors", "/x/own.safetensors", "a/../b"])
def test_an_index_reads_its_folder_alone(tmp_path, name):
    path = files.write_shards(tmp_path / "m", files.cifar())
    save_file(files.cifar(), tmp_path / "own.safetensors")
    index = {"weight_map": {"conv1.weight": name}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"names .*{name}.*files of that folder"):
        load(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not whole, valid JSON"),
        ('{"weight_map": {"a"', "not whole, valid JSON"),
        ("[]", "got `array`"),
        ("{}", "missing required field `weight_map`"),
        ('{"weight_map": null}', "got `null`"),
        ('{"weight_map": {"a": 3}}', "got `int`"),
        ('{"weight_map": ' + '{"a":' * 10**5, "index.json"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, message):
    path = files.write_shards(tmp_path / "m", files.cifar())
    (path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(path)


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "pytorch_model.bin",
            r"\['pytorch_model.bin'\].*not read here.*save_pretrained",
        ),
        ("tf_model.h5", "not read here"),
        ("adapter_model.safetensors", "an adapter is no model: merge it"),
    ],
)
def test_weights_in_other_formats_say_what_to_do(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_the_whole_file_comes_before_an_index(tmp_path):
    """As in transformers: the shards may be those of an older run."""
    path = files.write_shards(tmp_path / "m", files.cifar())
    save_file(
        files.cifar() | {"linear.bias": np.ones(5, np.float32)},
        path / "model.safetensors",
    )
    (path / "model-00001-of-00003.safetensors").unlink()
    assert float(load(path).frozen["params"]["head"]["bias"][0]) == 1.0
