"""Prompts in architectures whose attention is not plain: shapes, and who is refused."""

import jax
import model_files as files
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr
from safetensors.numpy import save_file

from reprojax.models import load
from reprojax.recipes.model_reprogramming import watermark
from reprojax.recipes.prompt_tuning import e2vpt, vpt_deep, vpt_shallow

TOLD = files.TOLD | {"dinov3": dict(architecture="dinov3_vit", heads=2)}
MADE = files.MODELS | {"dinov3": files.dinov3}


def tower(folder, name):
    save_file(MADE[name](), folder / "m.safetensors")
    size = files.SIZES.get(name, 24)
    return load(folder / "m.safetensors", size=size, **TOLD[name])


def answers(program, model):
    """The shape of a program's answer to two images; each learnable leaf enters it."""
    x = np.zeros((2, model.input.size, model.input.size, 3), np.uint8)
    draw = lambda key: program.init(key, model.frozen, x)
    params = jax.eval_shape(draw, jax.random.key(0))

    def answer(learnable, fixed):
        own = params._replace(learnable=learnable, fixed=fixed)
        return program.apply(own, model.frozen, x)

    closed, y = jax.make_jaxpr(answer, return_shape=True)(*params)
    used = dce_jaxpr(closed.jaxpr, [True])[1]
    leaves = jax.tree_util.tree_leaves_with_path(params.learnable)
    for (path, _), enters in zip(leaves, used, strict=False):
        assert enters, jax.tree_util.keystr(path)
    return y.shape


@pytest.mark.parametrize("name", ["vit", "beit", "dinov3"])
@pytest.mark.parametrize("recipe", [vpt_shallow, vpt_deep, e2vpt])
def test_tokens_and_keys_enter(tmp_path, name, recipe):
    sizes = {"pieces": 4} if recipe is e2vpt else {}
    model = tower(tmp_path, name)
    assert answers(recipe(model, targets=3, **sizes), model) == (2, 3)


@pytest.mark.parametrize("name", ["convnext", "swin", "mobilenet", "resnet"])
def test_grids_take_pixels_and_no_tokens(tmp_path, name):
    model = tower(tmp_path, name)
    assert answers(watermark(model, targets=3), model) == (2, 3)
    with pytest.raises(ValueError, match="is no transformer .*padding or watermark"):
        vpt_deep(model, targets=3)
