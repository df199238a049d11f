"""REFINE (arXiv 2502.18508): a U-Net in front of the model, and displaced classes.

The wrong variants: images that are not clipped; a U-Net without its skips, or enlarged
with half-pixel corners; an anchor that counts itself; classes at their own places.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_image_learning import STEPS, N, X, Y, pulled

from reprojax import Params, Scope
from reprojax.alignments.named import displaced
from reprojax.models.vision.unet import UNet
from reprojax.recipes import find_method
from reprojax.recipes.model_reprogramming.refine import apart_and_right, refine
from reprojax.testing import contract
from reprojax.training import steps
from reprojax.training.losses import Seen

BACKBONE, WIDTH, CLASSES = backbones.convolutional(), 2, 12
IMAGE = by_hand.resized(X, 16)


def order():
    found = displaced(CLASSES).apply(Params(), jnp.arange(12.0)[None], Scope())
    return np.asarray(found)[0].astype(int)


def test_clipped_images_enter_and_answers_are_displaced_log_probabilities():
    program = refine(BACKBONE, targets=CLASSES, width=WIDTH)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    loud = jax.tree.map(lambda a: 3 * a, by_hand.drawn(params).learnable)
    params = params._replace(learnable=loud)
    own = params.learnable["input"]["network"], params.fixed["input"]["network"]
    tree = {"params": own[0], **own[1]}
    made = UNet(WIDTH).apply(tree, jnp.asarray(IMAGE, jnp.float32), False)
    assert np.min(made) < 0 and np.max(made) > 1
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    wanted = by_hand.normalised(np.clip(made, 0, 1))
    np.testing.assert_allclose(seen, wanted, atol=1e-4)
    log = by_hand.log_softmax(by_hand.logits(seen))
    np.testing.assert_allclose(y, log[:, order()], atol=1e-4)
    assert (order() != np.arange(CLASSES)).all()


@pytest.mark.parametrize("width, count", [(32, 4_320_675), (64, 17_267_523)])
def test_the_published_numbers_of_weights(width, count):
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    init = lambda key, x: UNet(width).init(key, x, False)
    assert (
        by_hand.numbers(jax.eval_shape(init, jax.random.key(0), x)["params"]) == count
    )


def contrast_by_hand(images, labels, temperature=0.07):
    """As SupConLoss with two equal views: every pair, a loop."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows, twice, found = np.tile(rows, (2, 1)), np.tile(labels, 2), []
    for i in range(len(rows)):
        near = rows @ rows[i] / temperature
        others = np.arange(len(rows)) != i
        total = np.log(np.exp(near[others]).sum())
        same = others & (twice == twice[i])
        found.append(-(near[same] - total).mean())
    return np.reshape(found, (2, -1)).mean(0)


def test_the_loss_is_binary_and_contrasts_classes():
    random = np.random.default_rng(0)
    images = random.uniform(size=(8, 4, 4, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 0, 3, 3])
    log = by_hand.log_softmax(random.normal(size=(8, 4)) * 3)
    right = np.eye(4)[labels]
    binary = -(right * log + (1 - right) * np.log(1 - np.exp(log))).mean(1)
    wanted = binary + 0.1 * contrast_by_hand(images, labels)
    seen = {"output": jnp.float32(log), "input": jnp.asarray(images)}
    found = apart_and_right()(Seen(seen, jnp.asarray(labels)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)

    filled = {n: jnp.concatenate([a, a[:2] + 0.5]) for n, a in seen.items()}
    none = jnp.asarray(np.append(labels, [-1, -1]))
    more = apart_and_right()(Seen(filled, none))
    np.testing.assert_allclose(more[:8], wanted, rtol=1e-4)


def test_a_certain_answer_has_a_finite_slope():
    log = jnp.log(jnp.array([[1.0, 1e-38], [1e-38, 1.0]]))
    images = jnp.ones((2, 2, 2, 3))

    def total(log):
        seen = {"output": log, "input": images}
        return apart_and_right()(Seen(seen, jnp.array([0, 0]))).sum()

    assert np.isfinite(total(log)) and np.isfinite(jax.grad(total)(log)).all()


def test_its_rate_falls_twice():
    optimizer = find_method("refine").preset.optimizer(1.0, 2, 15)
    state, found = optimizer.init(jnp.zeros(())), []
    for _ in range(30):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        found.append(-float(update))
    velocity = 10 * (1 - 0.9 ** np.arange(1, 31))
    rate = np.repeat([1.0] * 10 + [0.8] * 3 + [0.64] * 2, 2)
    np.testing.assert_allclose(found, rate * velocity, rtol=1e-5)


def test_the_contract():
    program = refine(BACKBONE, targets=3, width=WIDTH)
    images, labels = jnp.asarray(X[:4]), jnp.array([0, 1, 2, 1])
    what = {"forward": BACKBONE.forward, "shape": (4, 3), "key": jax.random.key(1)}
    what |= {"loss": apart_and_right(), "sites": ("input",)}
    # a network of its own, trained, in front of 18,000 frozen weights
    contract(program, BACKBONE.frozen, images, labels, work=4.0, **what)


# Losses of UNetLittle, SupConLoss and BCELoss of WhitolfChen/REFINE @a49e7e5, every
# sixth step, around the same network and images, with a width of 4.
PUBLISHED = [
    0.897841, 0.707529, 0.679438, 0.641357, 0.610161,
    0.590301, 0.579720, 0.576638, 0.575455, 0.574845,
]  # fmt: skip


@pytest.fixture
def one_thread():
    """Many small operations: on a busy machine torch's threads wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.verify
def test_the_law_of_learning_beside_the_published_code(one_thread):
    """Each step of ours starts from torch's numbers: a clip and four maxima make of
    rounding another way."""
    import torch

    method = find_method("refine")
    program = method.build(BACKBONE, targets=CLASSES, width=4)
    optimizer = method.preset.optimizer(0.01, 1, STEPS)
    state = steps.begin(program, optimizer, BACKBONE.frozen, X, 0, STEPS)
    net = TorchUNet(torch, jax.tree.map(np.array, of(state)), 4)
    descent = torch.optim.SGD(net.learned, 0.01, momentum=0.9, weight_decay=5e-4)
    ends = [2 * STEPS // 3, 13 * STEPS // 15]
    schedule = torch.optim.lr_scheduler.MultiStepLR(descent, ends, 0.8)
    image = torch.tensor(IMAGE.transpose(0, 3, 1, 2), dtype=torch.float32)
    what = program, optimizer, method.preset.loss, method.preset.sites
    found, wanted, far = [], [], []
    for _ in range(STEPS):
        here = net.tree()
        learnable = dict(state.params.learnable)
        learnable["input"] = {**learnable["input"], "network": here}
        state = state._replace(
            params=state.params._replace(learnable=learnable), loss=jnp.zeros(())
        )
        state = steps.train_step(
            *what, state, BACKBONE.frozen, jnp.asarray(X), jnp.asarray(Y)
        )
        found.append(float(state.loss))
        wanted.append(torch_step(torch, net, image, descent, schedule))
        far.append(distance(of(state), net.tree(), here))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(found[::6], PUBLISHED, rtol=1e-2)
    assert np.max(far) < 0.02, far


def of(state):
    return state.params.learnable["input"]["network"]


def distance(ours, theirs, start):
    """How far a step ends from another, in lengths of it; a norm cancels biases."""
    names = [n for n in start if n.startswith("Conv")]
    flat = lambda tree: np.concatenate([np.ravel(tree[n]["kernel"]) for n in names])
    a, b, c = map(flat, (ours, theirs, start))
    return np.linalg.norm(a - b) / np.linalg.norm(b - c)


def torch_step(torch, net, image, descent, schedule):
    """The published loss by hand, its gradient through the shared network."""
    made = net(image).clamp(0, 1)
    pixels = made.detach().numpy().transpose(0, 2, 3, 1)
    normal = by_hand.normalised(pixels)
    logits = torch.tensor(by_hand.logits(normal), requires_grad=True)
    p = torch.softmax(logits, 1)[:, order()]
    right = torch.nn.functional.one_hot(torch.tensor(Y), CLASSES).float()
    binary = torch.nn.functional.binary_cross_entropy(p, right)
    rows = torch.nn.functional.normalize(made.flatten(1), dim=1)
    near = torch.cat([rows, rows]) @ torch.cat([rows, rows]).T / 0.07
    labels, others = torch.tensor(np.tile(Y, 2)), ~torch.eye(2 * N, dtype=bool)
    same = (labels[:, None] == labels) & others
    total = torch.logsumexp(near.masked_fill(~others, -1e9), 1, keepdim=True)
    apart = -(((near - total) * same).sum(1) / same.sum(1)).mean()
    descent.zero_grad()
    binary.backward()
    dx = pulled(normal, logits.grad.numpy()) / np.array(backbones.STD)
    back = torch.tensor(dx.transpose(0, 3, 1, 2), dtype=torch.float32)
    ((made * back).sum() + 0.1 * apart).backward()
    descent.step()
    schedule.step()
    return float(binary.detach() + 0.1 * apart.detach())


class TorchUNet:
    """The paper's U-Net from functions, with our first numbers, in training."""

    def __init__(self, torch, start, width):
        self.torch, self.width, self.start = torch, width, start
        self.parts = {
            (name, key): torch.tensor(
                a.transpose(3, 2, 0, 1).copy() if a.ndim == 4 else a.copy()
            ).requires_grad_()
            for name, own in start.items()
            for key, a in own.items()
        }
        self.learned = list(self.parts.values())

    def tree(self):
        back = lambda a: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a
        return {
            name: {
                key: jnp.asarray(back(self.parts[name, key].detach().numpy().copy()))
                for key in own
            }
            for name, own in self.start.items()
        }

    def twice(self, x):
        F = self.torch.nn.functional
        for _ in range(2):
            i = self.at
            own = (self.parts[f"Conv_{i}", k] for k in ("kernel", "bias"))
            x = F.conv2d(x, *own, padding=1)
            own = (self.parts[f"BatchNorm_{i}", k] for k in ("scale", "bias"))
            x = F.relu(F.batch_norm(x, None, None, *own, training=True))
            self.at += 1
        return x

    def __call__(self, x):
        F, self.at = self.torch.nn.functional, 0
        skips = [self.twice(x)]
        for _ in range(4):
            skips.append(self.twice(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        while skips:
            up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self.twice(self.torch.cat([skips.pop(), up], 1))
        last = f"Conv_{self.at}"
        return F.conv2d(x, self.parts[last, "kernel"], self.parts[last, "bias"])
