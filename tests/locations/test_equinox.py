"""An equinox module as a forward: one example inside, whole batches at the sites."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import record, reprogram, sites
from reprojax.formats import learnable
from reprojax.locations import equinox
from reprojax.operators import add, insert

pytestmark = pytest.mark.verify
eqx = pytest.importorskip("equinox")

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
ROWS = np.random.default_rng(1).normal(size=(5, 4))
ONE = learnable(jnp.asarray(ROWS, jnp.float32))  # another number for each token
ADDED, SOFT = add(ONE), add(learnable(jax.nn.initializers.normal(1.0)))
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


class Layer(eqx.Module):
    """Over the tokens of one example, [L D]."""

    linear: eqx.nn.Linear
    drop: eqx.nn.Dropout

    def __init__(self, key):
        self.linear = eqx.nn.Linear(4, 4, key=key)
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x):
        return self.drop(jnp.tanh(jax.vmap(self.linear)(x)))


class Net(eqx.Module):
    layers: list
    head: eqx.nn.Linear
    through: object = eqx.field(static=True)
    order: tuple = eqx.field(static=True)

    def __init__(self, through=lambda layer, x: layer(x), order=(0, 1)):
        keys = jax.random.split(jax.random.key(0), 3)
        self.layers = [Layer(key) for key in keys[:2]]
        self.head = eqx.nn.Linear(4, 2, key=keys[2])
        self.through, self.order = through, order

    def __call__(self, x):
        for i in self.order:
            x = self.through(self.layers[i], x)
        return self.head(x.mean(0))


def by_hand(frozen, x, before=(), order=(0, 1)):
    """`before`: what is added to the input of each visit's layer."""
    before = dict(enumerate(before))
    for visit, i in enumerate(order):
        own = frozen["layers"][str(i)]["linear"]
        x = jnp.tanh((x + before.get(visit, 0)) @ own["weight"].T + own["bias"])
    return x.mean(1) @ frozen["head"]["weight"].T + frozen["head"]["bias"]


def moved(forward, frozen, site, x=X, what=ADDED):
    program = reprogram(forward, {site: what})
    params = program.init(jax.random.key(0), frozen, x)
    return jax.jit(program.apply)(params, frozen, x)


def test_the_forward_is_the_module_in_evaluation():
    model = Net()
    forward, frozen = equinox(model)
    assert frozen["layers"]["1"]["linear"]["weight"] is model.layers[1].linear.weight
    for run in (forward, jax.jit(forward)):
        close(run(frozen, X), by_hand(frozen, X))
    assert type(model.layers[0]) is Layer and not model.layers[0].drop.inference
    other = jax.tree.map(lambda a: a + 0.1, frozen)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), frozen, other)
    close(jax.vmap(forward, (0, None))(both, X)[1], by_hand(other, X))
    with pytest.raises(ValueError, match=r"Net differ in \['layers/0.*that equinox"):
        forward({"head": frozen["head"]}, X)


def test_sites_have_whole_batches_with_the_tokens_too():
    forward, frozen = equinox(Net())
    listed = sites(forward, frozen, X)
    assert list(listed)[:4] == ["input", "layers/0:in"] + [
        f"layers/0/linear:{end}" for end in ("in", "out")
    ]
    assert listed["layers/0/linear:in"] == (3, 5, 4) and listed["head:in"] == (3, 4)
    _, seen = record(forward, ["layers/1:in", "head:in"])(frozen, X)
    assert seen["layers/1:in"].shape == (3, 5, 4)
    own = frozen["head"]
    close(seen["head:in"] @ own["weight"].T + own["bias"], by_hand(frozen, X))


def test_edits_and_their_gradients_are_those_by_hand():
    forward, frozen = equinox(Net())
    close(moved(forward, frozen, "layers/0:in"), by_hand(frozen, X, (ROWS,)))
    close(moved(forward, frozen, "layers/1/linear:in"), by_hand(frozen, X, (0, ROWS)))
    program = reprogram(forward, {"layers/1:in": insert(ONE, 5)})
    params = program.init(jax.random.key(0), frozen, X)

    def cost(learnable):
        own = params._replace(learnable=learnable)
        return (program.apply(own, frozen, X) ** 2).sum()

    same = lambda rows: (by_hand_inserted(frozen, rows) ** 2).sum()
    found = jax.jit(jax.grad(cost))(params.learnable)["layers/1:in"]
    close(found, jax.grad(same)(jnp.asarray(ROWS, jnp.float32)))
    two = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    both = jax.vmap(program.apply, (0, None, None))(two, frozen, X)
    close(both[1], by_hand_inserted(frozen, 2 * ROWS))


def by_hand_inserted(frozen, rows):
    dense = lambda x, own: jnp.tanh(x @ own["weight"].T + own["bias"])
    first, second = (frozen["layers"][i]["linear"] for i in "01")
    h = jnp.concatenate([jnp.repeat(rows[None], 3, 0), dense(X, first)], 1)
    own = frozen["head"]
    return dense(h, second).mean(1) @ own["weight"].T + own["bias"]


def test_a_row_has_its_own_prompt():
    """An edit of the batch may give each row another value."""
    forward, frozen = equinox(Net())
    rows = jnp.arange(3.0)[:, None, None]
    edit = lambda site, value: value + rows if site == "layers/0:in" else value
    close(forward(frozen, X, edit), by_hand(frozen, X + rows))
    put = lambda site, value: jnp.ones((3, 4)) if site == "head:in" else value
    close(
        forward(frozen, X, put)[0],
        frozen["head"]["weight"].sum(1) + frozen["head"]["bias"],
    )


def test_a_layer_called_twice_is_numbered():
    forward, frozen = equinox(Net(order=(0, 1, 0)))
    for site in ("layers/0#2:in", "layers/0/linear#2:in"):
        expected = by_hand(frozen, X, (0, 0, ROWS), (0, 1, 0))
        close(moved(forward, frozen, site), expected)


class Normed(eqx.Module):
    norm: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="ema")
        self.head = eqx.nn.Linear(4, 2, key=jax.random.key(0))

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.head(x), state


def test_batch_norm_has_its_stored_statistics():
    model, state = eqx.nn.make_with_state(Normed)()
    forward, frozen = equinox(model, state=state)
    x, inference = X[:, 0], eqx.nn.inference_mode(model)
    spread = lambda a: a if a.dtype == bool else a + 0.5 * jnp.arange(a.size)
    frozen["state"] = jax.tree.map(spread, frozen["state"])
    own = jax.tree.map(spread, state)
    expected = jax.vmap(lambda x: inference(x, own)[0])(x)
    close(jax.jit(forward)(frozen, x), expected)
    assert not np.allclose(expected, jax.vmap(lambda x: inference(x, state)[0])(x))
    assert sites(forward, frozen, x)["norm:in"] == (3, 4)


# -- scan, jit and remat


class Stacked(eqx.Module):
    layers: eqx.nn.Linear

    def __init__(self):
        make = lambda key: eqx.nn.Linear(4, 4, key=key)
        self.layers = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 3))

    def __call__(self, x):
        arrays, rest = eqx.partition(self.layers, eqx.is_array)
        step = lambda x, own: (jnp.tanh(jax.vmap(eqx.combine(own, rest))(x)), None)
        return jax.lax.scan(step, x, arrays)[0]


THROUGH = {
    "jit": eqx.filter_jit(lambda layer, x: layer(x)),
    "remat": eqx.filter_checkpoint(lambda layer, x: layer(x)),
}


@pytest.mark.parametrize("name", ["scan", *THROUGH])
def test_within_scan_jit_and_remat_edits_are_refused(name):
    scan = name == "scan"
    model = Stacked() if scan else Net(through=THROUGH[name])
    site = "layers:in" if scan else "layers/0/linear:in"
    forward, frozen = equinox(model)
    expected = jax.vmap(eqx.nn.inference_mode(model))(X)
    close(jax.jit(forward)(frozen, X), expected)
    with pytest.raises(ValueError, match=f"'{site}' lies inside scan.*Python loop"):
        moved(forward, frozen, site, what=SOFT)
    with pytest.raises(ValueError, match="lies inside remat, scan"):
        record(forward, [site])(frozen, X)
    close(
        moved(forward, frozen, "input"),
        jax.vmap(eqx.nn.inference_mode(model))(X + ROWS),
    )


class Scale(eqx.Module):
    """Takes the whole batch, [B L D], as its layers do."""

    scale: jax.Array

    def __call__(self, x):
        return jnp.tanh(x * self.scale)


class Batches(eqx.Module):
    layers: Scale

    def __call__(self, x):
        arrays, rest = eqx.partition(self.layers, eqx.is_array)
        return jax.lax.scan(
            lambda x, own: (eqx.combine(own, rest)(x), None), x, arrays
        )[0]


def test_a_module_of_whole_batches_has_one_site_for_its_scanned_layers():
    scales = jnp.asarray([[1.0, 2, 3, 4], [2, 1, 2, 1]])
    forward, frozen = equinox(Batches(Scale(scales)), each=False)
    expected = X
    for scale in scales:
        expected = jnp.tanh((expected + ROWS) * scale)
    close(moved(forward, frozen, "layers:in"), expected)
    with pytest.raises(ValueError, match="one site serves all layers"):
        moved(forward, frozen, "layers:in", what=insert(ONE, 5))
    mapped = equinox(Net(), lambda m, x: jax.vmap(m)(x), each=False)
    with pytest.raises(ValueError, match="one example at a time"):
        moved(*mapped, "layers/0:in", what=SOFT)


def test_what_is_refused(unchecked):
    with pytest.raises(ValueError, match="equinox got function, expected an equinox"):
        equinox(by_hand)
    forward, frozen = equinox(Net())
    with pytest.raises(ValueError, match="made .* where the model maps over 5"):
        moved(forward, frozen, "layers/0/linear:in", what=insert(ONE, 5))
    with pytest.raises(ValueError, match="did you mean 'layers/1:in'"):
        moved(forward, frozen, "layer/1:in")
