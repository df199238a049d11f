"""The settings of `reprojax train`: their checks, and what a method's paper adds."""

import math
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import optax
import tyro

from reprojax import data, recipes
from reprojax.commands.pairs import names
from reprojax.core import Program
from reprojax.core.estimation import Refresh
from reprojax.core.guards import find
from reprojax.models import Model, Pixels
from reprojax.models.image_text import Pair
from reprojax.models.image_text.card import TEMPLATE, joint_roles, sentences_of
from reprojax.recipes import BlackBox, Method


def is_trained(method: Method) -> bool:
    """Whether a pair that is bound to names is all that it needs, with images."""
    return not method.needs.of_texts or bool(method.preset and method.template != "")


METHODS = ", ".join(recipes.methods(Pixels))
OF_PAIRS = ", ".join(
    name
    for name, method in recipes.methods(Pair).items()
    if method.needs.of_texts and is_trained(method)
)
MAPS = ", ".join(recipes.ALIGNMENTS)
ESTIMATED = recipes.Preset(lambda *_: optax.sgd(0.0), 0.0, epochs=1, batch=50)
"""Of a method that learns nothing: one pass over the training images, for its map."""

SIZES = ("inner", "length", "layers", "channels", "rank")
"""Settings that are arguments of some recipes; beside them `augment`."""


@dataclass(frozen=True)
class Config:
    """Reprogram a frozen image classifier for a task it was never trained on."""

    method: Annotated[
        str,
        tyro.conf.arg(
            help=f"one of: {METHODS}; with a pair of towers also: {OF_PAIRS}"
        ),
    ] = "watermark"
    methods: tuple[Path, ...] = ()
    """Python files that register methods of your own, which --method then names."""
    map: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"one of: {MAPS}, blm+K (K probabilities), flmK, ilmK, "
            "barK (K classes of the model a class); by default the method's, and first "
            "with a pair, whose answers are the classes"
        ),
    ] = None
    backbone: Annotated[
        str,
        tyro.conf.arg(
            help=f"{', '.join(names())}, a .safetensors file, a folder, or a Hugging "
            "Face name such as google/vit-base-patch16-224; or of a pair of towers, "
            "such as openai/clip-vit-base-patch32"
        ),
    ] = "glyphs"
    target: str = "digits"
    """digits, letters-behind-glass, an .npz file, a folder of images, or tfds:NAME"""
    template: tuple[str, ...] = ()
    """With a pair: texts with {} for a class's name, several for the mean of their
    features; by default "a photo of a {}."; coop and plot learn all but the name."""
    seeds: int = 3
    """Runs: each draws its own training and validation images, on one test split."""
    train: int | None = None
    """Training images; by default all that are left."""
    validation: int | None = None
    """Validation images; by default a fifth of the others, or the set's own."""
    test: int | None = None
    """Test images; by default a fifth of all, or the set's own."""
    resplit: bool = False
    """Draw the test split anew for each seed too."""
    lazy: bool = False
    """Leave the images of a folder in their files until a batch needs them."""
    learning_rate: float | None = None
    """By default the paper's."""
    epochs: int | None = None
    """By default the paper's."""
    batch: int | None = None
    """Images a step; by default the paper's."""
    refresh: Refresh | None = None
    """When label maps are estimated again; by default as their paper does."""
    budget: int | None = None
    """Queries a run, each an image sent, of a method whose model only answers (bar,
    blackvip): it searches until they are spent, without gradients and epochs."""
    inner: int | None = None
    """Side of the image inside a border, in pixels (padding, ar, bar, evp)."""
    length: int | None = None
    """Tokens a block (vpt-*, e2vpt, maple, ivlp, promptsrc), of a prompt of a pool
    (l2p, dualprompt, coda-prompt), or words (coop, cocoop, kgcoop, prograd, plot)."""
    layers: int | None = None
    """Layers of the mask network (smm); by default 6 for a ViT, else 5."""
    channels: int | None = None
    """Masks of an image (smm): 3, one for each colour, by default; or 1 for all."""
    rank: int | None = None
    """Of each colour's matrix (lor-vp); by default 4."""
    augment: bool = False
    """A random crop and a mirror in training, as published (watermark, smm, coop and
    others), or a mirror (evp)."""
    cache: bool = False
    """Train on the values below the lowest edit, computed once (vpt-*, plot; of learned
    words the images' features always are)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen model; what is learned stays float32."""
    accumulate: int = 1
    """Into how many parts a batch is cut, to fit the memory."""
    profile: Path | None = None
    """A folder for a profile of a few steps, for TensorBoard."""
    distributed: str | None = None
    """One of several processes: "auto" on clusters that jax knows (Slurm, TPU pods),
    else HOST:PORT,PROCESSES,INDEX. All devices of all processes are used."""
    controls: bool = True
    """Also maps without prompt (with a pair: zero-shot), a linear probe, random
    weights, nearest pixels (with a pair: nearest features)."""
    random_weights: int | None = None
    """For how many seeds the program is trained on random weights too; default: all."""
    out: Path = Path("runs/visual_reprogramming")
    """A folder for checkpoints, programs, results.json and report.html."""
    resume: bool = False
    """Go on with the run in that folder, to the same bits."""


def check_config(config: Config) -> None:
    """Raise for settings that the method does not have, and for wrong numbers."""
    check_texts(config)
    check_access(config)
    check_sizes(config)
    for name in ("seeds", "epochs", "batch", "budget"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise ValueError(f"got --{name} {value}, expected at least 1")
    if not 0 <= untrained(config) <= config.seeds:
        raise ValueError(
            f"got --random-weights {config.random_weights}, expected 0 to "
            f"{config.seeds}, the number of --seeds"
        )
    rate = config.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"got --learning-rate {rate}, expected a number above 0")


def check_sizes(config: Config) -> None:
    """Raise for a size that the method's recipe does not take."""
    parameters = {n: signature(m.build).parameters for n, m in recipes.METHODS.items()}
    for name, value in sizes(config).items():
        if name not in parameters[config.method]:
            taken = [n for n in recipes.methods(Pair) if name in parameters[n]]
            raise ValueError(
                f"got --{name} {value} with --method {config.method}, which has no "
                f"{name}; expected one of {', '.join(taken)}; leave --{name} out"
            )


def check_texts(config: Config) -> None:
    """Raise for templates that are none, and for methods of a pair that this command
    does not train."""
    if config.template:
        sentences_of(["name"], config.template)
    if broken := [text for text in config.template if "\n" in text]:
        raise ValueError(
            f"got --template {broken[0]!r}, expected a text of one line, since a "
            "program's file keeps a template a line; write a blank instead"
        )
    method = recipes.METHODS.get(config.method)
    if method is None or not method.needs.of_texts:
        return
    if method.template == "":
        raise ValueError(
            f"got --method {config.method}, which takes descriptions of each class "
            f"instead of names, expected one of {OF_PAIRS}; from Python bind the pair "
            "by image_text.of_descriptions, or by classifier(sentences=...)"
        )
    if method.preset is None:
        raise ValueError(
            f"got --method {config.method}, which has nothing to train before an image "
            f"is asked about, expected one of {OF_PAIRS}; call it from Python: "
            f"recipes.build({config.method!r}, ...)"
        )


def check_backbone(config: Config, found: Model[Pixels] | Pair) -> None:
    """Raise for a method that needs what this model does not have."""
    own = recipes.find_method(config.method).needs
    if isinstance(found, Pair):
        roles = joint_roles(found)
        if missing := [name for name in own.roles if not roles.get(name)]:
            fits = [
                name
                for name, method in recipes.methods(Pair).items()
                if is_trained(method) and all(map(roles.get, method.needs.roles))
            ]
            raise ValueError(
                f"got --method {config.method} with the pair {found.name}, which has "
                f"no sites {missing}, expected one of {', '.join(fits)}"
            )
        return
    given = f"--backbone {config.backbone}, a model of images alone"
    expected = (
        "expected a pair of towers: sketches, a CLIP or a SigLIP, such as --backbone "
        "openai/clip-vit-base-patch32"
    )
    if own.of_texts:
        raise ValueError(
            f"got --method {config.method} with {given}, {expected}; or take one of "
            f"{', '.join(recipes.methods(found))}"
        )
    if config.template:
        raise ValueError(
            f"got --template {config.template[0]!r} with {given}, which reads no "
            f"texts, {expected}; or leave --template out"
        )


def check_room(config: Config, pair: Pair, program: Program) -> None:
    """Raise for words that a pair like SigLIP would read at other places."""
    at = [site for sites, _ in program.at for site in sites]
    if pair.padding and any(site.startswith("text/") for site in at):
        raise ValueError(
            f"got --method {config.method} with {pair.name}, expected a pair like "
            "CLIP: here texts are padded with tokens that count, so learned words "
            "would stand elsewhere; take a method for images: --method "
            f"{', '.join(n for n, m in recipes.methods(Pixels).items() if m.preset)}"
        )


def check_access(config: Config) -> None:
    """Raise for arguments of gradients where there are none, and the reverse."""
    if not only_asks(config):
        if config.budget is not None:
            raise ValueError(
                f"got --budget {config.budget} with {config.method}, which trains by "
                "gradients; expected a method whose model only answers: bar, blackvip; "
                "leave --budget out"
            )
        return
    if config.budget is None:
        raise ValueError(
            f"got no --budget with {config.method}, which asks a model that only "
            "answers; expected a number of queries, such as --budget 200000 (an image "
            "is one)"
        )
    plain = Config()
    of_gradients = ("epochs", "accumulate", "cache", "profile", "distributed")
    if given := [n for n in of_gradients if getattr(config, n) != getattr(plain, n)]:
        raise ValueError(
            f"got --{given[0]} with {config.method}, which has no gradients and no "
            "epochs; expected --budget, --batch and --learning-rate; leave it out"
        )


def preset_of(method: str) -> recipes.Preset | BlackBox:
    """The paper's settings of a method."""
    known = recipes.methods(Pair)
    if method in recipes.METHODS and method not in known:
        raise ValueError(
            f"got --method {method}, which is not for images, expected one of "
            f"{', '.join(known)}"
        )
    found = find("method", method, known, "; --methods FILE registers your own")
    return found.preset or ESTIMATED


def only_asks(config: Config) -> bool:
    """Whether the method's model only answers."""
    return isinstance(preset_of(config.method), BlackBox)


def alignment_name(config: Config) -> str | None:
    """The map that was asked for, or the paper's own; None for a head on features."""
    own = recipes.find_method(config.method).alignment
    if config.map is not None and own is None:
        raise ValueError(
            f"got --map {config.map} with {config.method}, which has a linear head of "
            "its own on features; leave --map out"
        )
    name = config.map or own
    if name is not None:
        check_probable(config.method, name)
    return name


def templates(config: Config) -> tuple[str, ...]:
    """Of the names of a pair's classes, for zero-shot and for prompts at them."""
    return config.template or (TEMPLATE,)


def own_templates(config: Config) -> tuple[str, ...]:
    """Those that the method's program has."""
    own = recipes.find_method(config.method).template
    return (own,) if own else templates(config)


def for_pair(config: Config) -> Config:
    """With a pair's own answers for the classes, unless a map was asked for."""
    own = recipes.find_method(config.method).alignment
    return replace(config, map="first") if own and not config.map else config


def check_probable(method: str, name: str) -> None:
    """Raise for a map that gives no log probabilities to a loss that needs them."""
    needed = recipes.find_method(method).probable
    if needed and not recipes.find_alignment(name).probable:
        fit_for = [n for n, a in recipes.ALIGNMENTS.items() if a.probable]
        raise ValueError(
            f"--method {method} got --map {name}, whose answers are no probabilities "
            f"of source classes; expected one of {', '.join(fit_for)}"
        )


def sizes(config: Config, task: data.Task | None = None) -> dict[str, int]:
    """The arguments of the method's recipe that were given, and those that a task
    gives."""
    given = {n: getattr(config, n) for n in SIZES}
    given["augment"] = config.augment or None
    found = {n: value for n, value in given.items() if value is not None}
    taken = signature(recipes.find_method(config.method).build).parameters
    if task is not None and "examples" in taken:
        found["examples"] = len(task.train.y)
    return found


def untrained(config: Config) -> int:
    """For how many seeds the program is trained on random weights too."""
    if not config.controls:
        return 0
    return config.seeds if config.random_weights is None else config.random_weights


def trainings(config: Config) -> str:
    """How many programs the run trains: it takes that many times as long as one."""
    said = f"programs to train: {config.seeds + untrained(config)}"
    if not untrained(config):
        return said
    return (
        f"{said} ({config.seeds} on the model's weights; {untrained(config)} on random "
        "weights, a control that --random-weights 0 leaves out)"
    )


def pace(config: Config, task: data.Task) -> tuple[int, int, float]:
    """(images a step, steps an epoch, learning rate)"""
    preset = preset_of(config.method)
    given = config.learning_rate
    batch = config.batch or preset.batch
    steps = -(-len(task.train.y) // min(batch, len(task.train.y)))
    return batch, steps, preset.learning_rate if given is None else given


def caches(config: Config) -> bool:
    """Whether the model's values are computed once: for a head on features always."""
    return config.cache or config.method == "linear-probe"


def map_refresh(config: Config) -> Refresh:
    """When the label map is estimated: as asked for, or as its paper does."""
    name = alignment_name(config)
    own = recipes.find_alignment(name).refresh if name else "once"
    return config.refresh or own


def identity_of(config: Config, backbone: Model[Pixels]) -> dict[str, Any]:
    """What else makes a run itself."""
    preset, given = preset_of(config.method), config.learning_rate
    of_pair = "text_embedding" in backbone.roles  # else a hash alone tells of a change
    texts = {"template": [*own_templates(config)]} if of_pair else {}
    return texts | {
        "method": config.method,
        "map": alignment_name(config),
        "sizes": sizes(config),
        "learning_rate": preset.learning_rate if given is None else given,
        "backbone": backbone.fingerprint,
    }
