"""Models in torch with random weights, and how far ours are from them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from timm_models import timm

from reprojax.core import passthrough

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def drawn(model):
    """Every parameter and batch statistic random, values of the size of one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, leaf in (*model.named_parameters(), *model.named_buffers()):
            if not leaf.is_floating_point() or re.search("inv_freq|attn_mask", name):
                continue
            if leaf.ndim > 1 and not re.search("pos|token|emb|wte|wpe", name):
                leaf.normal_(0, leaf[0].numel() ** -0.5)
            elif re.search(
                r"(?i)var$|gamma|lambda_?[12]|(norm|bn|ln_)\w*\.weight", name
            ):
                leaf.uniform_(0.5, 1.5)
            else:
                leaf.normal_(0, 0.3)
    return model.eval()


def from_timm(name, its, folder):
    """A random model, and the file in `folder`, which has its config.json too."""
    reference = drawn(timm().create_model(name, **its))
    timm().models._hub.save_for_hf(reference, folder, safe_serialization="both")
    return reference, folder / "model.safetensors"


def from_transformers(kind, its, head, folder):
    """A random model, saved in `folder`."""
    config = getattr(transformers, f"{kind}Config")(**its)
    reference = drawn(getattr(transformers, f"{kind}{head}")(config))
    reference.save_pretrained(folder)
    return reference


def answer(out):
    """[B S]: logits, or the features of a model without a head."""
    if isinstance(out, torch.Tensor) or "logits" in out:
        return getattr(out, "logits", out)
    grid = out.last_hidden_state.ndim == 4
    return out.pooler_output.flatten(1) if grid else out.last_hidden_state[:, 0]


def theirs(model, pixels, read=answer):
    """Values [B S], and the gradient of their sum in random directions."""
    x = torch.tensor(pixels.transpose(0, 3, 1, 2), requires_grad=True)
    y = read(model(x))
    (y * torch.tensor(directions(y.shape))).sum().backward()
    return y.detach().numpy(), x.grad.numpy().transpose(0, 2, 3, 1)


def ours(model, pixels):
    """The same, the pixels put where the network starts."""

    def value(frozen, z):
        put = lambda site, v: z if site == "normalized" else passthrough(site, v)
        blank = jnp.zeros((len(z), model.input.size, model.input.size, 3), jnp.uint8)
        return model.forward(frozen, blank, edit=put)

    def both(frozen, z):
        y, pull = jax.vjp(lambda z: value(frozen, z), z)
        return y, pull(jnp.asarray(directions(y.shape)))[0]

    return jax.jit(both)(model.frozen, pixels)


def directions(shape):
    return np.random.default_rng(1).standard_normal(tuple(shape)).astype(np.float32)


def noise(size, batch=2):
    shape = (batch, size, size, 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def agree(mine, others):
    """At 1e-4 of the largest, so that small gradients are no free pass."""
    for a, b in zip(mine, others, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, rtol=1e-4, atol=1e-4)
