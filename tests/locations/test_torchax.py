"""A torch module in JAX, through torchax."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import models, record, reprogram, sites
from reprojax.formats import learnable
from reprojax.locations import torchax
from reprojax.operators import add
from reprojax.recipes import METHODS

X = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype(np.float32)
FIRST = lambda m, x: m(x.permute(0, 3, 1, 2)).logits


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def net(torch):
    """Transformers-style, with batch norm, dropout, a tied layer, a loose tensor."""

    class Answer:
        def __init__(self, logits):
            self.logits = logits

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(4)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x):
            return x + self.drop(torch.relu(self.norm(self.conv(x))))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 4, 3, stride=2)
            self.layers = torch.nn.ModuleList([Layer(), Layer()])
            self.head = torch.nn.Linear(4, 5)
            self.again = self.layers[1]
            self.offset = torch.full((4,), 0.5)

        def forward(self, pixels):
            x = self.stem(pixels)
            for layer in (*self.layers, self.again):
                x = layer(x)
            return Answer(self.head(x.mean((2, 3)) + self.offset))

    torch.manual_seed(0)
    model = Net()
    for layer in model.layers:
        layer.norm.running_mean[:] = torch.rand(4)
        layer.norm.running_var[:] = torch.rand(4) + 0.5
    return model


def theirs(torch, net, x=X, **hooks):
    """What torch says itself, in evaluation, with something added before modules."""
    import copy

    own, counts = copy.deepcopy(net).eval(), {}
    for path, part in own.named_modules():
        if path.replace(".", "_") in hooks:
            visit = hooks[path.replace(".", "_")]

            def hook(part, args, visit=visit, path=path):
                counts[path] = counts.get(path, 0) + 1
                return (args[0] + (counts[path] == visit),)

            part.register_forward_pre_hook(hook)
    with torch.no_grad():
        return own(torch.tensor(x).permute(0, 3, 1, 2)).logits.numpy()


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.verify
def test_the_forward_is_the_module_in_evaluation(torch, net):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    forward, frozen = torchax(net, FIRST)
    expected = theirs(torch, net)
    for run in (forward, jax.jit(forward)):
        found = run(frozen, X)
        assert isinstance(found, jax.Array)
        close(found, expected)
    assert set(frozen["layers"]["0"]["norm"]) >= {"weight", "running_mean"}
    assert frozen["offset"].shape == (4,) and frozen["stem"]["weight"].ndim == 4
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(frozen))
    assert net.training and not hasattr(net.stem.forward, "__wrapped__")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert isinstance(net.offset, torch.Tensor) and "offset" in vars(net)


@pytest.mark.verify
def test_sites_edits_and_a_layer_that_is_called_twice(torch, net):
    forward, frozen = torchax(net, FIRST)
    listed = sites(forward, frozen, X)
    assert list(listed)[:4] == ["input", "stem:in", "stem:out", "layers/0:in"]
    assert list(listed)[-3:] == ["head:in", "head:out", "output"]
    assert listed["input"] == (3, 6, 6, 3) and listed["stem:in"] == (3, 3, 6, 6)
    one = learnable(jnp.ones((4, 2, 2)))
    for site, hooks in (
        ("layers/0/conv:in", {"layers_0_conv": 1}),
        ("layers/1:in", {"layers_1": 1}),
        ("layers/1#2:in", {"layers_1": 2}),
    ):
        program = reprogram(forward, {site: add(one)})
        params = program.init(jax.random.key(0), frozen, X)
        found = jax.jit(program.apply)(params, frozen, X)
        close(found, theirs(torch, net, **hooks))
        assert np.abs(found - theirs(torch, net)).max() > 1e-2
    _, seen = record(forward, ["head:in"])(frozen, X)
    assert isinstance(seen["head:in"], jax.Array) and seen["head:in"].shape == (3, 4)
    with pytest.raises(ValueError, match="did you mean 'layers/0:in'"):
        reprogram(forward, {"layer/0:in": add(one)}).init(jax.random.key(0), frozen, X)


@pytest.mark.verify
def test_the_input_gradient_is_torchs(torch, net):
    forward, frozen = torchax(net, FIRST)
    slope = jax.jit(jax.grad(lambda x: (forward(frozen, x) ** 2).sum()))(X)
    x = torch.tensor(X, requires_grad=True)
    (net.eval()(x.permute(0, 3, 1, 2)).logits ** 2).sum().backward()
    net.train()
    assert x.grad is not None
    close(slope, x.grad.numpy())


@pytest.mark.verify
def test_a_recipe_and_transforms(torch, net):
    network, frozen = torchax(net, FIRST)
    card = models.card(
        network,
        frozen,
        name="torch",
        input=models.Pixels(6, (0.5,) * 3, (0.5,) * 3),
        features="head:in",
        blocks="layers/*:in",
    )
    images = np.random.default_rng(1).integers(0, 255, (4, 5, 5, 3)).astype(np.uint8)
    program = METHODS["watermark"].build(card, targets=3)
    params = program.init(jax.random.key(0), card.frozen, images)

    def total(learnable):
        own = params._replace(learnable=learnable)
        return program.apply(own, card.frozen, images).sum()

    grads = jax.tree.leaves(jax.grad(total)(params.learnable))
    assert all(jnp.isfinite(g).all() for g in grads) and any(g.any() for g in grads)
    two = jax.tree.map(lambda a: jnp.stack([a, a]), params)
    both = jax.jit(jax.vmap(program.apply, (0, None, None)))(two, card.frozen, images)
    close(both[1], program.apply(params, card.frozen, images))
    other = jax.tree.map(lambda a: a, card.frozen)
    other["head"]["bias"] = other["head"]["bias"] + 1
    black = np.zeros((1, 6, 6, 3), np.uint8)
    close(card.forward(other, black) - 1, card.forward(card.frozen, black))
    del other["offset"]
    with pytest.raises(ValueError, match=r"differ in \['offset'\]"):
        card.forward(other, black)


@pytest.mark.verify
def test_a_transformers_vit_with_vpt(torch):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=7,
    )
    model = transformers.ViTForImageClassification(config).eval()
    call = lambda m, x: m(pixel_values=x.permute(0, 3, 1, 2)).logits
    network, frozen = torchax(model, call)
    x = np.random.default_rng(2).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        close(jax.jit(network)(frozen, x), call(model, torch.tensor(x)).numpy())
    card = models.card(
        network,
        frozen,
        name="vit",
        input=models.Pixels(16, (0.5,) * 3, (0.5,) * 3),
        features="classifier:in",
        blocks="vit/layers/*:in",
    )
    program = METHODS["vpt-deep"].build(card, targets=3, length=2)
    images = np.zeros((2, 10, 10, 3), np.uint8)
    params = program.init(jax.random.key(0), frozen, images)
    assert params.learnable["vit/layers/1:in"].shape == (2, 16)
    assert program.apply(params, frozen, images).shape == (2, 3)


@pytest.mark.verify
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_what_is_refused(torch, net):
    with pytest.raises(ValueError, match="torchax got function, expected a torch"):
        torchax(theirs)
    scripted = torch.nn.Sequential(torch.compile(torch.nn.Linear(2, 2)))
    with pytest.raises(
        ValueError, match="'0' .OptimizedModule. is compiled.*leave out"
    ):
        torchax(scripted)


@pytest.mark.verify
def test_torch_keeps_its_own_behaviour(torch):
    """What is patched while torchax loads is put back."""
    torchax(torch.nn.Linear(2, 2))
    with pytest.raises(AttributeError):
        torch.ops.aten.std.no_such_names  # noqa: B018


def test_what_is_missing_is_said():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from reprojax.locations import torchax\n"
        "try: torchax(None)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "needs torch and torchax" in done.stdout and "pip install" in done.stdout
