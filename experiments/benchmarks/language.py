r"""Language models: steps over PEFT's, words over transformers', shared prefixes.

    python -m experiments.benchmarks.language                  # all of it, in float32
    python -m experiments.benchmarks.language --dtypes float32 bfloat16

A model of SmolLM2's shapes with random weights, the same files for both. First a
training step of prompt tuning (20 tokens) and prefix tuning (10, no MLP) on 8 texts of
64 words with 2 label words, by `fit`'s own step and by PEFT with the head at the last
word alone; both begin at one prompt, and their losses must agree. Then 64 greedy words
behind 1 and 8 prompts of 64. All of one table are measured in turns; ratios are medians
over the rounds with their 95 % interval. Then 8 queries of 24 words behind 1, 8 and 32
demonstrations of 32: scored from a head that was read once, and all read again. Memory
is of a process of its own for each: its peak in a step, above what it held before the
first one with the model loaded.

PyTorch gets its best form (`language_torch.py` says which were tried). On a machine
that others use too, give --process: seconds are then those of this process, all cores
together (and OMP_WAIT_POLICY=passive, so that PyTorch's threads sleep as they wait).
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.timing import interval, machine, paired, ratio
from reprojax import Program, decoding, reprogram
from reprojax.alignments import label_words
from reprojax.commands.outputs import command
from reprojax.core import tokens
from reprojax.formats import learnable
from reprojax.models import Model, language
from reprojax.models.language import Words
from reprojax.models.language.maps import one_word
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning
from reprojax.saving.files import write_json
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import begin, train_step

Call = Callable[[], Any]
WORDS, QUERY, DEMONSTRATION = (5, 6), 24, 32
LENGTH = {"prompt": 20, "prefix": 10}
KINDS = ("prompt", "prefix")
MEMORY = ("ours", "torch")


@dataclass(frozen=True)
class Config:
    """Steps, words and shared prefixes of a model of SmolLM2's shapes."""

    parts: tuple[str, ...] = ("steps", "memory", "words", "shared")
    dtypes: tuple[str, ...] = ("float32",)
    depth: int = 30
    batch: int = 8
    length: int = 64
    new: int = 64
    demonstrations: tuple[int, ...] = (1, 8, 32)
    repeats: int = 7
    compiled: bool = True
    """Measure torch.compile too: minutes to compile."""
    process: bool = False
    """Count the process's own seconds instead of those on the wall."""
    out: Path = Path("runs/language.json")
    model: Path | None = None
    """A folder of an earlier call, instead of a new model."""
    alone: str = ""
    """One line of the memory, such as "prompt ours float32": what a process of its own
    is asked for."""


def main(config: Config) -> None:
    """Measure and print a table at a time."""
    if config.alone:
        print(peak(config))
        return
    from experiments.benchmarks import language_torch

    language_torch.check()
    where = machine("torch", "transformers", "peft")
    print(where)
    with tempfile.TemporaryDirectory() as folder:
        if config.model is None:
            language_torch.save(Path(folder), config.depth)
        config = replaced(config, model=config.model or Path(folder))
        found = {
            f"{part}, {dtype}": PARTS[part](config, dtype)
            for dtype in config.dtypes
            for part in config.parts
        }
    write_json(config.out, {"machine": where, **found})


def replaced(config: Config, **changes: Any) -> Config:
    """The settings with some changed."""
    return Config(**{**vars(config), **changes})


def rows(config: Config, count: int, length: int, seed: int = 0) -> np.ndarray:
    """Random words [count length]."""
    random = np.random.default_rng(seed)
    return random.integers(100, 49_000, (count, length)).astype(np.int32)


def classes(config: Config) -> np.ndarray:
    """A label for each row."""
    return np.arange(config.batch, dtype=np.int32) % len(WORDS)


def start(config: Config, kind: str) -> np.ndarray:
    """Where a prompt begins, here and there."""
    length = LENGTH[kind]
    shape = (length, 576) if kind == "prompt" else (2 * config.depth, length, 3, 64)
    return 0.02 * np.random.default_rng(1).standard_normal(shape).astype(np.float32)


# -- ours


def load(config: Config, dtype: str) -> Model[Words]:
    """The model of the folder."""
    assert config.model is not None
    return language.load(config.model, dtype=jnp.dtype(dtype), tokenizer=None)


def program(card: Model[Words], kind: str, soft: np.ndarray) -> Program:
    """A recipe whose head judges the last word alone."""
    card, words, length = one_word(card), label_words(WORDS), LENGTH[kind]
    if kind == "prompt":
        initial = learnable(jnp.asarray(soft))
        return prompt_tuning(card, words, length=length, initial=initial)
    first = jnp.asarray(soft)
    return prefix_tuning(card, words, length=length, hidden=None, start=first)


def stepper(config: Config, card: Model[Words], kind: str) -> Call:
    """`fit`'s own step on one batch, again and again; a call gives the loss."""
    x = tokens(jnp.asarray(rows(config, config.batch, config.length)))
    y, optimizer = jnp.asarray(classes(config)), optax.sgd(0.01)
    tuned = program(card, kind, start(config, kind))
    settings = tuned, optimizer, cross_entropy, ()
    state = begin(tuned, optimizer, card.frozen, x, seed=0, epochs=1)
    last = 0.0

    def call() -> float:
        nonlocal state, last
        state = train_step(*settings, state, card.frozen, x, y)
        before, last = last, float(state.loss)
        return last - before

    return call


def writer(config: Config, card: Model[Words], count: int) -> Call:
    """Greedy words [count new] behind prompts."""
    x = tokens(jnp.asarray(rows(config, count, config.length)))
    plain = reprogram(card.forward, {})
    params = plain.init(jax.random.key(0), card.frozen, x)
    run = jax.jit(decoding.generate(plain, config.new))
    keys = jax.random.split(jax.random.key(0), count)
    return lambda: np.asarray(run(params, card.frozen, x, keys).ids)


# -- tables


def forms(config: Config, dtype: str, kind: str) -> tuple[str, ...]:
    """PyTorch's that can be the fastest, as far as they were tried."""
    if not config.compiled:
        return ("eager",)
    if kind == "words":
        return ("eager", "compiled")
    # Two layers in float32: compiled 1.2 times eager; in bfloat16 a seventh of it.
    return ("eager",) if dtype == "float32" else ("compiled",)


def steps(config: Config, dtype: str) -> dict[str, Any]:
    """Seconds a step, and ours over PEFT's."""
    found = {}
    for kind in KINDS:
        theirs = torch_steps(config, dtype, kind)
        calls = {"ours": stepper(config, load(config, dtype), kind), **theirs}
        first = {name: call() for name, call in calls.items()}
        near = 1e-3 if dtype == "float32" else 0.1
        if max(first.values()) - min(first.values()) > near:
            raise ValueError(f"the losses of {kind} tuning differ: {first}")
        found[kind] = compared(config, f"{kind} tuning, {dtype}", calls)
    return found


def torch_steps(config: Config, dtype: str, kind: str) -> dict[str, Call]:
    """{form: PEFT's step}."""
    from experiments.benchmarks import language_torch

    assert config.model is not None
    return language_torch.steps(
        language_torch.load(config.model, dtype),
        kind,
        start(config, kind),
        rows(config, config.batch, config.length),
        classes(config),
        WORDS,
        forms(config, dtype, kind),
    )


def words(config: Config, dtype: str) -> dict[str, Any]:
    """Seconds of writing, and ours over transformers'."""
    from experiments.benchmarks import language_torch

    assert config.model is not None
    card, other = load(config, dtype), language_torch.load(config.model, dtype)
    found = {}
    for count in (1, config.batch):
        ids, kinds = rows(config, count, config.length), forms(config, dtype, "words")
        calls = {"ours": writer(config, card, count)}
        calls |= language_torch.writers(other, ids, config.new, kinds)
        written = {name: call() for name, call in calls.items()}
        same = np.mean([np.mean(written["ours"] == w) for w in written.values()])
        found[str(count)] = compared(config, f"{count} rows, {dtype}", calls)
        speed = {
            name: count * config.new / seconds
            for name, seconds in found[str(count)]["seconds"].items()
        }
        shown = ", ".join(f"{name} {each:.0f}" for name, each in speed.items())
        print(f"    tokens a second: {shown}; the same words {same:.0%}", flush=True)
    return found


def compared(config: Config, title: str, calls: dict[str, Call]) -> dict[str, Any]:
    """Medians, and the first over the fastest of the others."""
    clock = time.process_time if config.process else time.perf_counter
    seconds = paired(calls, config.repeats, clock)
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    ours, *others = calls
    best = min(others, key=median.__getitem__)
    two = seconds[ours], seconds[best]
    over, (low, high) = ratio(*two), interval(*two)
    shown = ", ".join(f"{name} {each:.3f} s" for name, each in median.items())
    print(f"{title}: {shown}; {ours} over {best} {over:.3f} [{low:.3f} {high:.3f}]")
    sys.stdout.flush()
    return {"seconds": median, "over": best, "ratio": (over, low, high)}


def shared(config: Config, dtype: str) -> dict[str, Any]:
    """Queries a second behind a head that was read once, over reading all again."""
    card = load(config, dtype)
    plain = reprogram(card.forward, {})
    own = jnp.asarray(rows(config, config.batch, QUERY, 1))
    params = plain.init(jax.random.key(0), card.frozen, tokens(own))
    share = jax.jit(partial(decoding.share, plain))

    @jax.jit
    def judge(frozen: Any, x: Any, cache: Any = None) -> jax.Array:
        y, _ = decoding.prefill(plain, params, frozen, x, cache=cache, last=True)
        return y.value[:, 0, jnp.asarray(WORDS)]

    found = {}
    for count in config.demonstrations:
        front = rows(config, 1, count * DEMONSTRATION, 2)
        head = share(params, card.frozen, tokens(jnp.asarray(front)))
        rest = tokens(own, start=front.shape[1])
        each = jnp.repeat(jnp.asarray(front), config.batch, 0)
        whole = tokens(jnp.concatenate([each, own], 1))
        calls = {
            "recomputed": partial(judge, card.frozen, whole),
            "shared": partial(judge, card.frozen, rest, head),
            "its head": partial(share, params, card.frozen, tokens(each[:1])),
        }
        apart = float(abs(calls["shared"]() - calls["recomputed"]()).max())
        clock = time.process_time if config.process else time.perf_counter
        seconds = paired(calls, config.repeats, clock)
        two = seconds["recomputed"], seconds["shared"]
        over, (low, high) = ratio(*two), interval(*two)
        rate = {name: config.batch / float(np.median(s)) for name, s in seconds.items()}
        words = (front.shape[1] + QUERY) / QUERY
        print(
            f"{count} demonstrations ({front.shape[1]} words), {dtype}: recomputed "
            f"{rate['recomputed']:.1f}, shared {rate['shared']:.1f} queries a second, "
            f"{over:.1f} times [{low:.1f} {high:.1f}] as fast for {words:.1f} times "
            f"fewer words; the head {np.median(seconds['its head']):.2f} s once; "
            f"logits at most {apart:.1e} apart",
            flush=True,
        )
        found[str(count)] = {"rate": rate, "ratio": (over, low, high), "words": words}
    return found


# -- memory


def memory(config: Config, dtype: str) -> dict[str, Any]:
    """Megabytes of a step above the loaded model, each in a process of its own."""
    found = {}
    for kind in KINDS:
        for whose in MEMORY:
            name = f"{kind} {whose} {dtype}"
            command = [sys.executable, "-m", "experiments.benchmarks.language"]
            for key in ("depth", "batch", "length"):
                command += [f"--{key}", str(getattr(config, key))]
            command += ["--model", str(config.model), "--alone", name]
            out = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] = float(out.stdout.split()[-1])
        ours, theirs = (found[f"{kind} {whose} {dtype}"] for whose in MEMORY)
        print(
            f"{kind} tuning, {dtype}: {ours:,.0f} MB, torch {theirs:,.0f} MB; "
            f"{ours / theirs:.2f}",
            flush=True,
        )
    return found


def peak(config: Config) -> float:
    """Megabytes at the top of a step, above what was held before the first."""
    kind, whose, dtype = config.alone.split()
    if whose == "ours":
        card = load(config, dtype)
        jax.block_until_ready(card.frozen)
        before = held()
        call = stepper(config, card, kind)
    else:
        calls = torch_steps(config, dtype, kind)
        before = held()
        (call,) = calls.values()
    call()  # compiles
    forget_peak()
    call()
    return (highest() - before) / 1e6


def held() -> int:
    """Bytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """Have Linux count the highest point anew, behind loading and compiling."""
    Path("/proc/self/clear_refs").write_text("5")


def highest() -> int:
    """Bytes at the highest point."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


PARTS = {"steps": steps, "memory": memory, "words": words, "shared": shared}

if __name__ == "__main__":
    command(main, Config)
