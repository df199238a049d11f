"""What examples in docstrings take for granted: tiny models, programs and tasks.

Each function's names are there for the module of that name.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import answering
import jax
import jax.numpy as jnp
import numpy as np
import optax
import small_languages
import toys
from fitting import FORWARD, FROZEN, MEAN, PROGRAM, STD, TASK, Net
from flax.traverse_util import flatten_dict
from jax.nn.initializers import ones
from jax.sharding import PartitionSpec
from safetensors.numpy import save_file

from reprojax import recipes, reprogram
from reprojax.alignments import label_words
from reprojax.core import passthrough, spec_of
from reprojax.data import Split, Task
from reprojax.formats import learnable
from reprojax.locations import linen
from reprojax.models import Pixels, card
from reprojax.operators import add
from reprojax.recipes.prompt_tuning import black_box_tuning
from reprojax.recipes.prompt_tuning.black_box_tuning import search
from reprojax.saving import Card, load, save
from reprojax.searches import Oracle, spsa
from reprojax.text import ask, instruct
from reprojax.training import fit
from reprojax.training.black_box import fit_black_box

NORMAL = {"mean": tuple(MEAN.tolist()), "std": tuple(STD.tolist())}
ADAM = optax.adam(0.01)
TRAINED = {"program": PROGRAM, "frozen": FROZEN, "task": TASK, "adam": ADAM, "fit": fit}


def backbone() -> Any:
    reads = Pixels(8, **NORMAL)
    return card(linen(Net()), FROZEN, name="net", input=reads, features="head:in")


def core_many() -> dict[str, Any]:
    names, model = saving_programs(), backbone()
    paths = "one.safetensors", "two.safetensors"
    about = Card.of(model, method="watermark", arguments={}, classes=("a", "b", "c"))
    for path in paths:
        save(path, names["params"], about)
    own = {"card": model, "program": names["own"], "x": TASK.train.x[:4]}
    return own | {"load": load, "paths": paths}


def models_card() -> dict[str, Any]:
    pixels = {"network": linen(Net()), "frozen": FROZEN, **NORMAL}
    wave = lambda frozen, x, edit=passthrough: toys.dense(frozen, x[..., 0], edit)
    own = {"wave": wave, "rows": toys.dense, "weights": toys.DENSE_FROZEN}
    return pixels | own | {"x": toys.ROWS, "spec_of": spec_of, "Pixels": Pixels}


def recipes_registry() -> dict[str, Any]:
    own = {"mine": recipes.linear_probe, "backbone": backbone(), "optax": optax}
    return own | {"recipes": recipes, "Preset": recipes.Preset}


def saving_checkpoints() -> dict[str, Any]:
    class State(NamedTuple):
        step: jax.Array

    begin = lambda: State(jnp.zeros((), jnp.int32))
    return {"begin": begin, "train_step": lambda state, step: State(state.step + 1)}


def saving_programs() -> dict[str, Any]:
    model, images = backbone(), TASK.train.x[:2]
    own = recipes.build("watermark", model, alignment="blm", targets=3)
    params = own.init(jax.random.key(0), model.frozen, images)
    names = {"backbone": model, "own": own, "params": params, "images": images}
    return names | {"rebuild": recipes.rebuild}


def testing_contract() -> dict[str, Any]:
    program = reprogram(toys.dense, {"hidden": add(learnable(ones))})
    labels = {"x": toys.ROWS, "labels": jnp.arange(4)}
    frozen = {"forward": toys.dense, "frozen": toys.DENSE_FROZEN}
    return {"program": program} | labels | frozen


def text_served_server() -> Iterator[dict[str, Any]]:
    program = instruct(ask("{text}{answer}"), {})
    answer = lambda path, body: answering.said(answering.choice(" 4"))
    with answering.Server(answer) as server:
        yield {"program": program, "url": server.url}


def training_black_box() -> dict[str, Any]:
    run = jax.jit(lambda x: jax.nn.softmax(FORWARD(FROZEN, x)))
    oracle = Oracle(lambda x: np.asarray(run(x)), classes=5, kind="probabilities")
    names = {"oracle": oracle, "task": TASK, "spsa": spsa}
    return names | {"padding": recipes.padding}


def training_black_box_texts() -> dict[str, Any]:
    split = Split(*jax.tree.map(np.asarray, small_languages.parity(4)))
    names = {"language": small_languages.card("rotary"), "words": (11, 6)}
    names |= {"task": Task("parity", split, split, split, ("even", "odd"), "tokens")}
    names |= {"search": search, "fit_black_box": fit_black_box}
    return names | {"label_words": label_words, "black_box_tuning": black_box_tuning}


def training_caches() -> dict[str, Any]:
    model = backbone()
    probe = recipes.linear_probe(model, targets=3)
    return TRAINED | {"program": probe, "frozen": model.frozen, "optax": optax}


def training_hooks() -> dict[str, Any]:
    from reprojax.training import hooks

    return TRAINED | {"hooks": hooks}


def training_parallel() -> dict[str, Any]:
    from reprojax.training import parallel

    save_file(flatten_dict(FROZEN, sep="/"), "weights.safetensors")
    return TRAINED | {"parallel": parallel, "P": PartitionSpec}


def training_population() -> dict[str, Any]:
    return TRAINED | {"optax": optax}
