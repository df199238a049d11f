"""Any linen module as a forward: what its sites are called, and what is refused."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import IMAGES, VIT, VIT_FROZEN, Block, ViT, weights

from reprojax import Params, record, reprogram, shared, sites, stateless
from reprojax.formats import learnable
from reprojax.locations import linen, opaque
from reprojax.operators import add, insert

soft = learnable(jax.nn.initializers.normal(1.0))
X = jnp.ones((2, 4, 8))


class Tied(nn.Module):
    """One embedding, called twice."""

    @nn.compact
    def __call__(self, ids):
        embed, mix = nn.Embed(50, 8, name="embed"), nn.Dense(8, name="mix")
        return nn.tanh(mix(embed(ids))).mean(1, keepdims=True) + 2 * embed(ids)


class Keywords(nn.Module):
    """Submodules with flags, and one that is called by keywords alone."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, name="drop")(x, deterministic=True)
        return nn.Dense(3, name="head")(inputs=x)


def order(forward, frozen, x):
    seen = []
    forward(frozen, x, edit=lambda site, value: (seen.append(site), value)[1])
    return seen


def test_a_module_without_edits_is_the_module():
    expected = ViT().apply(VIT_FROZEN, IMAGES)
    np.testing.assert_array_equal(VIT(VIT_FROZEN, IMAGES), expected)


def test_every_submodule_has_its_sites_in_the_order_of_calls():
    seen = order(VIT, VIT_FROZEN, IMAGES)
    assert seen[0] == "input" and seen[-1] == "output"
    start = seen.index("block_1:call")
    assert seen[start : start + 5] == [
        "block_1:call",
        "block_1:in",
        "block_1/norm_1:call",
        "block_1/norm_1:in",
        "block_1/norm_1:out",
    ]
    assert len(seen) == len(set(seen))
    listed = sites(VIT, VIT_FROZEN, IMAGES)
    assert list(listed) == [site for site in seen if not site.endswith(":call")]
    assert listed["block_1:in"] == (4, 5, 16) and listed["head:in"] == (4, 16)


def test_an_edit_changes_the_value_that_goes_on():
    """Scaling the head's input is scaling its kernel."""
    doubled = lambda site, value: 2 * value if site == "head:in" else value
    params = VIT_FROZEN["params"]
    head = {**params["head"], "kernel": 2 * params["head"]["kernel"]}
    expected = VIT({"params": {**params, "head": head}}, IMAGES)
    np.testing.assert_allclose(VIT(VIT_FROZEN, IMAGES, doubled), expected, rtol=1e-5)


def test_arguments_can_be_edited():
    forward, frozen = linen(Keywords()), weights(Keywords(), jnp.ones((2, 5)))
    noisy = {"drop:call": stateless(lambda call: (call[0], {"deterministic": True}))}
    program = reprogram(forward, noisy)
    params = program.init(jax.random.key(0), frozen, jnp.ones((2, 5)))
    out = program.apply(params, frozen, jnp.ones((2, 5)))
    np.testing.assert_array_equal(out, forward(frozen, jnp.ones((2, 5))))


def test_a_call_by_keywords_has_no_first_argument():
    forward, frozen = linen(Keywords()), weights(Keywords(), jnp.ones((2, 5)))
    seen = order(forward, frozen, jnp.ones((2, 5)))
    assert "head:call" in seen and "head:out" in seen and "head:in" not in seen


def test_a_tied_module_is_numbered():
    ids = jnp.arange(6).reshape(2, 3)
    forward, frozen = linen(Tied()), weights(Tied(), ids)
    seen = order(forward, frozen, ids)
    assert seen.count("embed:out") == seen.count("embed#2:out") == 1
    table = frozen["params"]["embed"]["embedding"]
    mix = frozen["params"]["mix"]

    def by_hand(first, second):
        h = (table[ids] + first) @ mix["kernel"] + mix["bias"]
        return jnp.tanh(h).mean(1, keepdims=True) + 2 * (table[ids] + second)

    one = jnp.ones((3, 8))
    for at, given in (
        ({"embed:out": add(learnable(one))}, (1, 0)),
        ({"embed#2:out": add(learnable(one))}, (0, 1)),
        ({("embed:out", "embed#2:out"): shared(add(learnable(one)))}, (1, 1)),
    ):
        program = reprogram(forward, at)
        params = program.init(jax.random.key(0), frozen, ids)
        found = program.apply(params, frozen, ids)
        np.testing.assert_allclose(found, by_hand(*given), rtol=1e-5, atol=1e-6)


def test_numbers_start_anew_with_each_call():
    ids = jnp.arange(6).reshape(2, 3)
    forward, frozen = linen(Tied()), weights(Tied(), ids)
    assert order(forward, frozen, ids) == order(forward, frozen, ids)
    many = jax.vmap(lambda ids: forward(frozen, ids))(ids[None])
    np.testing.assert_allclose(many[0], forward(frozen, ids), rtol=1e-6)


# -- remat and scan


def rematted():
    return linen(ViT(block=nn.remat(Block)))


def test_edits_work_inside_remat():
    program = reprogram(VIT, {"block_1:in": add(soft)})
    inside = reprogram(rematted(), {"block_1:in": add(soft)})
    params = program.init(jax.random.key(0), VIT_FROZEN, IMAGES)
    again = inside.init(jax.random.key(0), VIT_FROZEN, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, params, again)

    def slope(program):
        def cost(learnable):
            own = params._replace(learnable=learnable)
            return (program.apply(own, VIT_FROZEN, IMAGES) ** 2).sum()

        return jax.jit(jax.grad(cost))(params.learnable)["block_1:in"]

    np.testing.assert_allclose(slope(inside), slope(program), rtol=1e-3, atol=1e-4)


def test_nothing_is_recorded_inside_remat():
    with pytest.raises(ValueError, match="inside remat.*without remat"):
        record(rematted(), ["block_1/up:in"])(VIT_FROZEN, IMAGES)
    _, seen = record(rematted(), ["head:in"])(VIT_FROZEN, IMAGES)
    assert seen["head:in"].shape == (4, 16)


class Scanned(nn.Module):
    """Three blocks by nn.scan: one path for all of them."""

    @nn.compact
    def __call__(self, x):
        class Step(nn.Module):
            @nn.compact
            def __call__(self, carry, _):
                return Block(name="block")(carry), None

        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        return nn.scan(Step, **axes, length=3)(name="blocks")(x, None)[0]


def test_scanned_layers_have_one_path_and_are_all_edited():
    forward, frozen = linen(Scanned()), weights(Scanned(), X)
    seen = set(order(forward, frozen, X))
    assert "blocks/block:in" in seen and not any("#" in site for site in seen)
    value = jnp.ones((4, 8))
    program = reprogram(forward, {"blocks/block:in": add(learnable(value))})
    params = program.init(jax.random.key(0), frozen, X)
    expected = X
    for i in range(3):
        own = jax.tree.map(lambda a, i=i: a[i], frozen["params"]["blocks"]["block"])
        expected = Block().apply({"params": own}, expected + value)
    found = program.apply(params, frozen, X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_edit_of_one_scanned_layer_is_refused():
    """The layers have one site; a recipe that names each finds no such site."""
    forward, frozen = linen(Scanned()), weights(Scanned(), X)
    program = reprogram(forward, {"blocks/1/block:in": add(soft)})
    with pytest.raises(ValueError, match="did you mean 'blocks/block:in'"):
        program.init(jax.random.key(0), frozen, X)
    with pytest.raises(ValueError, match="lies inside remat, scan"):
        record(forward, ["blocks/block:in"])(frozen, X)


def test_an_edit_that_changes_what_a_scan_carries_is_refused():
    """One site for all layers: a prompt in front would come again in each."""
    forward, frozen = linen(Scanned()), weights(Scanned(), X)
    program = reprogram(forward, {"blocks/block:in": insert(soft, 2)})
    with pytest.raises(ValueError, match="one site serves all layers.*Python loop"):
        program.init(jax.random.key(0), frozen, X)
    both = reprogram(forward, {"blocks:out": add(soft)})  # (carry, None)
    with pytest.raises(ValueError, match="a tuple of 2 parts.*a site with one array"):
        both.init(jax.random.key(0), frozen, X)


# -- one example at a time


class One(nn.Module):
    """Takes one example, [L 3] -> [5]."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5, name="head")(jnp.tanh(nn.Dense(8, name="body")(x))).mean(0)


class Each(nn.Module):
    """The same under nn.vmap."""

    @nn.compact
    def __call__(self, x):
        shared = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
        return nn.vmap(One, **shared)(name="one")(x)


CALLS = {
    "vmap": lambda one, x: jax.vmap(one)(x),
    "lax.map": lambda one, x: jax.lax.map(one, x),
    "scan": lambda one, x: jax.lax.scan(lambda c, row: (c, one(row)), 0, x)[1],
    "vmap of remat": lambda one, x: jax.vmap(jax.checkpoint(one))(x),
}


@pytest.mark.parametrize("rows", [2, 4])  # 4: as many as an example has tokens
@pytest.mark.parametrize("name", [*CALLS, "nn.vmap"])
def test_a_module_of_one_example_is_refused(name, rows):
    """A prompt [4 8] would be learned as one of [8], and nobody would know."""
    x, site = jnp.ones((rows, 4, 3)), "head:in"
    if name == "nn.vmap":
        forward, frozen, site = linen(Each()), weights(Each(), x), "one/head:in"
    else:
        forward, frozen = linen(One(), CALLS[name]), weights(One(), x[0])
    program = reprogram(forward, {site: add(soft)})
    with pytest.raises(ValueError, match="one example at a time.*value.None"):
        program.init(jax.random.key(0), frozen, x)
    outside = reprogram(forward, {"input": add(soft), "output": add(soft)})
    params = outside.init(jax.random.key(0), frozen, x)
    assert params.learnable["input"].shape == (4, 3)


def test_a_batch_of_one_in_a_forward_under_vmap():
    x, frozen = jax.random.normal(jax.random.key(1), (3, 4, 8)), jnp.eye(8)

    def forward(frozen, x, edit):
        one = lambda x: edit("hidden", x[None])[0] @ frozen
        return edit("output", jax.vmap(one)(edit("input", x)))

    program = reprogram(forward, {"hidden": add(soft)})
    params = program.init(jax.random.key(0), frozen, x)
    prompt = params.learnable["hidden"]
    assert prompt.shape == (4, 8)
    found = jax.jit(program.apply)(params, frozen, x)
    np.testing.assert_allclose(found, x + prompt, rtol=1e-6)


class Ensemble(nn.Module):
    """vmap over weights, not over examples: each member sees the whole batch."""

    @nn.compact
    def __call__(self, x):
        own = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        dense = nn.vmap(nn.Dense, **own, in_axes=None, axis_size=4)
        return dense(8, name="members")(x).mean(0)


def test_an_edit_under_vmap_over_weights_serves_all_of_them():
    module = Ensemble()
    frozen = weights(module, X)
    program = reprogram(linen(module), {"members:in": add(soft)})
    params = program.init(jax.random.key(0), frozen, X)
    prompt = params.learnable["members:in"]
    assert prompt.shape == (4, 8)
    found = program.apply(params, frozen, X)
    np.testing.assert_allclose(found, module.apply(frozen, X + prompt), rtol=1e-5)


def test_a_model_that_takes_one_size_of_batch_says_why_another_was_tried():
    def forward(frozen, x, edit):
        run = jax.checkpoint(lambda x: edit("hidden", x.reshape(2, 2, 8)) @ frozen)
        return edit("output", run(edit("input", x)))

    program = reprogram(forward, {"hidden": add(soft)})
    with pytest.raises(ValueError, match="a batch twice as long.*failed on it"):
        program.init(jax.random.key(0), jnp.eye(8), jnp.ones((2, 2, 8)))


class Twice(nn.Module):
    """One dense layer, called twice in a row."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(8, name="dense")
        return dense(jnp.tanh(dense(x)))


def test_a_module_called_twice_inside_remat_is_numbered_too():
    forward = linen(Holder(nn.remat(Twice)))
    frozen = weights(Holder(Twice), X)
    own = frozen["params"]["part"]["dense"]
    dense = lambda x: x @ own["kernel"] + own["bias"]
    for site, (first, second) in (
        ("part/dense:in", (1, 0)),
        ("part/dense#2:in", (0, 1)),
    ):
        program = reprogram(forward, {site: add(learnable(jnp.ones((4, 8))))})
        params = program.init(jax.random.key(0), frozen, X)
        expected = dense(jnp.tanh(dense(X + first)) + second)
        found = program.apply(params, frozen, X)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Again(nn.Module):
    """A module that is called twice from outside."""

    kind: type

    @nn.compact
    def __call__(self, x):
        part = self.kind(name="part")
        return part(jnp.tanh(part(x)))


def test_a_rematted_module_called_twice_has_one_site_that_serves_both():
    forward, frozen = linen(Again(nn.remat(Jitter))), weights(Again(Jitter), X)
    assert "part#2:in" not in sites(forward, frozen, X)
    assert "part#2:in" in sites(linen(Again(Jitter)), frozen, X)
    own = frozen["params"]["part"]["inner"]
    call = lambda x: (x + 1) @ own["kernel"] + own["bias"]
    program = reprogram(forward, {"part:in": add(learnable(jnp.ones((4, 8))))})
    params = program.init(jax.random.key(0), frozen, X)
    found = program.apply(params, frozen, X)
    np.testing.assert_allclose(found, call(jnp.tanh(call(X))), rtol=1e-5, atol=1e-6)


# -- nn.jit


class Decorated(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="inner")(x)


class Helper(nn.Module):
    """nn.jit on a method that the call uses."""

    @nn.compact
    def __call__(self, x):
        return self.helper(x)

    @nn.jit
    def helper(self, x):
        return nn.Dense(8, name="inner")(x)


class Jitter(nn.Module):
    """A name that says Jit, and no nn.jit."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="inner")(x)


class Holder(nn.Module):
    kind: type

    @nn.compact
    def __call__(self, x):
        return self.kind(name="part")(x)


@pytest.mark.parametrize(
    "kind", [nn.jit(Jitter), nn.remat(nn.jit(Jitter)), Decorated, Helper]
)
def test_nn_jit_is_refused(kind):
    holder = Holder(kind)
    frozen = weights(holder, X)
    with pytest.raises(ValueError, match="'part' .* wrapped in nn.jit.*drop nn.jit"):
        linen(holder)(frozen, X)
    with pytest.raises(ValueError, match="wrapped in nn.jit"):
        linen(kind())


@pytest.mark.parametrize("kind", [Jitter, nn.remat(Jitter)])
def test_what_is_no_jit_is_accepted(kind):
    holder = Holder(kind)
    frozen = weights(holder, X)
    program = reprogram(linen(holder), {"part/inner:in": add(soft)})
    params = program.init(jax.random.key(0), frozen, X)
    moved = program.apply(params, frozen, X)
    np.testing.assert_allclose(
        moved, holder.apply(frozen, X + params.learnable["part/inner:in"]), rtol=1e-5
    )


def test_nn_jit_would_keep_the_first_edits():
    """Why it is refused: without the check, a second program gets the first one's."""
    module = nn.jit(Jitter)(parent=None)
    frozen = weights(Jitter(), X)
    shift = lambda by: (
        lambda f, args, kwargs, context: (
            f(args[0] + by, **kwargs)
            if "inner" in context.module.path
            else f(*args, **kwargs)
        )
    )
    with nn.intercept_methods(shift(0.0)):
        plain = module.apply(frozen, X)
    with nn.intercept_methods(shift(1.0)):
        moved = module.apply(frozen, X)
    np.testing.assert_array_equal(plain, moved)


# -- what is no linen module


def test_what_is_no_linen_module_is_refused_with_what_to_call(unchecked):
    from flax import nnx as flax_nnx

    dense = nn.Dense(3)
    for module, told in (
        (nn.Dense, "the class Dense.*make one first, as in Dense.*call linen.module"),
        (flax_nnx.Linear(2, 3, rngs=flax_nnx.Rngs(0)), "got Linear.*call nnx.module"),
        (dense.apply, "got method, expected a flax.linen module; write forward"),
        (jnp.tanh, "write forward"),
        (dense.bind(dense.init(jax.random.key(0), X)), "bound to its.*unbind"),
    ):
        with pytest.raises(ValueError, match=told):
            linen(module)


# -- how a module is called


@flax.struct.dataclass
class Answer:
    """What a transformers-style model returns."""

    logits: jax.Array
    pooled: jax.Array


class Classifier(nn.Module):
    """Transformers-style: keywords alone, channels first, an object as the answer."""

    @nn.compact
    def __call__(self, pixel_values=None, deterministic=True, return_dict=True):
        x = pixel_values.transpose(0, 2, 3, 1).reshape(len(pixel_values), -1)
        pooled = nn.Dropout(0.5)(nn.Dense(8, name="body")(x), deterministic)
        answer = Answer(nn.Dense(3, name="classifier")(pooled), pooled)
        return answer if return_dict else (answer.logits,)


def test_a_transformers_style_module():
    call = lambda m, x: m(pixel_values=x.transpose(0, 3, 1, 2)).logits
    forward, images = linen(Classifier(), call), IMAGES[:, :2, :2]
    channels_first = images.transpose(0, 3, 1, 2)
    shapes = jax.eval_shape(Classifier().init, jax.random.key(0), channels_first)
    frozen = jax.tree.map(lambda a: jnp.full(a.shape, 0.1), shapes)
    expected = Classifier().apply(frozen, channels_first).logits
    np.testing.assert_array_equal(forward(frozen, images), expected)
    assert sites(forward, frozen, images)["input"] == (4, 2, 2, 3)
    program = reprogram(forward, {"classifier:in": add(learnable(jnp.ones(8)))})
    params = program.init(jax.random.key(0), frozen, images)
    found = program.apply(params, frozen, images)
    np.testing.assert_allclose(found, expected + 0.8, rtol=1e-5)


# -- functions


def test_a_black_box_has_two_sites():
    forward = opaque(lambda frozen, x: x @ frozen)
    frozen, x = jnp.eye(3), jnp.ones((2, 3))
    assert order(forward, frozen, x) == ["input", "output"]
    program = reprogram(forward, {"input": add(learnable(jnp.arange(3.0)))})
    params = program.init(jax.random.key(0), frozen, x)
    found = program.apply(params, frozen, x)
    np.testing.assert_array_equal(found, x + jnp.arange(3.0))
    assert isinstance(params, Params)


def test_a_function_that_is_not_jax_is_refused_under_a_transform():
    def service(frozen, x):
        return np.asarray(x) @ frozen

    forward, frozen, x = opaque(service), np.eye(3), jnp.ones((2, 3))
    np.testing.assert_array_equal(forward(frozen, x), x)
    with pytest.raises(ValueError, match="service asks for .*reprojax.searches"):
        jax.jit(forward)(frozen, x)
