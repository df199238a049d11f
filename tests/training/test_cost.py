"""What a compiled training step costs and holds, read off the program of XLA.

Nothing runs: models and images are shapes.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.nn.initializers import zeros

from reprojax import Params, Program, recipes, reprogram
from reprojax.alignments import bayesian
from reprojax.core import chain, passthrough
from reprojax.formats import learnable
from reprojax.locations import opaque
from reprojax.models import Model, Pixels, images
from reprojax.models.vision import glyphs, resnet, vit
from reprojax.operators import add, frame, insert, resize
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import begin, train_step

SGD = optax.sgd(0.1)
HALF = (0.5, 0.5, 0.5)


def spec(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def backbone(
    name: str, module: nn.Module, size: int, roles: Any = None
) -> Model[Pixels]:
    frozen = jax.eval_shape(module.init, jax.random.key(0), spec(1, size, size, 3))
    forward, classes = images(module, size, HALF, HALF), tuple(map(str, range(20)))
    return Model(name, forward, frozen, Pixels(size, HALF, HALF), roles or {}, classes)


RESNET = resnet.ResNet(16, (1, 1), (32, 64), False, 20)
VIT = vit.ViT(16, 128, 3, 4, 512, 20)
BACKBONES = {
    "residual net": backbone("residual net", RESNET, 64),
    "transformer": backbone("transformer", VIT, 64, vit.roles(3)),
    "embedded net": backbone("embedded net", glyphs.Glyphs(128), 32),
}
METHODS = {
    "padding": recipes.padding,
    "watermark": recipes.watermark,
    "visual prompting": recipes.visual_prompting,
}


def begun(program: Program, card: Model[Pixels], x: Any) -> Params:
    return jax.eval_shape(partial(program.init, jax.random.key(0)), card.frozen, x)


def lowered(program: Program, card: Model[Pixels], side: int, batch: int = 4) -> Any:
    """The very step of `fit`, for bytes of [batch side side 3]."""
    x, y = spec(batch, side, side, 3, dtype="uint8"), spec(batch, dtype="int32")
    state = jax.eval_shape(lambda: begin(program, SGD, card.frozen, x))
    return train_step.lower(program, SGD, cross_entropy, (), state, card.frozen, x, y)


def flops(lowered: Any) -> float:
    return lowered.compile().cost_analysis()["flops"]


@cache
def bare(name: str) -> tuple[float, float]:
    """Operations of the model, and of the model with its input gradient."""
    card = BACKBONES[name]
    x = spec(4, card.input.size, card.input.size, 3)
    once = lambda x, frozen: card.forward(frozen, x).sum()
    both = [jax.jit(f).lower(x, card.frozen) for f in (once, jax.value_and_grad(once))]
    return flops(both[0]), flops(both[1])


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_does_little_more_than_the_model_and_its_input_gradient(name, method):
    card = BACKBONES[name]
    program = METHODS[method](card, targets=10)
    ratio = flops(lowered(program, card, card.input.size // 2)) / bare(name)[1]
    print(f"{name}, {method}: {ratio:.3f} of forward and input gradient")
    assert 0.98 < ratio < 1.1


@pytest.mark.parametrize("name", BACKBONES)
def test_the_measure_counts_what_the_layers_multiply(name):
    """Two operations a product; XLA leaves out those with a convolution's padding."""
    card = BACKBONES[name]
    forward, both = bare(name)
    products = 0
    jaxpr = jax.make_jaxpr(card.forward)(
        card.frozen, spec(4, card.input.size, card.input.size, 3)
    )
    for eqn in jaxpr.jaxpr.eqns:
        out = eqn.outvars[0].aval.shape
        if eqn.primitive.name == "conv_general_dilated":
            products += np.prod(out) * np.prod(eqn.invars[1].aval.shape[:-1])
        elif eqn.primitive.name == "dot_general":
            axes = eqn.params["dimension_numbers"][0][0]
            summed = [eqn.invars[0].aval.shape[axis] for axis in axes]
            products += np.prod(out) * np.prod(summed)
    assert 0.7 < forward / (2 * products) < 1.25
    assert 1.9 < both / forward < 2.2


def test_the_measure_notices_a_gradient_of_frozen_weights_and_a_second_pass():
    card = BACKBONES["transformer"]
    program, x = recipes.watermark(card, targets=10), spec(4, 32, 32, 3, dtype="uint8")
    params = begun(program, card, x)

    def cost(learnable: Any, frozen: Any, x: Any) -> jax.Array:
        return program.apply(params_of(learnable), frozen, x).sum()

    def params_of(learnable: Any) -> Params:
        fixed = jax.tree.map(lambda a: jnp.ones(a.shape), params.fixed)
        return Params(learnable, fixed)

    def twice(learnable: Any, frozen: Any, x: Any) -> Any:
        slope = jax.grad(cost)(learnable, frozen, x)
        return slope, cost(jax.tree.map(jnp.add, learnable, slope), frozen, x)

    normal, wasteful, second = (
        flops(jax.jit(f).lower(params.learnable, card.frozen, x))
        for f in (jax.grad(cost), jax.grad(cost, (0, 1)), twice)
    )
    assert normal / bare("transformer")[1] < 1.1
    assert wasteful / normal > 1.4
    assert second / normal > 1.4


# -- counts of the papers


def count(tree: Any) -> int:
    return sum(a.size for a in jax.tree.leaves(tree))


LARGE = backbone("of 224 pixels", resnet.ResNet(4, (1,), (4,), False, 20), 224)


def learned(program: Program) -> dict[str, Any]:
    return begun(program, LARGE, spec(2, 32, 32, 3, dtype="uint8")).learnable


def test_visual_prompting_learns_as_many_numbers_as_published():
    shapes = learned(recipes.visual_prompting(LARGE, targets=10))
    assert count(shapes) == count(shapes["normalized"]) == 69_840
    assert 69_840 == 3 * (224**2 - (224 - 60) ** 2)


@pytest.mark.parametrize(("layers", "numbers"), [(5, 26_499), (6, 102_339)])
def test_mask_networks_have_as_many_numbers_as_published(layers, numbers):
    program = recipes.sample_specific_masks(LARGE, targets=10, layers=layers)
    shapes = learned(program)
    assert count(shapes["normalized"]["mask"]) == numbers
    assert count(shapes) == numbers + 224 * 224 * 3
    widths = [3, *(8 * 2**i for i in range(layers - 1)), 3]
    pairs = zip(widths, widths[1:], strict=False)
    convolutions = sum(9 * a * b + b for a, b in pairs)
    assert numbers == convolutions + 2 * sum(widths[1:-1])  # scales and shifts


# -- frozen weights under vmap

K = 7


def stacked(params: Params) -> Params:
    many = jax.tree.map(lambda a: spec(K, *a.shape, dtype=a.dtype), params.learnable)
    return params._replace(learnable=many)


def held(function: Callable, *args: Any) -> str:
    return jax.jit(function).lower(*args).compile().as_text()


def copied(text: str, frozen: Any) -> list[tuple[int, ...]]:
    """Shapes of frozen kernels that the program has K times."""
    kernels = {a.shape for a in jax.tree.leaves(frozen) if len(a.shape) > 1}
    return sorted(s for s in kernels if f"[{K},{','.join(map(str, s))}]" in text)


CASES = {
    "residual net": ("residual net", lambda card: recipes.watermark(card, targets=10)),
    "transformer": (
        "transformer",
        lambda card: reprogram(
            card.forward,
            {
                "input": chain(resize=resize(64), mark=add(learnable(zeros))),
                "block_1:in": insert(learnable(zeros), 3, at=1),
                "output": bayesian(10),
            },
        ),
    ),
}


def gradients(apply: Callable) -> Callable:
    """K programs that share what is fixed, each with its gradient."""

    def loss(learnable: Any, fixed: Any, frozen: Any, x: Any) -> jax.Array:
        return jnp.square(apply(Params(learnable, fixed), frozen, x)).mean()

    return jax.vmap(jax.value_and_grad(loss), (0, None, None, None))


@pytest.mark.parametrize("case", CASES)
def test_no_frozen_kernel_is_copied_for_many_programs(case):
    name, build = CASES[case]
    card = BACKBONES[name]
    program, x = build(card), spec(2, 32, 32, 3, dtype="uint8")
    params = stacked(begun(program, card, x))
    kernels = {a.shape for a in jax.tree.leaves(card.frozen) if len(a.shape) > 1}
    text = held(gradients(program.apply), *params, card.frozen, x)
    shown = [s for s in kernels if f"f32[{','.join(map(str, s))}]" in text]
    assert len(shown) > 4  # they are there, once
    assert copied(text, card.frozen) == []


@pytest.mark.parametrize("case", CASES)
def test_a_copy_of_frozen_kernels_would_be_found(case):
    name, build = CASES[case]
    card = BACKBONES[name]
    program, x = build(card), spec(2, 32, 32, 3, dtype="uint8")
    params = stacked(begun(program, card, x))

    def mixed(params: Params, frozen: Any, x: Any) -> jax.Array:
        scale = 1 + jax.tree.leaves(params.learnable)[0].mean()
        return program.apply(params, jax.tree.map(lambda a: a * scale, frozen), x)

    text = held(gradients(mixed), *params, card.frozen, x)
    assert len(copied(text, card.frozen)) > 2


# -- what the program of a step is made of


@cache
def reader(size: int) -> Model[Pixels]:
    """Any size, next to no text of its own."""
    look = opaque(lambda frozen, x: x.mean((1, 2)) @ frozen["w"])

    def forward(frozen: Any, x: Any, edit: Callable = passthrough) -> Any:
        def renamed(site: str, value: Any) -> Any:
            value = edit(site, value)
            return edit("normalized", value * 2 - 1) if site == "input" else value

        return look(frozen, x, edit=renamed)

    classes = tuple(map(str, range(20)))
    return Model("", forward, {"w": spec(3, 20)}, Pixels(size, HALF, HALF), {}, classes)


def masked(card: Model[Pixels], targets: int, mask: Any = None) -> Program:
    at = {"input": resize(card.input.size), "output": bayesian(targets)}
    mask = frame(card.input.size // 8) if mask is None else mask
    return reprogram(
        card.forward, at | {"normalized": add(learnable(zeros), mask=mask)}
    )


@pytest.mark.parametrize("build", [*METHODS.values(), masked])
def test_masks_and_borders_are_no_constants_of_the_program(build):
    small, large = (
        len(lowered(build(reader(size), targets=10), reader(size), 28).as_text())
        for size in (32, 224)
    )
    assert large < 1.05 * small < 60_000


def test_a_mask_in_a_closure_would_be_found():
    def closed(size: int) -> int:
        ring = (
            np.random.default_rng(0).normal(size=(1, size, size, 1)).astype("float32")
        )
        program = masked(reader(size), 10, mask=lambda shape: ring)
        return len(lowered(program, reader(size), 28).as_text())

    small, large = closed(32), closed(224)
    assert large > 5 * small > 5e4


def arguments(text: str) -> Iterable[str]:
    """Of the main function."""
    (line,) = [line for line in text.splitlines() if "func.func public @main" in line]
    return line.split("->")[0].split("%arg")


@pytest.mark.parametrize("method", METHODS)
def test_images_enter_the_step_as_bytes(method):
    card = BACKBONES["residual net"]
    text = lowered(METHODS[method](card, targets=10), card, 24, batch=5).as_text()
    entering = [a for a in arguments(text) if "5x24x24x3x" in a]
    assert len(entering) == 1 and "tensor<5x24x24x3xui8>" in entering[0]
    assert not [a for a in arguments(text) if "5x64x64x3x" in a]
