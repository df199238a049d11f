"""Any nnx module as a forward, in graph mode and in tree mode."""

import gc
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax import nnx as flax_nnx

from reprojax import record, reprogram, sites
from reprojax.formats import learnable
from reprojax.locations import nnx
from reprojax.operators import add

ONE = learnable(jnp.ones(4))
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


class Layer(flax_nnx.Module):
    def __init__(self, rngs):
        self.linear = flax_nnx.Linear(4, 4, rngs=rngs)
        self.drop = flax_nnx.Dropout(0.5, rngs=rngs)
        self.norm = flax_nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.norm(self.drop(self.linear(x))))


class Net(flax_nnx.Module):
    """Two layers in a list, and a head. `through` is how a layer is called."""

    def __init__(self, rngs, through=lambda layer, x: layer(x), order=(0, 1)):
        self.layers = flax_nnx.List([Layer(rngs) for _ in range(2)])
        self.head = flax_nnx.Linear(4, 2, rngs=rngs)
        self.through, self.order = through, order

    def __call__(self, x, scale=1.0):
        for i in self.order:
            x = self.through(self.layers[i], x)
        return scale * self.head(x)


def net(**kw):
    model = Net(flax_nnx.Rngs(0), **kw)
    for i, layer in enumerate(model.layers):  # no neutral statistics
        layer.norm.mean[...] = jnp.full(4, 0.1 * (i + 1))
        layer.norm.var[...] = jnp.full(4, 2.0 + i)
    return model


def by_hand(frozen, x, before=(), order=(0, 1)):
    """`before`: what is added to the input of each visit's linear layer."""
    before = dict(enumerate(before))
    for visit, i in enumerate(order):
        own = frozen["layers"][str(i)]
        x = x + before.get(visit, 0)
        x = x @ own["linear"]["kernel"] + own["linear"]["bias"]
        x = (x - own["norm"]["mean"]) / jnp.sqrt(own["norm"]["var"] + 1e-5)
        x = jnp.tanh(x * own["norm"]["scale"] + own["norm"]["bias"])
    return x @ frozen["head"]["kernel"] + frozen["head"]["bias"]


def moved(forward, frozen, *where, x=X):
    program = reprogram(forward, {site: add(ONE) for site in where})
    params = program.init(jax.random.key(0), frozen, x)
    return program.apply(params, frozen, x)


close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["graph", "graph without updates", "tree"], autouse=True)
def mode(request):
    graph, updates = request.param != "tree", request.param == "graph"
    with flax_nnx.set_graph_mode(graph), flax_nnx.set_graph_updates(updates):
        yield request.param


def test_the_forward_is_the_module_in_evaluation():
    model = net()
    forward, frozen = nnx(model)
    close(forward(frozen, X), by_hand(frozen, X))
    assert jax.tree.map(jnp.shape, frozen["layers"]["1"]["linear"]) == {
        "kernel": (4, 4),
        "bias": (4,),
    }
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(frozen))


def test_neither_the_module_nor_its_statistics_change():
    model = net()
    forward, frozen = nnx(model)
    before = jax.tree.map(np.asarray, frozen)
    jax.jit(forward)(frozen, X)
    forward(frozen, X)
    model.layers[0].linear.kernel[...] = jnp.zeros((4, 4))  # its owner trains on
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    close(forward(frozen, X), by_hand(before, X))
    assert model.layers[0].drop.deterministic is False
    assert type(model.layers[0]) is Layer


def test_sites_are_named_as_in_linen():
    forward, frozen = nnx(net())
    listed = sites(forward, frozen, X)
    assert list(listed)[:4] == ["input", "layers/0:in", *_ends("layers/0/linear")]
    assert list(listed)[-3:] == ["head:in", "head:out", "output"]
    _, seen = record(forward, ["layers/1:out", "head:in"])(frozen, X)
    np.testing.assert_array_equal(seen["layers/1:out"], seen["head:in"])


def _ends(path):
    return [f"{path}:in", f"{path}:out"]


def test_edits_are_those_of_their_own_layer_and_program():
    forward, frozen = nnx(net())
    for _ in range(2):
        close(moved(forward, frozen, "layers/0:in"), by_hand(frozen, X, (1, 0)))
        close(moved(forward, frozen, "layers/1/linear:in"), by_hand(frozen, X, (0, 1)))
        close(forward(frozen, X), by_hand(frozen, X))


def test_other_weights_of_the_same_structure_and_their_absence():
    forward, frozen = nnx(net())
    other = jax.tree.map(lambda a: a + 0.1, frozen)
    close(jax.jit(forward)(other, X), by_hand(other, X))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), frozen)
    assert forward(half, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"Net differ in \['head/bias'.*that nnx"):
        forward({"layers": frozen["layers"]}, X)
    with pytest.raises(ValueError, match="nnx got function, expected a flax.nnx"):
        nnx(by_hand)
    with pytest.raises(ValueError, match="the class Net, .*as in Net.*call nnx.module"):
        nnx(Net)
    with pytest.raises(ValueError, match="nnx got Dense.*call linen.module"):
        nnx(linen.Dense(3))


def test_a_site_that_is_never_reached():
    forward, frozen = nnx(net())
    with pytest.raises(ValueError, match="did you mean 'layers/1:in'"):
        moved(forward, frozen, "layer/1:in")


def test_the_forward_keeps_no_weights_of_its_own():
    """So that other weights, or weights on other devices, do not cost twice."""
    model = net()
    forward, frozen = nnx(model)
    other = jax.tree.map(lambda a: a + 1, frozen)
    kernel = weakref.ref(frozen["head"]["kernel"])
    del model, frozen
    gc.collect()
    assert kernel() is None
    close(forward(other, X), by_hand(other, X))


def test_how_it_is_called():
    forward, frozen = nnx(net(), call=lambda m, x: m(x / 2, scale=3.0))
    close(forward(frozen, X), 3 * by_hand(frozen, X / 2))


def test_the_gradient_reaches_the_input_alone():
    forward, frozen = nnx(net())
    slope = jax.jit(jax.grad(lambda x: forward(frozen, x).sum()))(X)
    close(slope, jax.grad(lambda x: by_hand(frozen, x).sum())(X))


def test_a_layer_called_twice_is_numbered():
    forward, frozen = nnx(net(order=(0, 1, 0)))
    assert "layers/0#2:in" in sites(forward, frozen, X)
    for site, before in (
        ("layers/0:in", (1, 0, 0)),
        ("layers/0#2:in", (0, 0, 1)),
        ("layers/0/linear#2:in", (0, 0, 1)),
    ):
        expected = by_hand(frozen, X, before, (0, 1, 0))
        close(moved(forward, frozen, site), expected)


def test_a_shared_module_has_its_first_path():
    model = net()
    model.again = model.layers[1]  # "again" comes before "layers"
    forward, frozen = nnx(model, call=lambda m, x: m.head(m.again(m.layers[1](x))))
    assert set(frozen["layers"]) == {"0"} and "norm" in frozen["again"]
    layers = {"layers": {"1": frozen["again"]}, "head": frozen["head"]}
    for site, before in (("again:in", (1, 0)), ("again#2:in", (0, 1))):
        expected = by_hand(layers, X, before, order=(1, 1))
        close(moved(forward, frozen, site), expected)


TRANSFORMED = {
    "jit": flax_nnx.jit(lambda layer, x: layer(x)),
    "remat": flax_nnx.remat(lambda layer, x: layer(x)),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_inside_jit_and_remat_each_layer_and_program_has_its_own_edits(name):
    """One traced body must not serve another layer, nor another program."""
    forward, frozen = nnx(net(through=TRANSFORMED[name]))
    for run in (lambda f: f, jax.jit):
        bare = run(forward)(frozen, X)
        close(bare, by_hand(frozen, X))
        close(moved(run_of(forward, run), frozen, "layers/0:in"), expected(frozen, 0))
        close(moved(run_of(forward, run), frozen, "layers/1:in"), expected(frozen, 1))
        close(run(forward)(frozen, X), by_hand(frozen, X))


def run_of(forward, run):
    return lambda frozen, x, edit: run(lambda f, x: forward(f, x, edit=edit))(frozen, x)


def expected(frozen, layer):
    return by_hand(frozen, X, [float(i == layer) for i in range(2)])


@pytest.mark.parametrize("name", TRANSFORMED)
def test_inside_jit_and_remat_gradients_are_right_and_nothing_is_recorded(name):
    forward, frozen = nnx(net(through=TRANSFORMED[name]))
    program = reprogram(forward, {"layers/1:in": add(ONE)})
    params = program.init(jax.random.key(0), frozen, X)

    def cost(learnable):
        return program.apply(params._replace(learnable=learnable), frozen, X).sum()

    slope = jax.jit(jax.grad(cost))(params.learnable)["layers/1:in"]
    wanted = jax.grad(lambda one: by_hand(frozen, X, (0, one)).sum())(jnp.ones(4))
    close(slope, wanted)
    with pytest.raises(ValueError, match="lies inside remat.* a jit within"):
        record(forward, ["layers/1/linear:out"])(frozen, X)


class Stacked(flax_nnx.Module):
    """Three layers made by nnx.vmap and called by nnx.scan."""

    def __init__(self, rngs):
        @flax_nnx.split_rngs(splits=3)
        @flax_nnx.vmap
        def make(rngs):
            return flax_nnx.Linear(4, 4, rngs=rngs)

        self.layers = make(rngs)

    def __call__(self, x):
        carry = flax_nnx.Carry

        @flax_nnx.scan(in_axes=(carry, 0), out_axes=carry)
        def run(x, layer):
            return jnp.tanh(layer(x))

        return run(x, self.layers)


def test_scanned_layers_have_one_site_and_are_all_edited():
    forward, frozen = nnx(Stacked(flax_nnx.Rngs(0)))
    assert list(sites(forward, frozen, X)) == [
        "input",
        *_ends("layers"),
        "output",
    ]
    expected = X
    for i in range(3):
        own = jax.tree.map(lambda a, i=i: a[i], frozen["layers"])
        expected = jnp.tanh((expected + 1) @ own["kernel"] + own["bias"])
    close(moved(forward, frozen, "layers:in"), expected)
    with pytest.raises(ValueError, match="did you mean 'layers:in'"):
        moved(forward, frozen, "layers/0:in")
    with pytest.raises(ValueError, match="lies inside"):
        record(forward, ["layers:in"])(frozen, X)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: jax.vmap(m)(x),
        lambda m, x: flax_nnx.vmap(lambda m, x: m(x), in_axes=(None, 0))(m, x),
    ],
)
def test_a_module_of_one_example_is_refused(call):
    one = flax_nnx.Sequential(flax_nnx.Linear(4, 4, rngs=flax_nnx.Rngs(0)))
    forward, frozen = nnx(one, call)
    with pytest.raises(ValueError, match="one example at a time"):
        moved(forward, frozen, "layers/0:in", x=jnp.ones((4, 4, 4)))
