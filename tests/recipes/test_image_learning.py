"""Laws of learning: each image method, trained beside its paper's algorithm by hand.

The frozen model is shared, as a function and its pull-back; prompt, loss, map, schedule
and optimiser are written a second time, in NumPy or, where a mask network or attention
has to be differentiated, in PyTorch. Forward passes cannot show what is wrong here: a
start of another scale, a loss of other classes, a rate that falls at another epoch.
"""

from functools import cache, partial

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_languages as small
from jax.flatten_util import ravel_pytree

from reprojax.alignments import label_words
from reprojax.core import last_value
from reprojax.data import Split
from reprojax.recipes import find_alignment, find_method, linear_probe
from reprojax.recipes.model_reprogramming import additive_prompt
from reprojax.recipes.model_reprogramming.additive_prompts import METHOD
from reprojax.training import steps
from reprojax.training.losses import Seen

N, T, STEPS = 24, 3, 60
BACKBONE = backbones.convolutional()
X, Y = backbones.photos(N, 16), np.arange(N) % T
STD = np.array(backbones.STD)


# -- ours


def trained(program, preset, rate, backbone=BACKBONE, count=STEPS):
    """(first params, losses [count], last params) of whole-batch training."""
    optimizer = preset.optimizer(rate, 1, count)
    state = steps.begin(program, optimizer, backbone.frozen, X, 0, count)
    first, found, split = state.params, [], Split(X, Y)
    first = jax.tree.map(np.array, first)
    for _ in range(count):
        params = steps.estimate(program, state.params, backbone.frozen, split, N)
        state = state._replace(params=params, loss=jnp.zeros(()))
        what = (program, optimizer, preset.loss, (), state, backbone.frozen)
        state = steps.train_step(*what, jnp.asarray(X), jnp.asarray(Y))
        found.append(float(state.loss))
    return first, np.array(found), state.params


def ours(method, rate=None, **sizes):
    method = find_method(method)
    align = find_alignment(method.alignment).build(T)
    program = method.build(BACKBONE, align, **sizes)
    return trained(program, method.preset, rate or method.preset.learning_rate)


# -- by hand


@cache
def _pulled():
    """(pixels, gradient of the logits) -> gradient of the pixels, normalised both."""
    net, frozen = backbones.residual_net(), BACKBONE.frozen
    back = lambda x, dy: jax.vjp(partial(net.apply, frozen), x)[1](dy)[0]
    return jax.jit(back)


def pulled(normal, dy):
    single = lambda a: np.asarray(a, np.float32)
    return np.asarray(_pulled()(single(normal), single(dy)), np.float64)


def one_hot(labels, classes):
    return np.eye(classes)[labels]


def cross_entropy(y, labels=Y):
    """(mean, gradient) over all columns of y."""
    log, right = by_hand.log_softmax(y), one_hot(labels, y.shape[1])
    return -(log * right).sum() / len(y), (np.exp(log) - right) / len(y)


def adam(rate, b1=0.9):
    state = {"m": 0.0, "v": 0.0, "t": 0}

    def update(g):
        state["t"] += 1
        t = state["t"]
        state["m"] = b1 * state["m"] + (1 - b1) * g
        state["v"] = 0.999 * state["v"] + 0.001 * g**2
        mean, square = state["m"] / (1 - b1**t), state["v"] / (1 - 0.999**t)
        return -rate(t - 1) * mean / (np.sqrt(square) + 1e-8)

    return update


def momentum(rate):
    state = {"m": 0.0, "t": 0}

    def update(g):
        state["m"] = 0.9 * state["m"] + g
        state["t"] += 1
        return -rate(state["t"] - 1) * state["m"]

    return update


def falls(rate):
    """The rate of ILM, BLM and SMM: times .1 at 50 % and at 72 %."""
    ends = int(0.5 * STEPS), int(0.72 * STEPS)
    return lambda t: rate * 0.1 ** sum(t >= end for end in ends)


def warms(rate, warm):
    """The rate of VP and VPT: up in `warm` steps, then down as a cosine."""

    def at(t):
        if t < warm:
            return rate * (t + 1) / warm
        return rate * (1 + np.cos(np.pi * (t - warm) / (STEPS - warm))) / 2

    return at


def descended(start, step, update, count=STEPS):
    """Losses of `step(w) -> (loss, gradient)`, and the last w."""
    w, found = np.asarray(start, np.float64), []
    for _ in range(count):
        value, gradient = step(w)
        found.append(value)
        w = w + update(gradient)
    return np.array(found), w


def inside(before, side):
    mask = np.ones((16, 16, 1))
    mask[before : before + side, before : before + side] = 0
    return mask


def same(found, wanted, share=1e-3):
    fall = wanted[0] - wanted[-1]
    assert fall > 10 * share * wanted[0], wanted[:: len(wanted) // 6]  # it learns
    np.testing.assert_allclose(found, wanted, rtol=share)


def test_adversarial_reprogramming():
    first, found, _ = ours("ar", inner=7)
    image, mask = by_hand.resized(X, 7), inside(5, 7)

    def step(w):
        frame = (1 + np.tanh(w)) / 2
        x = by_hand.normalised(by_hand.framed(image, frame, before=5))
        value, dy = cross_entropy(by_hand.logits(x))  # among all 12 source classes
        slope = (pulled(x, dy) / STD).sum(0) * mask * (1 - np.tanh(w) ** 2) / 2
        return value + 5e-7 * (w**2).sum(), slope + 1e-6 * w

    start = first.learnable["input"]["program"]["prompt"]
    update = adam(lambda t: 0.05 * 0.96 ** (t // 2), b1=0.5)
    same(found, descended(start, step, update)[0])


def test_visual_prompting():
    first, found, _ = ours("vp", rate=2.0, width=3)
    strips = first.learnable["normalized"]
    start, mask = np.zeros((16, 16, 3)), inside(3, 10)
    start[:3], start[-3:] = strips["top"], strips["bottom"]
    start[3:-3, :3], start[3:-3, -3:] = strips["left"], strips["right"]
    image = by_hand.normalised(by_hand.resized(X, 16))

    def step(w):
        y = by_hand.logits(image + w)
        value, dy = cross_entropy(y[:, :T])  # of the first T logits alone
        dy = np.pad(dy, ((0, 0), (0, y.shape[1] - T)))
        return value, pulled(image + w, dy).sum(0) * mask

    same(found, descended(start, step, momentum(warms(2.0, 6)))[0])


def greedy(y, labels=Y, several=1):
    """The map [S T] of the frequencies, largest first, `several` sources a target."""
    counts, chosen = np.zeros((y.shape[1], T)), np.zeros((y.shape[1], T))
    np.add.at(counts, (y.argmax(1), labels), 1)
    for _ in range(T * several):
        s, t = np.unravel_index(counts.argmax(), counts.shape)
        chosen[s, t] = 1
        counts[s] = -1
        if chosen[:, t].sum() == several:
            counts[:, t] = -1
    return chosen / several


def weighed(y):
    """BLM's map: p(t | s), then columns that sum to one."""
    counts = np.zeros((y.shape[1], T))
    np.add.at(counts, (y.argmax(1), Y), 1)
    rows = counts / (counts.sum(1, keepdims=True) + 1)
    return rows / rows.sum(0)


def mapped(x, to_map):
    """(loss, gradient of the pixels) with the map of what the model answers now."""
    y = by_hand.logits(x)
    label_map = to_map(y)
    value, dy = cross_entropy(y @ label_map)
    return value, pulled(x, dy @ label_map.T)


def test_padding_with_iterative_label_mapping():
    method, image = find_method("padding"), by_hand.resized(X, 9)
    program = method.build(BACKBONE, find_alignment("ilm").build(T))
    first, found, _ = trained(program, method.preset, 0.05)

    def step(w):
        border = 1 / (1 + np.exp(-w))
        x = by_hand.normalised(by_hand.framed(image, border, before=4))
        value, dx = mapped(x, greedy)
        return value, (dx / STD).sum(0) * inside(4, 9) * border * (1 - border)

    start = first.learnable["input"]["border"]["prompt"]
    same(found, descended(start, step, adam(falls(0.05)))[0])


def test_watermark_with_bayesian_label_mapping():
    first, found, _ = ours("watermark")
    image = by_hand.normalised(by_hand.resized(X, 16))

    def step(w):
        value, dx = mapped(image + w, weighed)
        return value, dx.sum(0)

    start = first.learnable["normalized"]
    same(found, descended(start, step, adam(falls(0.01)))[0])


def test_linear_probe():
    preset = find_method("watermark").preset._replace(
        optimizer=lambda rate, *_: optax.adam(rate)
    )
    first, found, _ = trained(linear_probe(BACKBONE, targets=T), preset, 0.02)
    features = by_hand.features(by_hand.normalised(by_hand.resized(X, 16)))
    features = (features - features.mean(0)) / features.std(0)
    rows = np.pad(features, ((0, 0), (0, 1)), constant_values=1)

    def step(w):
        value, dy = cross_entropy(rows @ w)
        return value, rows.T @ dy

    head = first.learnable["output"]
    start = np.concatenate([head["kernel"], head["bias"][None]])
    same(found, descended(start, step, adam(lambda t: 0.02))[0])


# -- models that only answer


def searched(program, search, loss, labels, train, count):
    """(first params, losses [count n], points [count ...]) of a search's own steps."""
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    split, key = Split(X, labels), jax.random.key(1)
    params = steps.estimate(program, params, BACKBONE.frozen, split, N)
    state = search.init(key, params.learnable)

    @jax.jit
    def judge(points):
        def one(learnable):
            own = params._replace(learnable=learnable)
            how = {"key": key} if train else {}
            y = program.apply(own, BACKBONE.frozen, X, **how)
            seen = {"output": y}
            return jnp.mean(loss(Seen(seen, jnp.asarray(labels), learnable)))

        return jax.lax.map(one, points)

    values, asked = [], []
    for k in range(count):
        points = search.ask(jax.random.fold_in(key, k), state)
        found = judge(points)
        state = search.tell(state, points, found)
        values.append(np.asarray(found))
        asked.append([np.asarray(ravel_pytree(p)[0], np.float64) for p in each(points)])
    return params, np.array(values), np.array(asked)


def each(points):
    """The trees of a tree with a leading axis."""
    n = len(jax.tree.leaves(points)[0])
    return [jax.tree.map(lambda a, i=i: a[i], points) for i in range(n)]


def test_black_box_reprogramming():
    """One-sided estimates on the sphere, and a focal loss that weighs rare classes."""
    method, labels = find_method("bar"), np.repeat(np.arange(T), (12, 8, 4))
    preset = method.preset
    program = method.build(BACKBONE, find_alignment("bar").build(T), inner=7)
    loss, search = preset.loss(labels, T), preset.search(0.05, 1)
    params, values, asked = searched(program, search, loss, labels, False, STEPS)
    image, weight = by_hand.resized(X, 7), N / (T * np.bincount(labels))

    def answers(w):
        frame = (1 + np.tanh(w.reshape(16, 16, 3))) / 2
        framed = by_hand.framed(image, frame, before=5)
        return by_hand.logits(by_hand.normalised(framed))

    def cost(w, label_map):
        h = (np.exp(by_hand.log_softmax(answers(w))) @ label_map)[np.arange(N), labels]
        return -np.mean(weight[labels] * (1 - h) ** 2 * np.log(h))

    start = ravel_pytree(params.learnable)[0]
    w, found = np.asarray(start, np.float64), []
    label_map = greedy(answers(w), labels, several=4)
    update = adam(lambda t: 0.05 * 0.96 ** (t // 2))
    for points in asked:
        u = (points[:-1] - points[-1]) / 0.1
        np.testing.assert_allclose((u**2).sum(1), 1, rtol=1e-4)
        middle = cost(w, label_map)
        slopes = [(cost(w + 0.1 * v, label_map) - middle) / 0.1 for v in u]
        w = w + update(w.size * np.mean(np.array(slopes)[:, None] * u, 0))
        found.append(middle)
    same(values[:, -1], np.array(found))


def test_black_vip():
    """SPSA with gradient correction: five two-sided estimates, and a look ahead."""
    method = find_method("blackvip")
    align = find_alignment("blm").build(T)
    program = method.build(BACKBONE, align, encoder=BACKBONE)
    loss, search = method.preset.loss(Y, T), method.preset.search(0.05, 1)
    params, values, asked = searched(program, search, loss, Y, True, STEPS)
    image = by_hand.normalised(by_hand.resized(X, 16))
    features = by_hand.features(image)
    low, high = (-np.array(backbones.MEAN) / STD, (1 - np.array(backbones.MEAN)) / STD)
    start, unravel = ravel_pytree(params.learnable)
    label_map = np.asarray(params.fixed["output"])

    def cost(w):
        tree = jax.tree.map(np.asarray, unravel(jnp.asarray(w, jnp.float32)))
        prompt = by_hand.black_vip_prompt(features, tree["normalized"])
        y = by_hand.logits(np.clip(image + prompt, low, high))
        return cross_entropy(y @ label_map)[0]

    w, m, found = np.asarray(start, np.float64), 0.0, []
    for k, points in enumerate(asked):
        c, a = 0.01 / (k + 1) ** 0.1, 0.05 / (k + 2) ** 0.4
        u = (points[:5] - points[5:]) / (2 * c)
        assert 0.49 < np.abs(u).min() and np.abs(u).max() < 1.01
        pairs = np.array([(cost(w + c * v), cost(w - c * v)) for v in u])
        g = np.mean((pairs[:, :1] - pairs[:, 1:]) / (2 * c) / u, 0)
        m = 0.9 * m + g
        w = w - a * (g + 0.9 * m)
        found.append(pairs.mean())
    same(values.mean(1), np.array(found))


# -- networks that PyTorch differentiates


@pytest.mark.verify
@pytest.mark.parametrize("layers, channels", [(5, 3), (6, 3), (5, 1)])
def test_sample_specific_masks(layers, channels):
    import torch

    method = find_method("smm")
    # A fixed map: one that follows stored statistics makes of rounding another map.
    align = find_alignment("first").build(T)
    ours = method.build(BACKBONE, align, layers=layers, pools=2, channels=channels)
    optimizer = method.preset.optimizer(0.01, 1, STEPS)
    state = steps.begin(ours, optimizer, BACKBONE.frozen, X, 0, STEPS)
    what = ours, optimizer, method.preset.loss, ()
    own = state.params.learnable["normalized"]["mask"]
    mask = torch_masks(own, layers, channels)
    program = torch.zeros(3, 16, 16, requires_grad=True)
    slow = 0.001 if layers == 6 else 0.01
    optimizers = [torch.optim.Adam([program], 0.01)]
    optimizers += [torch.optim.Adam(mask.parameters(), slow)]
    ends, rest = [int(0.5 * STEPS), int(0.72 * STEPS)], 1.0 if layers == 6 else 0.1
    schedules = [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, ends, gamma)
        for optimizer, gamma in zip(optimizers, (0.1, rest), strict=True)
    ]
    pixels = by_hand.normalised(by_hand.resized(X, 16))
    image = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    found, wanted, far = [], [], []
    for _ in range(STEPS):
        # Each step of ours starts from torch's numbers: rounding adds up to nothing.
        here = from_torch(state.params.learnable, program, mask)
        state = state._replace(
            params=state.params._replace(learnable=here), loss=jnp.zeros(())
        )
        state = steps.train_step(*what, state, BACKBONE.frozen, X, jnp.asarray(Y))
        found.append(float(state.loss))
        grown = torch.nn.functional.interpolate(mask(image), scale_factor=4)
        x = image + grown * program
        moved = x.detach().numpy().transpose(0, 2, 3, 1)
        value, dx = mapped(moved, lambda y: np.eye(12, T))
        back = torch.tensor(dx.transpose(0, 3, 1, 2), dtype=torch.float32)
        for optimizer in optimizers:
            optimizer.zero_grad()
        x.backward(back)
        for part in (*optimizers, *schedules):
            part.step()
        wanted.append(value)
        there = from_torch(state.params.learnable, program, mask)
        far.append(distances(state.params.learnable, there, here))
    same(np.array(found), np.array(wanted), share=1e-5)
    assert np.max(far) < 0.01, far


def from_torch(like, program, mask):
    """Torch's numbers in the tree of ours."""
    from torch import nn

    tree = jax.tree.map(np.array, like)
    own = tree["normalized"]
    own["prompt"] = program.detach().numpy().transpose(1, 2, 0).copy()
    for kind, name in ((nn.Conv2d, "Conv"), (nn.BatchNorm2d, "BatchNorm")):
        for i, part in enumerate(p for p in mask if isinstance(p, kind)):
            weight = part.weight.detach().numpy()
            leaf = own["mask"][f"{name}_{i}"]
            key = "kernel" if kind is nn.Conv2d else "scale"
            order = (2, 3, 1, 0) if kind is nn.Conv2d else (0,)
            leaf[key] = weight.transpose(order).copy()
            leaf["bias"] = part.bias.detach().numpy().copy()
    return jax.tree.map(jnp.asarray, tree)


def distances(ours, theirs, start):
    """How far a step ends from another, in lengths of it: prompt, and mask network.

    A batch norm cancels the biases before it, so that their gradients are rounding
    alone, of which Adam makes whole steps: they are left out, and change no answer.
    """
    names = list(start["normalized"]["mask"])
    last = f"Conv_{sum(n.startswith('Batch') for n in names)}"  # no norm behind it

    def kept(tree):
        own = tree["normalized"]
        parts = {
            (name, key): leaf
            for name, part in own["mask"].items()
            for key, leaf in part.items()
            if key != "bias" or name == last or name.startswith("Batch")
        }
        flat = np.concatenate([np.ravel(parts[name]) for name in sorted(parts)])
        return np.ravel(own["prompt"]), flat

    norm = np.linalg.norm
    return [
        norm(a - b) / max(norm(b - c), 1e-12)
        for a, b, c in zip(kept(ours), kept(theirs), kept(start), strict=True)
    ]


def torch_masks(start, layers, channels):
    """The published mask network with our first numbers."""
    import torch
    from torch import nn

    parts, width = [], 3
    for i in range(layers - 1):
        parts += [nn.Conv2d(width, 8 * 2**i, 3, padding=1), nn.BatchNorm2d(8 * 2**i)]
        parts += [nn.ReLU()] + [nn.MaxPool2d(2)] * (i < 2)
        width = 8 * 2**i
    if channels == 3:
        parts.append(nn.Conv2d(width, 3, 3, padding=1))
    convolutions = [part for part in parts if isinstance(part, nn.Conv2d)]
    with torch.no_grad():
        for i, layer in enumerate(convolutions):
            ours = start[f"Conv_{i}"]
            layer.weight.copy_(torch.tensor(ours["kernel"].transpose(3, 2, 0, 1)))
            layer.bias.copy_(torch.tensor(ours["bias"]))
    if channels == 1:  # the mean of the last maps
        mean = nn.Conv2d(width, 1, 1, bias=False).requires_grad_(False)
        parts.append(nn.Sequential(mean))
        nn.init.constant_(mean.weight, 1 / width)
    return nn.Sequential(*parts)


@pytest.mark.verify
@pytest.mark.parametrize("method, depth", [("vpt-shallow", 1), ("vpt-deep", 2)])
def test_visual_prompt_tuning(method, depth):
    import torch

    backbone, method = backbones.transformer(), find_method(method)
    program = method.build(backbone, targets=T, length=4)
    first, found, _ = trained(program, method.preset, 0.025, backbone)
    tensor = lambda a: torch.tensor(np.asarray(a, np.float64))
    start = [first.learnable[f"block_{i}:in"] for i in range(depth)]
    learned = [tensor(a) for a in start]
    learned += [tensor(first.learnable["output"][n]) for n in ("kernel", "bias")]
    for part in learned:
        part.requires_grad_()
    frozen = jax.tree.map(tensor, backbone.frozen["params"])
    image = tensor(by_hand.normalised(by_hand.resized(X, 16)))
    with torch.no_grad():
        before = torch_class_token(image, frozen, learned[:depth])
    middle, spread = before.mean(0), before.std(0, correction=0)
    optimizer = torch.optim.SGD(learned, 0.025, momentum=0.9)
    wanted = []
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = warms(0.025, STEPS // 10)(t)
        token = torch_class_token(image, frozen, learned[:depth])
        y = (token - middle) / spread @ learned[-2] + learned[-1]
        value = torch.nn.functional.cross_entropy(y, torch.tensor(Y))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        wanted.append(float(value.detach()))
    same(found, np.array(wanted))


def torch_class_token(x, p, prompts):
    """What the head is given, of a ViT with prompts behind the class token."""
    import torch

    rows = len(x)
    x = x.reshape(rows, 2, 8, 2, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(rows, 4, -1)
    tokens = x @ p["patches"]["kernel"].reshape(-1, 16) + p["patches"]["bias"]
    first = p["class_token"].expand(rows, -1, -1)
    tokens = torch.cat([first, tokens], 1) + p["positions"]
    for i in range(2):
        if i < len(prompts):
            own = prompts[i].expand(rows, -1, -1)
            behind = 1 if i == 0 else 1 + len(prompts[0])  # earlier prompts go
            tokens = torch.cat([tokens[:, :1], own, tokens[:, behind:]], 1)
        tokens = torch_block(tokens, p[f"block_{i}"])
    return torch_norm(tokens, p["norm"])[:, 0]


def torch_norm(x, p):
    import torch

    return torch.nn.functional.layer_norm(x, (16,), p["scale"], p["bias"], 1e-6)


def torch_block(x, p):
    import torch

    dense = lambda v, q: v @ q["kernel"].reshape(-1, q["bias"].numel()) + q["bias"]
    inner, own = torch_norm(x, p["norm_1"]), p["attention"]
    q, k, v = (
        torch.einsum("bld,dhe->bhle", inner, own[n]["kernel"]) + own[n]["bias"][:, None]
        for n in ("query", "key", "value")
    )
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    x = x + dense(mixed.transpose(1, 2).reshape(x.shape), own["out"])
    up = dense(torch_norm(x, p["norm_2"]), p["mlp"]["up"])
    return x + dense(torch.nn.functional.gelu(up), p["mlp"]["down"])


# -- words, by the operator of pixel prompts


def test_additive_prompts():
    """A vector added to every word; the language model is shared, Adam is not."""
    language, (x, labels) = small.card("rotary"), small.parity()
    program = additive_prompt(language, label_words([0, 1]))
    found, _ = small.losses(program, language, METHOD.preset, STEPS)

    @jax.jit
    def answered(moved):
        edit = lambda site, v: (
            v._replace(value=v.value + moved) if site == "embed:out" else v
        )
        return last_value(language.forward(language.frozen, x, edit=edit))[:, :2]

    pull = jax.jit(lambda w, dy: jax.vjp(answered, w)[1](dy)[0])

    def step(w):
        w = np.asarray(w, np.float32)
        value, dy = cross_entropy(np.asarray(answered(w)), np.asarray(labels))
        return value, np.asarray(pull(w, np.asarray(dy, np.float32)))

    wanted, _ = descended(np.zeros(small.WIDTH), step, adam(lambda t: 0.03))
    same(np.array(found), wanted)
