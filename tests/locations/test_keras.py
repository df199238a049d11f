"""A keras model as a forward."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import record, reprogram, sites
from reprojax.formats import learnable
from reprojax.locations import keras
from reprojax.operators import add, insert

pytestmark = pytest.mark.verify
ks = pytest.importorskip("keras")

X = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
ROWS = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
ADDED = add(learnable(ROWS))
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def net(order=(0, 1), **kw):
    """A functional model: blocks that are models themselves, batch norm, dropout."""
    dense = lambda n: ks.layers.Dense(n, "tanh", name="dense")
    blocks = [
        ks.Sequential(
            [
                dense(4),
                ks.layers.BatchNormalization(name="norm"),
                ks.layers.Dropout(0.5),
            ],
            name=f"block_{i}",
        )
        for i in range(2)
    ]
    given = x = ks.Input((None, 4))
    for i in order:
        x = blocks[i](x)
    x = ks.layers.GlobalAveragePooling1D(name="pool")(x)
    model = ks.Model(given, ks.layers.Dense(2, name="head")(x), name="net", **kw)
    random = np.random.default_rng(2)
    model.set_weights([random.uniform(0.5, 1, w.shape) for w in model.weights])
    return model


def by_hand(frozen, x, before=(), order=(0, 1)):
    before = dict(enumerate(before))
    for visit, i in enumerate(order):
        own = frozen[f"block_{i}"]
        dense, norm = own["dense"], own["norm"]
        x = jnp.tanh((x + before.get(visit, 0)) @ dense["kernel"] + dense["bias"])
        x = (x - norm["moving_mean"]) / jnp.sqrt(norm["moving_variance"] + 1e-3)
        x = x * norm["gamma"] + norm["beta"]
    return x.mean(1) @ frozen["head"]["kernel"] + frozen["head"]["bias"]


def moved(forward, frozen, site, what=ADDED):
    program = reprogram(forward, {site: what})
    params = program.init(jax.random.key(0), frozen, X)
    return jax.jit(program.apply)(params, frozen, X)


def test_the_forward_is_the_model_in_evaluation():
    model = net()
    forward, frozen = keras(model)
    before = [weight.value for weight in model.weights]
    for run in (forward, jax.jit(forward)):
        close(run(frozen, X), model(X, training=False))
    close(forward(frozen, X), by_hand(frozen, X))
    assert frozen["head"]["kernel"] is model.layers[-1].kernel.value
    other = jax.tree.map(lambda a: a + 0.1, frozen)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), frozen, other)
    close(jax.vmap(forward, (0, None))(both, X)[1], by_hand(other, X))
    assert all(w.value is b for w, b in zip(model.weights, before, strict=True))
    assert not any("call" in vars(layer) for layer in model.layers)
    with pytest.raises(ValueError, match=r"net differ in \['block_0.*that keras"):
        forward({"head": frozen["head"]}, X)


def test_sites_are_named_by_layers_in_layers():
    forward, frozen = keras(net(order=(0, 1, 0)))
    listed = sites(forward, frozen, X)
    assert list(listed)[:4] == [
        "input",
        "block_0:in",
        "block_0/dense:in",
        "block_0/dense:out",
    ]
    assert listed["block_0/norm#2:in"] == (3, 5, 4) and listed["head:in"] == (3, 4)
    _, seen = record(forward, ["head:in"])(frozen, X)
    own = frozen["head"]
    expected = by_hand(frozen, X, order=(0, 1, 0))
    close(seen["head:in"] @ own["kernel"] + own["bias"], expected)
    found = moved(forward, frozen, "block_0#2:in")
    close(found, by_hand(frozen, X, (0, 0, ROWS), (0, 1, 0)))


def test_edits_and_their_gradients_are_those_by_hand():
    forward, frozen = keras(net())
    close(moved(forward, frozen, "block_0:in"), by_hand(frozen, X, (ROWS,)))
    close(moved(forward, frozen, "block_1/dense:in"), by_hand(frozen, X, (0, ROWS)))
    program = reprogram(forward, {"block_1:in": insert(learnable(ROWS), 5)})
    params = program.init(jax.random.key(0), frozen, X)

    def cost(learnable):
        return program.apply(params._replace(learnable=learnable), frozen, X).sum()

    def same(rows):
        second = {**frozen, "block_0": frozen["block_1"]}
        _, seen = record(forward, ["block_1:in"])(frozen, X)
        x = jnp.concatenate([jnp.repeat(rows[None], 3, 0), seen["block_1:in"]], 1)
        return by_hand(second, x, order=(0,)).sum()

    found = jax.jit(jax.grad(cost))(params.learnable)["block_1:in"]
    close(found, jax.grad(same)(ROWS))
    two = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    both = jax.vmap(program.apply, (0, None, None))(two, frozen, X)
    close(both[1].sum(), same(2 * ROWS))


def test_a_pass_within_a_pass_has_its_own_edits():
    """As a manipulation that looks at the model's own features does."""
    forward, frozen = keras(net())

    def edit(site, value):
        return value + forward(frozen, X).mean() if site == "head:in" else value

    own = frozen["head"]["kernel"].sum(0)
    plain = forward(frozen, X)
    close(forward(frozen, X, edit), plain + plain.mean() * own)


def test_a_layer_inside_a_loop_has_one_site_for_all_steps():
    cell = ks.layers.SimpleRNNCell(4, name="cell")
    model = ks.Sequential([ks.Input((5, 4)), ks.layers.RNN(cell, name="rnn")])
    forward, frozen = keras(model)
    close(forward(frozen, X), model(X))
    assert sites(forward, frozen, X)["rnn/cell:in"] == (3, 4)
    row = learnable(ROWS[0])
    close(moved(forward, frozen, "rnn/cell:in", add(row)), model(X + ROWS[0]))
    with pytest.raises(ValueError, match="lies inside"):
        record(forward, ["rnn/cell:in"])(frozen, X)


def test_what_is_refused(unchecked, monkeypatch):
    with pytest.raises(ValueError, match="keras got function, expected a keras.Model"):
        keras(net)
    with pytest.raises(ValueError, match="'bare' has no weights yet.*model.build"):
        keras(ks.Sequential([ks.layers.Dense(2)], name="bare"))
    model = net()
    monkeypatch.setattr(ks.config, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="with torch, expected jax.*KERAS_BACKEND=jax"):
        keras(model)


def test_the_adapter_imports_no_keras():
    code = (
        "import sys\nfrom reprojax.locations import keras\n"
        "try: keras(print)\nexcept ValueError as error: print(error)\n"
        "print('keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "expected a keras.Model" in done.stdout and done.stdout.endswith("False\n")
