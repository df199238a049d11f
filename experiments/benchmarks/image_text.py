"""A step of CoOp and of MaPLe on ViT-B/16's shapes, beside PyTorch on the same weights.

    python -m experiments.benchmarks.image_text

A random CLIP ViT-B/16 with 10 classes, 8 images a step, float32. Both sides compute the
loss, the gradient of the prompt and an SGD step; text and image tower run in each, as a
training step without a cache. PyTorch's steps stand on transformers' CLIP, its frozen
weights without gradients. Printed are seconds (medians), the median of the rounds'
ratios with its 95 % interval, and how far the losses of the first step lie apart.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.steppers import Stepper
from experiments.benchmarks.timing import interval, machine, paired, ratio
from reprojax import recipes
from reprojax.commands.outputs import command
from reprojax.core import Params
from reprojax.models import image_text
from reprojax.models.image_text import Pair, classifier
from reprojax.models.language.tokenizer import Tokenizer
from reprojax.models.weights import CLIP_MEAN, CLIP_STD

CLASSES, LENGTH, DEPTH = 10, 4, 9


@dataclass(frozen=True)
class Config:
    """Sizes."""

    images: int = 8
    rounds: int = 5
    width: int = 768
    """Of the image tower; less for a test."""
    layers: int = 12
    seed: int = 0


def built(config: Config) -> tuple[Any, Pair]:
    """A random CLIP of transformers, and the pair that the library reads of it."""
    import torch
    import transformers

    torch.manual_seed(config.seed)
    heads = config.width // 64
    text = dict(
        hidden_size=config.width * 2 // 3,
        intermediate_size=config.width * 8 // 3,
        num_attention_heads=max(heads * 2 // 3, 1),
        num_hidden_layers=config.layers,
    )
    image = dict(
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_attention_heads=heads,
        num_hidden_layers=config.layers,
        patch_size=16,
        image_size=224,
    )
    own: Any = transformers.CLIPConfig
    model = transformers.CLIPModel(own(text_config=text, vision_config=image))
    model = model.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        pair = image_text.load(folder, tokenizer=words())
    return model, pair


def words() -> Tokenizer:
    """A token a word, between CLIP's two tokens around a text."""

    def encode(text: str, special: bool = True) -> list[int]:
        own = [1000 + sum(map(ord, word)) for word in text.replace(".", " .").split()]
        return [49406, *own, 49407] if special else own

    return Tokenizer(encode, lambda ids: "", lambda word: None, lambda i: None, 49408)


def torch_step(
    model: Any, start: dict[str, np.ndarray], ids: np.ndarray, x: Any, y: Any
) -> Callable[[], float]:
    """A call that makes one step of CoOp, or of MaPLe, and returns the loss before it.

    Args:
        start: the learned arrays: "prompts" [J P D], and of MaPLe its maps' "kernel"
            [J D d] and "bias" [J d].
    """
    import torch

    deep = "kernel" in start
    text, vision = model.text_model, model.vision_model
    own = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in start.items()}
    optimizer = torch.optim.SGD(own.values(), 0.01)
    labels, pixels = torch.tensor(y), torch.tensor(x).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    pixels = (pixels - mean) / std
    table = text.embeddings.token_embedding.weight[torch.tensor(ids)]
    length = ids.shape[1] + (0 if deep else LENGTH)
    places = text.embeddings.position_embedding.weight[:length]
    causal = torch.full((length, length), float("-inf")).triu(1)[None, None]
    prompt = lambda i, rows: own["prompts"][i].expand(rows, -1, -1)

    def of_image(i: int, rows: int) -> Any:
        found = own["prompts"][i] @ own["kernel"][i] + own["bias"][i]
        return found.expand(rows, -1, -1)

    def named() -> Any:
        behind = 1 + LENGTH if deep else 1  # MaPLe's stand in the place of words
        h = torch.cat([table[:, :1], prompt(0, len(ids)), table[:, behind:]], 1)
        h = h + places
        for i, layer in enumerate(text.encoder.layers):
            if deep and 0 < i < DEPTH:
                h = torch.cat([h[:, :1], prompt(i, len(ids)), h[:, 1 + LENGTH :]], 1)
            h = _first(layer(h, attention_mask=causal))
        return model.text_projection(text.final_layer_norm(h)[:, -1])

    def seen() -> Any:
        v = vision.embeddings(pixels)
        v = torch.cat([v, of_image(0, len(v))], 1) if deep else v
        v = vision.pre_layrnorm(v)
        for i, layer in enumerate(vision.encoder.layers):
            if deep and 0 < i < DEPTH:
                v = torch.cat([v[:, :-LENGTH], of_image(i, len(v))], 1)
            v = _first(layer(v, attention_mask=None))
        return model.visual_projection(vision.post_layernorm(v[:, 0]))

    def step() -> float:
        optimizer.zero_grad()
        both = (f / f.norm(dim=-1, keepdim=True) for f in (seen(), named()))
        image, words = both
        scores = model.logit_scale.exp() * image @ words.T
        loss = torch.nn.functional.cross_entropy(scores, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def measured(config: Config) -> dict[str, tuple[float, dict[str, np.ndarray]]]:
    """{method: (how far the losses of the first step lie apart, {"ours" and "PyTorch":
    seconds of each round})}."""
    model, pair = built(config)
    draw = np.random.default_rng(config.seed)
    x = draw.integers(0, 256, (config.images, 224, 224, 3), dtype=np.uint8)
    y = draw.integers(0, CLASSES, config.images)
    names = [chr(97 + i) for i in range(CLASSES)]
    found = {}
    for method, template in (("coop", "{}."), ("maple", "a photo of a {}.")):
        card = classifier(pair, names, [template])
        sizes: dict[str, Any] = {"length": LENGTH}
        program = recipes.build(method, card, CLASSES, **sizes)
        stepper = Stepper(program, card.frozen, jnp.asarray(x), jnp.asarray(y))
        params = program.init(jax.random.key(1), card.frozen, x)
        ids = np.asarray(card.frozen["texts"].tokens.value)
        theirs = torch_step(model, learned(params), ids, x, y)
        answers = program.apply(params, card.frozen, x)
        ours = optax.softmax_cross_entropy_with_integer_labels(answers, y).mean()
        apart = abs(float(ours) - theirs())
        calls: dict[str, Callable[[], Any]] = {"ours": stepper.step, "PyTorch": theirs}
        found[method] = apart, paired(calls, config.rounds)
    return found


def learned(params: Params) -> dict[str, np.ndarray]:
    """The learned arrays of CoOp or MaPLe by their names in MaPLe."""
    (own,) = (leaves for leaves in params.learnable.values() if jax.tree.leaves(leaves))
    if isinstance(own, dict):
        return {name: np.array(value) for name, value in own.items()}
    return {"prompts": np.array(own)[None]}


def main(config: Config) -> None:
    """Print the table."""
    print(machine("torch", "transformers"))
    for method, (apart, seconds) in measured(config).items():
        ours, theirs = seconds["ours"], seconds["PyTorch"]
        low, high = interval(ours, theirs)
        print(
            f"{method:6} ours {np.median(ours):.2f} s  PyTorch {np.median(theirs):.2f} "
            f"s  ratio {ratio(ours, theirs):.2f} [{low:.2f}, {high:.2f}]  losses of "
            f"the first step {apart:.1e} apart",
            flush=True,
        )


if __name__ == "__main__":
    command(main, Config)
