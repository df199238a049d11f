"""The tiny vision transformer of `backbones` in equinox, haiku and keras.

Each is (forward, frozen) with the weights of the linen tree, and its names of sites.
Nothing is imported before it is asked for: `make test` has none of the three.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.locations import equinox, haiku, keras

KINDS = ("equinox", "haiku", "keras")


def transformer(kind, params):
    """(forward, frozen) of a linen tree's params."""
    make = {"equinox": _equinox, "haiku": _haiku, "keras": _keras}[kind]
    return make(pytest.importorskip(kind), jax.tree.map(jnp.asarray, params))


def _dense(own):
    """Kernel [in out] and bias [out], of heads [in h d] too."""
    kernel = own["kernel"].reshape(own["kernel"].shape[0], -1)
    return kernel, own["bias"].reshape(-1)


def _attended(q, k, v, heads):
    """Of [B L D], or of [L D]."""
    split = lambda a: a.reshape(*a.shape[:-1], heads, -1)
    q, k, v = split(q), split(k), split(v)
    scores = jnp.einsum("...lhd,...mhd->...hlm", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("...hlm,...mhd->...lhd", jax.nn.softmax(scores), v)
    return mixed.reshape(*mixed.shape[:-2], -1)


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)


def _equinox(eqx, p):
    class Block(eqx.Module):
        norm_1: eqx.nn.LayerNorm
        query: eqx.nn.Linear
        key: eqx.nn.Linear
        value: eqx.nn.Linear
        out: eqx.nn.Linear
        norm_2: eqx.nn.LayerNorm
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __call__(self, x):  # [L D]
            h = jax.vmap(self.norm_1)(x)
            q, k, v = (jax.vmap(m)(h) for m in (self.query, self.key, self.value))
            x = x + jax.vmap(self.out)(_attended(q, k, v, 2))
            h = jax.vmap(self.up)(jax.vmap(self.norm_2)(x))
            return x + jax.vmap(self.down)(_gelu(h))

    class ViT(eqx.Module):
        patches: eqx.nn.Conv2d
        class_token: jax.Array
        positions: jax.Array
        block_0: Block
        block_1: Block
        norm: eqx.nn.LayerNorm
        head: eqx.nn.Linear

        def __call__(self, x):  # [H W C]
            x = self.patches(x.transpose(2, 0, 1)).reshape(16, -1).T
            x = jnp.concatenate([self.class_token, x]) + self.positions
            x = self.block_1(self.block_0(x))
            return self.head(self.norm(x[0]))

    key = jax.random.key(0)
    norm = lambda own: _set(
        eqx, eqx.nn.LayerNorm(16, eps=1e-6), own["scale"], own["bias"]
    )

    def linear(own):
        kernel, bias = _dense(own)
        return _set(eqx, eqx.nn.Linear(*kernel.shape, key=key), kernel.T, bias)

    def block(own):
        a, m = own["attention"], own["mlp"]
        heads = (linear(a[name]) for name in ("query", "key", "value", "out"))
        norms = norm(own["norm_1"]), norm(own["norm_2"])
        return Block(norms[0], *heads, norms[1], linear(m["up"]), linear(m["down"]))

    patches = _set(
        eqx,
        eqx.nn.Conv2d(3, 16, 8, 8, key=key),
        p["patches"]["kernel"].transpose(3, 2, 0, 1),
        p["patches"]["bias"].reshape(-1, 1, 1),
    )
    blocks = block(p["block_0"]), block(p["block_1"])
    tables = p["class_token"][0], p["positions"][0]
    model = ViT(patches, *tables, *blocks, norm(p["norm"]), linear(p["head"]))
    return equinox(model)


def _set(eqx, layer, weight, bias):
    where = lambda layer: (layer.weight, layer.bias)
    assert jax.tree.map(jnp.shape, where(layer)) == (weight.shape, bias.shape)
    return eqx.tree_at(where, layer, (weight, bias))


def _haiku(hk, p):
    norm = lambda name: hk.LayerNorm(-1, True, True, eps=1e-6, name=name)

    class Block(hk.Module):
        def __call__(self, x):
            h = norm("norm_1")(x)
            q, k, v = (hk.Linear(16, name=n)(h) for n in ("query", "key", "value"))
            x = x + hk.Linear(16, name="out")(_attended(q, k, v, 2))
            h = hk.Linear(32, name="up")(norm("norm_2")(x))
            return x + hk.Linear(16, name="down")(_gelu(h))

    def function(x):
        x = hk.Conv2D(16, 8, 8, padding="VALID", name="patches")(x)
        x = x.reshape(len(x), -1, 16)
        token = hk.get_parameter("class_token", (1, 1, 16), init=jnp.zeros)
        x = jnp.concatenate([jnp.repeat(token, len(x), 0), x], 1)
        x = x + hk.get_parameter("positions", (1, 5, 16), init=jnp.zeros)
        for i in range(2):
            x = Block(name=f"block_{i}")(x)
        return hk.Linear(p["head"]["bias"].size, name="head")(norm("norm")(x)[:, 0])

    transformed = hk.transform(function)
    normed = lambda own: {"scale": own["scale"], "offset": own["bias"]}
    linear = lambda own: dict(zip("wb", _dense(own), strict=True))
    frozen = {
        "~": {"class_token": p["class_token"], "positions": p["positions"]},
        "patches": {"w": p["patches"]["kernel"], "b": p["patches"]["bias"]},
        "norm": normed(p["norm"]),
        "head": linear(p["head"]),
    }
    for i in range(2):
        own = p[f"block_{i}"]
        parts = {**own["attention"], **own["mlp"]}
        frozen |= {f"block_{i}/{name}": linear(part) for name, part in parts.items()}
        for name in ("norm_1", "norm_2"):
            frozen[f"block_{i}/{name}"] = normed(own[name])
    shapes = jax.eval_shape(
        transformed.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3))
    )
    assert jax.tree.map(jnp.shape, frozen) == jax.tree.map(jnp.shape, shapes)
    return haiku(transformed), frozen


def _keras(ks, p):
    layers = ks.layers
    norm = lambda name: layers.LayerNormalization(epsilon=1e-6, name=name)

    class Block(layers.Layer):
        def __init__(self, name):
            super().__init__(name=name)
            self.parts = {n: norm(n) for n in ("norm_1", "norm_2")}
            for n in ("query", "key", "value", "out", "down"):
                self.parts[n] = layers.Dense(16, name=n)
            self.parts["up"] = layers.Dense(32, name="up")

        def call(self, x):
            h = self.parts["norm_1"](x)
            q, k, v = (self.parts[n](h) for n in ("query", "key", "value"))
            x = x + self.parts["out"](_attended(q, k, v, 2))
            h = self.parts["up"](self.parts["norm_2"](x))
            return x + self.parts["down"](_gelu(h))

    class ViT(ks.Model):
        def __init__(self):
            super().__init__(name="vit")
            self.patches = layers.Conv2D(16, 8, 8, name="patches")
            self.token = self.add_weight(shape=(1, 1, 16), name="class_token")
            self.positions = self.add_weight(shape=(1, 5, 16), name="positions")
            self.blocks = [Block(f"block_{i}") for i in range(2)]
            self.norm = norm("norm")
            self.head = layers.Dense(p["head"]["bias"].size, name="head")

        def call(self, x):
            x = self.patches(x).reshape(len(x), -1, 16)
            token = jnp.repeat(jnp.asarray(self.token), len(x), 0)
            x = jnp.concatenate([token, x], 1) + self.positions
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)[:, 0])

    model = ViT()
    model(np.zeros((1, 16, 16, 3), np.float32))
    forward, theirs = keras(model)
    normed = lambda own: {"gamma": own["scale"], "beta": own["bias"]}
    linear = lambda own: dict(zip(("kernel", "bias"), _dense(own), strict=True))
    frozen = {name: p[name] for name in ("class_token", "positions", "patches")}
    frozen |= {"norm": normed(p["norm"]), "head": linear(p["head"])}
    for i in range(2):
        own = p[f"block_{i}"]
        parts = {**own["attention"], **own["mlp"]}
        frozen[f"block_{i}"] = {name: linear(part) for name, part in parts.items()}
        for name in ("norm_1", "norm_2"):
            frozen[f"block_{i}"][name] = normed(own[name])
    assert jax.tree.map(jnp.shape, frozen) == jax.tree.map(jnp.shape, theirs)
    return forward, frozen
