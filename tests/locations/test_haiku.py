"""What hk.transform gives as a forward."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import record, reprogram, sites
from reprojax.formats import learnable
from reprojax.locations import haiku
from reprojax.operators import add, insert

pytestmark = pytest.mark.verify
hk = pytest.importorskip("haiku")

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
ROWS = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
ADDED = add(learnable(ROWS))
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


class Layer(hk.Module):
    def __call__(self, x, is_training):
        x = jnp.tanh(hk.Linear(4, name="linear")(x))
        return hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x


class Loud(Layer):
    def __call__(self, x, is_training):
        return 2 * super().__call__(x, is_training)


def net(x, is_training=False):
    first, second = Layer(name="layer_0"), Loud(name="layer_1")
    x = first(second(first(x, is_training), is_training), is_training)
    return {"logits": hk.Linear(2, name="head")(x.mean(1))}


def made(function=net, x=X):
    transformed = hk.transform(function)
    return transformed, transformed.init(jax.random.key(0), x)


LOGITS = lambda f, x: f(x)["logits"]


def by_hand(frozen, x, before=(), order=(0, 1, 0)):
    before = dict(enumerate(before))
    for visit, i in enumerate(order):
        own = frozen[f"layer_{i}/linear"]
        x = (1 + i) * jnp.tanh((x + before.get(visit, 0)) @ own["w"] + own["b"])
    return x.mean(1) @ frozen["head"]["w"] + frozen["head"]["b"]


def moved(forward, frozen, site, x=X, what=ADDED):
    program = reprogram(forward, {site: what})
    params = program.init(jax.random.key(0), frozen, x)
    return jax.jit(program.apply)(params, frozen, x)


def test_the_forward_is_the_function_and_its_sites_are_its_modules():
    transformed, frozen = made()
    forward = haiku(transformed, LOGITS)
    expected = transformed.apply(frozen, None, X)["logits"]
    np.testing.assert_array_equal(forward(frozen, X), expected)
    close(forward(frozen, X), by_hand(frozen, X))
    listed = sites(forward, frozen, X)
    assert list(listed)[:3] == ["input", "layer_0:in", "layer_0/linear:in"]
    assert not any(site.startswith("layer_1#2") for site in listed)  # by super()
    assert listed["head:in"] == (3, 4) and "layer_0/linear#2:out" in listed
    _, seen = record(forward, ["head:in"])(frozen, X)
    close(seen["head:in"] @ frozen["head"]["w"] + frozen["head"]["b"], expected)


def test_without_a_key_in_its_signature():
    transformed, frozen = made()
    forward = haiku(hk.without_apply_rng(transformed), LOGITS)
    close(forward(frozen, X), by_hand(frozen, X))


def test_edits_and_their_gradients_are_those_by_hand():
    transformed, frozen = made()
    forward = haiku(transformed, LOGITS)
    for site, before in (
        ("layer_0:in", (ROWS,)),
        ("layer_1/linear:in", (0, ROWS)),
        ("layer_0#2:in", (0, 0, ROWS)),
    ):
        close(moved(forward, frozen, site), by_hand(frozen, X, before))
    program = reprogram(forward, {"layer_1:in": add(learnable(ROWS))})
    params = program.init(jax.random.key(0), frozen, X)

    def cost(learnable):
        return program.apply(params._replace(learnable=learnable), frozen, X).sum()

    found = jax.jit(jax.grad(cost))(params.learnable)["layer_1:in"]
    close(found, jax.grad(lambda r: by_hand(frozen, X, (0, r)).sum())(ROWS))
    two = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    both = jax.vmap(program.apply, (0, None, None))(two, frozen, X)
    close(both[1], by_hand(frozen, X, (0, 2 * ROWS)))
    close(
        moved(forward, frozen, "layer_1:in", what=insert(learnable(ROWS), 5)).shape,
        (3, 2),
    )


def test_batch_norm_has_its_stored_statistics():
    def function(x, is_training):
        x = hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training)
        return hk.Linear(2, name="head")(x)

    transformed = hk.transform_with_state(function)
    params, state = transformed.init(jax.random.key(0), X[:, 0], is_training=True)
    state = jax.tree.map(lambda a: a + 0.5, state)
    frozen = {"params": params, "state": state}
    forward = haiku(transformed, is_training=False)
    expected = transformed.apply(params, state, None, X[:, 0], is_training=False)[0]
    close(jax.jit(forward)(frozen, X[:, 0]), expected)
    assert not np.allclose(
        haiku(transformed, is_training=False)(
            {"params": params, "state": jax.tree.map(lambda a: a + 1, state)}, X[:, 0]
        ),
        expected,
    )
    with pytest.raises(ValueError, match="'norm' was called with is_training=True"):
        haiku(transformed, is_training=True)(frozen, X[:, 0])
    with pytest.raises(ValueError, match="got .'head'.*expected {\"params\""):
        forward({"head": params["head"]}, X[:, 0])


def layer(x):
    return jnp.tanh(hk.Linear(4, name="linear")(x))


def stacked(x):
    """The linear layer outside has the name of those inside."""
    x = hk.Linear(4, name="linear")(x)
    for _ in range(2):
        x = hk.layer_stack(3)(layer)(x)
    return hk.remat(hk.Linear(2, name="head"))(x)


def test_stacked_layers_have_one_site_which_is_no_other_layers():
    transformed, frozen = made(stacked)
    forward, names = haiku(transformed), "__layer_stack_no_per_layer"
    close(forward(frozen, X), transformed.apply(frozen, None, X))
    assert list(sites(forward, frozen, X)) == [
        "input",
        *(
            f"{path}linear:{end}"
            for path in ("", f"{names}/", f"{names}_1/")
            for end in ("in", "out")
        ),
        "head:in",
        "head:out",
        "output",
    ]

    def expected(first=0, inner=0, last=0):
        own = lambda path: (frozen[path]["w"], frozen[path]["b"])
        w, b = own("linear")
        x = (X + first) @ w + b
        for path, what in ((f"{names}/linear", inner), (f"{names}_1/linear", last)):
            w, b = own(path)
            for i in range(3):
                x = jnp.tanh((x + what) @ w[i] + b[i])
        w, b = own("head")
        return x @ w + b

    close(moved(forward, frozen, "linear:in"), expected(first=ROWS))
    close(moved(forward, frozen, f"{names}/linear:in"), expected(inner=ROWS))
    close(moved(forward, frozen, f"{names}_1/linear:in"), expected(last=ROWS))
    with pytest.raises(ValueError, match="one site serves all layers.*Python loop"):
        moved(forward, frozen, f"{names}/linear:in", what=insert(learnable(ROWS), 5))


def test_a_transform_within_that_cannot_be_told_is_refused():
    inner = hk.transform(layer)
    own = inner.init(jax.random.key(1), X)
    transformed, frozen = made(lambda x: hk.Linear(4)(inner.apply(own, None, x)))
    with pytest.raises(ValueError, match="'linear' lies in a transform.*Python loop"):
        haiku(transformed)(frozen, X)


def test_what_is_no_transformed_function_is_refused(unchecked):
    with pytest.raises(ValueError, match="got function, expected what hk.transform"):
        haiku(net)
