"""Independent prompts in both towers of a pair, IVLP, and PromptSRC, which holds them
near the frozen pair (Khattak et al., arXiv 2210.03117, 2307.06948)."""

import jax
import jax.numpy as jnp
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from reprojax.core import (
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    put,
    reprogram,
)
from reprojax.core.vectors import unit
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.models.image_text.card import compare
from reprojax.operators import insert, replace, resize
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.multimodal_prompts import first_layers
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    template_words,
)
from reprojax.recipes.queries import asking
from reprojax.recipes.registry import register
from reprojax.training.averages import averaged, gaussian_epochs, mean_of_epochs
from reprojax.training.losses import Loss, Seen, cross_entropy
from reprojax.training.optimizers import sgd_by_epochs

FEATURES = "image/features"
FROZEN, TEACHER, ANSWER = (f"{FEATURES}/{n}" for n in ("frozen", "teacher", "answer"))
SITES = (FEATURES, "text/features", FROZEN, TEACHER, ANSWER)
"""What `self_regulated` reads."""


@needs(Pixels, "text_embedding", "text_blocks")
def ivlp(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 4,
    depth: int = 9,
    words: bool = True,
) -> Program:
    """Prompts of their own in the first layers of each tower (arXiv 2210.03117).

    They stand where those of `maple` do. None is made of another.

    Args:
        length: P, vectors a layer.
        depth: layers, at most those of the shallower tower.
        words: start the first layer's text prompt at the words that it replaces;
            otherwise it is drawn, as all others are.
    """
    check_classes(model, targets)
    at = _independent(model, length, depth, words, "ivlp")
    at |= {"input": resize(model.input.size)}
    return reprogram(model.forward, at, align)


def _independent(
    model: Model[Pixels], length: int, depth: int, words: bool, who: str
) -> dict[str, Manipulation]:
    drawn, (text, image) = learnable(normal(0.02)), first_layers(model, depth)
    start = template_words(model, length, None if words else drawn, who)
    at = {site: replace(drawn, length, at=1) for site in text}
    at |= {site: replace(drawn, length, at=None) for site in image}
    at[text[0]] = replace(start, length, at=1)
    at[image[0]] = insert(drawn, length, at=None)
    return at


@needs(Pixels, "text_embedding", "text_blocks", "features")
def prompt_src(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 4,
    depth: int = 9,
    words: bool = True,
) -> Program:
    """`ivlp`, regulated by what the frozen pair makes of the same images (arXiv
    2307.06948).

    The preset's loss holds image features, text features and answers near those of the
    pair without prompts, and the params are an average over epochs, most of a late one.
    A training step runs the image tower a second time, without prompts; features that
    were computed once may be given as the context. The teacher's texts are the model's
    own, or by `taught` others.
    """
    check_classes(model, targets)
    texts = model.frozen["texts"]
    if texts.weights is not None:
        raise ValueError(
            f"prompt_src got {len(texts.features)} texts for {len(model.classes)} "
            "classes, expected one for each; give its teacher the others: taught("
            "params, features)"
        )
    to_size = resize(model.input.size)
    at = _independent(model, length, depth, words, "prompt_src")
    at |= {"input": to_size, FEATURES: _beside_frozen()}
    program = reprogram(model.forward, at, align)
    return asking(program, model, to_size)


def _beside_frozen() -> Manipulation:
    """Image features as they are, beside the frozen pair's, for the loss."""

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return Params(fixed=jnp.array(scope.frozen["texts"].features))

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        frozen, teacher = scope.context, params.fixed
        scope.tap("frozen", frozen)
        scope.tap("teacher", teacher)
        scope.tap("answer", compare(scope.frozen, frozen, unit(teacher)))
        return value

    return Manipulation(init, apply)


def taught(params: Params, features: Float[Array, "T J"]) -> Params:
    """Params of `prompt_src` whose teacher has these text features (arXiv 2307.06948).

    In the paper they are means over 60 templates, of features that keep their length.
    """
    found = params.fixed.get(FEATURES)
    if getattr(found, "shape", None) != tuple(features.shape):
        raise ValueError(
            f"got features {list(features.shape)} for a teacher of "
            f"{list(getattr(found, 'shape', ()))}, expected the same, a row for each "
            "class; take the params of prompt_src, and image_text's text_features"
        )
    return put(params, FEATURES, Params(fixed=jnp.asarray(features)))


def self_regulated(image: float = 10.0, text: float = 25.0) -> Loss:
    """Cross entropy, the mean absolute differences of unit features from the frozen
    ones, and the divergence of the answers from the frozen ones, over T (PromptSRC,
    arXiv 2307.06948). It reads `SITES`, and computes in float32."""

    def loss(seen: Seen) -> jax.Array:
        single = {site: seen.recorded[site].astype(jnp.float32) for site in SITES}
        moved = apart(single[FEATURES], single[FROZEN]).mean(-1)
        words = apart(single["text/features"], single[TEACHER]).mean()
        output = seen.output.astype(jnp.float32)
        log, old = map(jax.nn.log_softmax, (output, single[ANSWER]))
        # The published code divides by all B T numbers, not by the B rows.
        divergence = (jnp.exp(old) * (old - log)).mean(-1)
        return cross_entropy(seen) + image * moved + text * words + divergence

    return loss


def apart(x: Float[Array, "N J"], y: Float[Array, "N J"]) -> Float[Array, "N J"]:
    """Absolute differences of features of unit length (PromptSRC, arXiv 2307.06948)."""
    return jnp.abs(unit(x) - unit(y))


IVLP = Method(
    "ivlp",
    ivlp,
    preset=Preset(sgd_by_epochs, 0.0025, epochs=20, batch=4),
    enters="first layers of both towers",
    source="arXiv 2210.03117, 2307.06948. muzairkhattak/PromptSRC, base to new "
    "classes, 16 examples a class: SGD, momentum .9, decay 5e-4, rate .0025, 20 epochs "
    "of batches of 4, the first at rate 1e-5 and then a cosine by epochs. (The code of "
    "MaPLe: 2 vectors in all 12 layers, rate .0035, 5 epochs.) There images are "
    "cropped at random and mirrored, and weights are half precision.",
)
register(IVLP)
SRC = Method(
    "promptsrc",
    prompt_src,
    preset=Preset(
        averaged(sgd_by_epochs, gaussian_epochs(0.75, 0.05)),
        0.0025,
        epochs=20,
        batch=4,
        loss=self_regulated(),
        sites=SITES,
        evaluated=mean_of_epochs,
    ),
    enters="first layers of both towers",
    source="arXiv 2307.06948. muzairkhattak/PromptSRC, base to new classes: as ivlp; "
    "weights 10 of images and 25 of texts; the average weighs epochs as a Gaussian "
    "with mean 15 and deviation 1 of 20, here shares of the epochs (few-shot: 50 "
    "epochs, mean 30 and deviation 30, or 45 and 5). There the teacher reads 60 "
    "templates (`taught`).",
)
register(SRC)
