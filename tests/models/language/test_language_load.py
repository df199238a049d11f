"""`language.load` on small folders: what it makes of good ones, what it says of bad."""

import json

import jax
import jax.numpy as jnp
import language_files as files
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reprojax import reprogram
from reprojax.core import padded, passthrough, sites, tokens
from reprojax.formats import learnable
from reprojax.models import language
from reprojax.operators import insert

QUERIES = [[3, 1, 4, 1, 5, 9], [2, 6, 5]]


@pytest.fixture(params=sorted(files.MODELS), scope="module")
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    model = language.load(files.write(folder, request.param))
    return model._replace(forward=jax.jit(model.forward, static_argnames="edit"))


def answers(model, x):
    y = model.forward(model.frozen, x)
    return [
        np.asarray(row)[np.asarray(w) > 0]
        for row, w in zip(y.value, y.weight, strict=True)
    ]


def test_sites_come_in_order_and_roles_are_among_them(model):
    x = padded(QUERIES)
    found = sites(model.forward, model.frozen, x)
    order = list(found)
    assert order[0] == "input" and order[-1] == "output"
    assert found["output"].value == (2, 6, model.input.vocabulary)
    wanted = [site for role in model.roles.values() for site in role]
    assert set(wanted) <= set(order)
    along = [order.index(f"block_{i}{end}") for i in (0, 1) for end in (":in", "/kv")]
    assert along == sorted(along)
    heads = 2 if model.name == "llama" else 4
    for site in model.roles["kv"]:
        assert found[site].value == ((2, 6, heads, 4), (2, 6, heads, 4))
    for role in ("embedding", "blocks", "features"):
        assert {found[site].value for site in model.roles[role]} == {(2, 6, 16)}
    assert not [site for site in order if "kv:" in site]  # one name for one place


def test_padding_and_the_batch_change_nothing(model):
    """Each row, with padding on either side, is as it is alone."""
    alone = [answers(model, tokens(jnp.array([query])))[0] for query in QUERIES]
    for side in ("left", "right"):
        together = answers(model, padded(QUERIES, side, 8))
        for mine, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_only_decoders_are_causal(model):
    """The last word changes what is before it in an encoder alone, also behind a
    prompt."""
    prompt = insert(learnable(jax.nn.initializers.normal(1.0)), 3)
    program = reprogram(model.forward, {model.roles["embedding"][0]: prompt})
    x, other = tokens(jnp.array([[3, 1, 4, 1]])), tokens(jnp.array([[3, 1, 4, 2]]))
    params = program.init(jax.random.key(0), model.frozen, x)
    run = jax.jit(program.apply)
    a, b = (run(params, model.frozen, t).value[0, :-1] for t in (x, other))
    changed = not np.allclose(a, b, atol=1e-6)
    assert a.shape[0] == 6 and changed == (model.input.kind == "masked")


def test_order_is_position_not_index(model):
    x = tokens(jnp.array([[3, 1, 4, 2, 5]]))
    order = np.array([4, 0, 3, 1, 2])
    shuffled = jax.tree.map(lambda leaf: leaf[:, order], x)
    y, z = (model.forward(model.frozen, t) for t in (x, shuffled))
    np.testing.assert_allclose(z.value, y.value[:, order], rtol=1e-4, atol=1e-5)


def test_a_key_of_another_weight_counts(model):
    x = padded(QUERIES)
    y = answers(model, x)
    z = answers(model, x._replace(weight=x.weight * jnp.where(x.position == 0, 0.1, 1)))
    assert np.abs(y[0][-1] - z[0][-1]).max() > 1e-3


def test_the_card(model):
    assert (model.input.vocabulary, model.input.positions, model.width) == (40, 32, 16)
    assert model.input.kind == ("masked" if model.name == "bert" else "causal")
    assert model.input.tokenizer is None
    leaves = jax.tree.leaves(model.frozen)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    expected = language.Special(1, (2,), 2) if model.name == "llama" else None
    assert expected is None or model.input.special == expected


def test_special_ids_of_the_files(tmp_path):
    """generation_config before config; several ends; names where no ids are."""
    folder = files.write(tmp_path / "a", "llama", pad_token_id=7)
    (folder / "generation_config.json").write_text('{"eos_token_id": [4, 2]}')
    assert language.load(folder).input.special == language.Special(1, (4, 2), 7)
    folder = files.write(tmp_path / "b", "gpt2")
    assert language.load(folder).input.special == language.Special()


def test_bfloat16_in_bfloat16_out(model):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.frozen)
    kinds = set()

    def see(site, value):
        if not site.endswith(":call"):
            leaves = jax.tree.leaves(getattr(value, "value", value))
            kinds.update(
                (site, leaf.dtype) for leaf in leaves if leaf.dtype.kind != "i"
            )
        return passthrough(site, value)

    x = padded(QUERIES)
    y = model.forward(half, x, edit=see)
    assert {site for site, dtype in kinds if dtype == jnp.float32} <= {"input"}
    exact = model.forward(model.frozen, x)
    scale = float(jnp.abs(exact.value).max())
    assert float(jnp.abs(y.value - exact.value).max()) < 0.1 * scale


def test_load_casts(tmp_path):
    folder = files.write(tmp_path / "gpt2", "gpt2")
    half = language.load(folder, dtype=jnp.bfloat16)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(half.frozen)}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    for wrong in (jnp.int8, "half", "no type"):
        with pytest.raises(ValueError, match="expected jnp.float32 or jnp.bfloat16"):
            language.load(folder, dtype=wrong)


def test_a_copy_of_a_tied_table_is_passed_over(tmp_path):
    folder = files.write(tmp_path / "llama", "llama")
    model = language.load(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, folder / "model.safetensors")
    again = language.load(folder)
    jax.tree.map(np.testing.assert_array_equal, model.frozen, again.frozen)


# -- bad input


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model_type": "mamba"},
            "'mamba', expected one of bert, gpt2, llama, mistral",
        ),
        ({"model_type": "mamba"}, r"language.texts\(module\) is its forward"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
        ({"hidden_act": "swish7"}, "activation 'swish7'"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"rope_scaling": {"type": "yarn"}}, "scaling 'yarn', expected default"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
        ({"vocab_size": 41}, r"is \[40, 16\], expected \[41, 16\]"),
        ({"num_hidden_layers": 1}, "unexpected: layers.1"),
    ],
)
def test_what_is_not_built_is_refused(tmp_path, changes, message):
    folder = files.write(tmp_path / "llama", "llama", **changes)
    with pytest.raises(ValueError, match=message):
        language.load(folder)


def test_other_kinds_of_bert_and_gpt2_are_refused(tmp_path):
    folder = files.write(tmp_path / "a", "bert", position_embedding_type="relative_key")
    with pytest.raises(ValueError, match="position_embedding_type = 'relative_key'"):
        language.load(folder)
    folder = files.write(tmp_path / "b", "gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx = True"):
        language.load(folder)


def test_places_without_a_model(tmp_path):
    folder = files.write(tmp_path / "llama", "llama")
    (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks \['model-1.safetensors', 'model-2"):
        language.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="holds no config.json"):
        language.load(folder)
    with pytest.raises(ValueError, match="expected a .gguf file or a folder"):
        language.load(tmp_path / "alone.safetensors")
    for name in ("nowhere.gguf", "./nowhere"):
        with pytest.raises(ValueError, match="no file or folder"):
            language.load(name)
    with pytest.raises(ValueError, match="'stories'; expected 'abacus', a folder"):
        language.load("stories")


def test_what_is_no_tokens_of_ids_is_refused(model, unchecked):
    for wrong in (
        jnp.zeros((1, 3), int),
        tokens(jnp.zeros((1, 3), int)).value[0],
        None,
    ):
        with pytest.raises(ValueError, match="expected Tokens of ids"):
            model.forward(model.frozen, wrong)
    x = tokens(jnp.zeros((1, 3), int))
    with pytest.raises(ValueError, match="expected Tokens of ids"):
        model.forward(model.frozen, x._replace(value=jnp.zeros((1, 3))))


def test_more_tokens_than_positions_are_refused(model):
    prompt = insert(learnable(jax.nn.initializers.normal(1.0)), 3)
    program = reprogram(model.forward, {"embed:out": prompt})
    x = tokens(jnp.zeros((1, 30), int))
    params = program.init(
        jax.random.key(0), model.frozen, tokens(jnp.zeros((1, 3), int))
    )
    jax.eval_shape(model.forward, model.frozen, x)
    with pytest.raises(ValueError, match="33 tokens for a model that has 32"):
        program.apply(params, model.frozen, x)
