"""Draw strings, train the embedded language model on them, measure it and store it."""

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
import tyro
from flax.traverse_util import flatten_dict

from experiments import abacus as drawn
from reprojax.checkpoints import Checkpoints
from reprojax.core import PyTree
from reprojax.models.language import abacus as model
from reprojax.sequence import tokens

FINAL = {"repeats": 0.1, "maps": 0.3, "functions": 0.1, "chains": 0.25, "sums": 0.25}
BOTH = ("direct", "steps", "steps")  # to compare them, a third is direct
NOT_SETTINGS = ("out", "runs", "measure")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of the stored weights."""

    steps: int = 3000
    batch: int = 16
    length: int = 128
    """Of a document; in the last fifth twice that, and half as many."""
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    manners: Literal["both", "direct"] = "both"
    """direct: the control, which never sees a step written out."""
    seed: int = 0
    out: Path = model.WEIGHTS
    """Where the weights go."""
    runs: Path = Path("runs/abacus")
    """Where training is saved, and resumed from."""
    measure: bool = True


class State(NamedTuple):
    """All that a step changes."""

    step: jax.Array
    params: PyTree
    opt: PyTree


def shares(step: int) -> dict[str, float]:
    """How often a family is drawn. Half are repeats first: looking back is learned on
    them, and maps alone hardly teach it."""
    ramp = min(max((step - 400) / 800, 0.0), 1.0)
    first = {"repeats": 0.5, "maps": 0.5}
    return {k: (1 - ramp) * first.get(k, 0) + ramp * v for k, v in FINAL.items()}


def batch_of(config: Config, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Step number `step` draws the same documents whenever it is taken."""
    rng = random.Random(f"{drawn.VERSION} {config.seed} {step}")
    longer = 2 if step >= 0.8 * config.steps else 1
    manners = ("direct",) if config.manners == "direct" else BOTH
    size = config.batch // longer, config.length * longer + 1
    return drawn.draw(rng, *size, shares(step), manners)


def optimizer_of(config: Config) -> optax.GradientTransformation:
    """AdamW at a constant rate, which falls to 0 in the last fifth."""
    fall = config.steps // 5
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


def train(config: Config) -> PyTree:
    """From random weights, on documents of which none is drawn twice. Killed, it goes
    on from its last save to the same bits."""
    module, optimizer = model.network(), optimizer_of(config)

    def first() -> State:
        x = tokens(jnp.zeros((1, 1), jnp.int32))
        params = module.init(jax.random.key(config.seed), x)
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

    from reprojax.files import write_file

    flat: dict[str, Any] = flatten_dict(frozen["params"], sep="/")
    tensors = {name: np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    write_file(path, save(tensors, {"card": json.dumps(about, sort_keys=True)}))


def main(config: Config) -> None:
    frozen = train(config)
    store(config.out, frozen, {})


if __name__ == "__main__":
    main(tyro.cli(Config))
