"""Draw strings, train the embedded language model on them, measure it and store it.

    python -m experiments.train_abacus                  # writes into runs/abacus/
    python -m experiments.train_abacus --steps 0        # measures the embedded one
    python -m experiments.train_abacus --manners direct --steps 7500 \\
        --runs runs/direct --out runs/direct.safetensors    # the control

The embedded model is such a file, copied to reprojax/models/language by hand.

About 18 minutes of one busy core; run again, it goes on from its last save. On what
training never drew, of 64 maps or problems (two standard errors: .12 at most), the
stored weights reach, beside the ideal learner and the control:

    demonstrations        0    1    2    4    8   16
    maps of 4 keys      .27  .42  .61  .77  .92  .98     ideal .25 .44 .58 .77 .92 .99
    maps of 12 keys     .27  .33  .38  .49  .63  .81     ideal .25 .31 .37 .48 .63 .81
                                                         (training had 2 to 8)
    operations            2    4    6    8   10   12
    chains, steps       .97  .83  .44  .14  .12  .06     (training had up to 8)
    chains, direct      .05  .12  .14  .12  .16  .16     control .16 .14 .14 .11 .12 .17
    digits                1    2    3    4    5    6
    sums, steps        1.00 1.00 1.00  .92  .00  .00     (training had up to 5)
    sums, direct        .25  .00  .00  .00  .00  .00     control 1.0 .17 .00 .00 .00 .00

So steps gain 2 to 6 operations and 2 to 4 digits, and reach no length beyond training.
The functions are not learned (.00 to .28 with 4 demonstrations). Three things decided:
a rate of 1e-3 (at 2e-3 and 3e-3 nothing was looked up yet when the runs were given up,
after 1200 to 2500 steps), many short documents first, and maps whose labels stand right
behind their keys: with a sign between them, "a>x", 16 demonstrations give .44.
"""

import dataclasses
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments import language_demo as demo
from experiments.shared import abacus as drawn
from reprojax.commands.outputs import command, replaceable
from reprojax.core import PyTree, tokens
from reprojax.models import Model
from reprojax.models.language import Words
from reprojax.models.language import abacus as model
from reprojax.saving.checkpoints import Checkpoints
from reprojax.text.in_process import language

MARK = b'{"__metadata__":{"card":'  # of a file that `store` wrote
LOOKING = 2500  # steps of learning to look back, on short documents
FIRST = {"repeats": 0.5, "maps": 0.5, "functions": 0.0, "chains": 0.0, "sums": 0.0}
FINAL = {"repeats": 0.1, "maps": 0.4, "functions": 0.1, "chains": 0.2, "sums": 0.2}
BOTH = ("direct", "steps", "steps")  # to compare them, a third is direct
NOT_SETTINGS = ("out", "runs", "weights")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of the stored weights."""

    steps: int = 10000
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    manners: Literal["both", "direct"] = "both"
    """direct: the control, which sees chains and sums alone and no step written out."""
    seed: int = 0
    out: Path = Path("runs/abacus/abacus.safetensors")
    """Where the weights go."""
    weights: Path = model.WEIGHTS
    """What is measured with --steps 0."""
    runs: Path = Path("runs/abacus")
    """Where training is saved, and resumed from."""


class State(NamedTuple):
    """All that a step changes."""

    step: jax.Array
    params: PyTree
    opt: PyTree


def shares(step: int) -> dict[str, float]:
    """How often a family is drawn. Most are repeats first: looking back is learned on
    them, and maps alone hardly teach it."""
    ramp = min(max((step - LOOKING) / 300, 0.0), 1.0)
    return {k: (1 - ramp) * v + ramp * FINAL[k] for k, v in FIRST.items()}


def batch_of(config: Config, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Step number `step` draws the same documents whenever it is taken. Long ones come
    late: what is to be found takes many steps, of few tokens each."""
    rng = random.Random(f"{drawn.VERSION} {config.seed} {step}")
    left = config.steps - step
    lengths = (48, step < LOOKING), (64, step < 6000), (128, left > 300), (256, True)
    length = next(length for length, now in lengths if now)
    size = config.batch // (1 + (length == 256)), length + 1
    if config.manners == "direct":
        return drawn.draw(rng, *size, {"chains": 0.5, "sums": 0.5}, ("direct",))
    return drawn.draw(rng, *size, shares(step), BOTH)


def optimizer_of(config: Config) -> optax.GradientTransformation:
    """AdamW at a constant rate, which falls to 0 in the last eighth."""
    fall = config.steps // 8
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, 100),
            optax.linear_schedule(config.learning_rate, 0.0, fall),
        ],
        [config.steps - fall],
    )
    decay = optax.adamw(rate, b2=0.98, weight_decay=config.weight_decay)
    return optax.chain(optax.clip_by_global_norm(1.0), decay)


def step_of(forward: Callable, optimizer: optax.GradientTransformation) -> Callable:
    """(state, ids [B L+1], weight) -> state, loss."""

    def loss(params: PyTree, ids: jax.Array, weight: jax.Array) -> jax.Array:
        logits = forward(params, tokens(ids[:, :-1])).value
        each = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
        return (each * weight[:, 1:]).sum() / weight[:, 1:].sum()

    @jax.jit
    def step(state: State, ids: jax.Array, weight: jax.Array):
        value, slope = jax.value_and_grad(loss)(state.params, ids, weight)
        updates, opt = optimizer.update(slope, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, opt), value

    return step


def looking_back(frozen: PyTree) -> PyTree:
    """Random weights of which two heads of the first layer see the character before and
    the one before that. To find this out takes most of the time that it takes to look
    up what followed last time (Olsson et al., arXiv 2209.11895, on smeared keys).

    The table is larger too, as tied ones of 0.02 begin with logits of nearly nothing.
    """
    flat: dict[str, Any] = flatten_dict(frozen["params"], sep="/")
    flat["embed/embedding"] *= 5
    at, half = "block_0/attention/", model.SIZE // 2
    turn = np.where(
        np.arange(half) < 6, np.array(model.abacus_network().heads.frequencies), 0
    )
    size = 7.0 * (turn > 0)
    for head, back in enumerate((1, 2)):
        query = [size * np.cos(back * turn), -size * np.sin(back * turn)]
        for name, halves in (("query", query), ("key", [size, 0 * size])):
            flat[f"{at}{name}/kernel"] = flat[f"{at}{name}/kernel"].at[:, head].set(0)
            bias = flat[f"{at}{name}/bias"].at[head].set(np.concatenate(halves))
            flat[f"{at}{name}/bias"] = bias
    return {"params": unflatten_dict(flat, sep="/")}


def train(config: Config) -> PyTree:
    """From random weights, on documents of which none is drawn twice. Killed, it goes
    on from its last save to the same bits."""
    module, optimizer = model.abacus_network(), optimizer_of(config)

    def first() -> State:
        x = tokens(jnp.zeros((1, 1), jnp.int32))
        params = looking_back(module.init(jax.random.key(config.seed), x))
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    settings = {k: v for k, v in vars(config).items() if k not in NOT_SETTINGS}
    identity = {**settings, "generator": drawn.VERSION}
    forward = model.language_model(None).forward
    step = step_of(forward, optimizer)
    with Checkpoints(config.runs, identity, resume=True, minutes=1.0) as kept:
        state = kept.latest(first) or first()
        begun, start, log = int(state.step), time.monotonic(), []
        for i in range(begun, config.steps):
            state, value = step(state, *batch_of(config, i))
            log.append(value)
            if (i + 1) % 100 == 0:
                seconds = time.monotonic() - start
                print(
                    f"step {i + 1}  loss {np.mean(log[-100:]):.4f}  {seconds:.0f} s",
                    flush=True,
                )
            if kept.due(i + 1) or i + 1 == config.steps:
                kept.save(i + 1, state)
                if kept.stopping:
                    raise SystemExit(f"stopped at step {i + 1}; saved in {config.runs}")
    return state.params


def store(path: Path, frozen: PyTree, about: dict[str, Any]) -> None:
    """All in float16, the card in the file's metadata."""
    from safetensors.numpy import save

    from reprojax.saving.files import write_file

    flat: dict[str, Any] = flatten_dict(frozen["params"], sep="/")
    tensors = {name: np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    write_file(path, save(tensors, {"card": json.dumps(about, sort_keys=True)}))


def measure(net: Model[Words], number: int = 64) -> dict[str, Any]:
    """Accuracies on what training never drew, as `language_demo` asks.

    Args:
        number: of maps, and of problems of each size.
    """
    asked = language(net, rows=32)
    found: dict[str, Any] = {}
    for keys in (4, 8, 12):
        maps = demo.held_out_maps(number, keys)
        for k in (0, 1, 2, 4, 8, 16):
            rows = [demo.demonstrations(one, k, 0) for one in maps]
            ideal = [demo.ideal(*pair) for pair in zip(maps, rows, strict=True)]
            right = float(np.mean(demo.in_context(asked, maps, rows)))
            found[f"maps of {keys} keys, {k} shown"] = right, float(np.mean(ideal))
    for make, sizes in (
        (drawn.chain, (2, 4, 6, 8, 10, 12)),
        (drawn.total, range(1, 8)),
    ):
        for size in sizes:
            asks = demo.problems(make, size, number if size > 1 else 8)
            both = (demo.written(asked, make, asks, m)[0] for m in ("direct", "steps"))
            name = f"{make.__name__} of {size}: direct, steps"
            found[name] = tuple(score.accuracy for score in both)
    for name in (*drawn.FUNCTIONS, *drawn.UNSEEN):
        found[f"{name} of a word, 4 shown"] = demo.applied(asked, name, number)
    return found


def main(config: Config) -> None:
    """Train, store, and measure what was stored; or only measure."""
    if not config.steps:
        abilities = measure(model.load_abacus(config.weights))
    else:
        replaceable(config.out, MARK)
        frozen = train(config)
        store(config.out, frozen, about(config, frozen))
        net = model.load_abacus(config.out)
        abilities = measure(net)
        store(
            config.out,
            net.frozen,
            model.abacus_card(config.out) | {"abilities": abilities},
        )
    for name, value in abilities.items():
        print(f"{name:<40} {value}")


def about(config: Config, frozen: PyTree) -> dict[str, Any]:
    """What the card holds besides abilities."""
    of = model.abacus_network()
    return {
        "architecture": f"Llama: {of.depth} layers of {of.width}, {of.activation}",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(frozen)),
        "strings": f"{drawn.__name__}, version {drawn.VERSION}, none held out",
        "training": {k: v for k, v in vars(config).items() if k not in NOT_SETTINGS},
    }


if __name__ == "__main__":
    command(main, Config)
