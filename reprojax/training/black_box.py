"""Reprogram a model that only answers: no gradients, no weights, a budget of queries.

>>> backbone = only_answers(oracle, size=8)  # a card for recipes, as any other
>>> program = padding(backbone, targets=3, inner=6)
>>> search = spsa(a=20.0, c=0.2)
>>> fitted = fit_black_box(program, oracle, task, search, budget=120, batch=4)
>>> sum(fitted.queries.values()) <= 120
True

The program is split at the model's border. Its input side makes the images (or texts:
see `black_box_texts`) to send. Its output side turns the answers into the task's logits
and the loss. Both run here, jitted. *The frozen tree of such a program is the model's
answers*, so `program.apply(params, answers, x)` is the output side, and label maps,
losses and recipes work unchanged. Sites inside the model do not exist.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from tqdm import tqdm

from reprojax.core import (
    Edit,
    Key,
    Params,
    Program,
    PyTree,
    estimation,
    passthrough,
    record,
)
from reprojax.core.estimation import Refresh
from reprojax.core.slips import shown
from reprojax.data import Split, Task, digest, in_order, order
from reprojax.data.checks import whole, whole_seed
from reprojax.data.order import outline
from reprojax.data.rows import taken, unshared
from reprojax.models import Model, Pixels
from reprojax.saving.identity import of_asking, traced
from reprojax.searches import Account, BudgetSpent, Oracle, Search, logits
from reprojax.searches.oracle import count_rows
from reprojax.training.checks import (
    check_params,
    check_program,
    check_rows,
    check_statistics,
    check_task,
)
from reprojax.training.losses import Loss, Seen, cross_entropy, judge, mean_loss
from reprojax.training.metrics import chosen
from reprojax.training.steps import bar, refresh_maps

SENT = "sent"  # the site of the value that is sent to the model


def only_answers(
    oracle: Oracle,
    size: int,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
    classes: tuple[str, ...] | None = None,
) -> Model[Pixels]:
    """A card for an oracle that takes images of size x size pixels.

    A program on it edits "input", "normalized" and "output". With the `mean` and `std`
    of a model, a prompt after normalisation has the scale that it has on that model.
    Pixels are clipped to [0, 1] before they are sent.
    """
    center, spread = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def forward(answers: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        pixels = edit("input", x)
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"got images of shape {list(pixels.shape)} to send to {oracle.name}, "
                f"expected [batch, {size}, {size}, 3]; put resize({size}) into a "
                'chain at "input"'
            )
        if pixels.dtype == jnp.uint8:
            pixels = pixels.astype(jnp.float32) / 255
        x = edit("normalized", (pixels - center) / spread)
        edit(SENT, jnp.clip(x * spread + center, 0, 1))
        return edit("output", answers)

    names = classes or tuple(f"class {i}" for i in range(oracle.classes))
    roles = {"input": ("input", "normalized")}
    reads = Pixels(size, mean, std)
    return Model(oracle.name, forward, (), reads, roles, names)


def in_process(
    backbone: Model[Pixels], *, chunk: int = 256, mesh: Mesh | None = None
) -> Oracle:
    """A local model as an oracle, for studies: one compiled call a chunk.

    Args:
        mesh: devices to divide a call's rows among; each gets a copy of the weights.
    """
    parts = 1 if mesh is None else mesh.size
    spec = lambda *axes: None if mesh is None else NamedSharding(mesh, Spec(*axes))
    by_row, everywhere = spec(None if mesh is None else mesh.axis_names), spec()
    frozen = jax.device_put(backbone.frozen, everywhere)
    forward = jax.jit(backbone.forward)

    def answer(images: Any) -> Any:
        n = len(images)
        if short := -n % parts:  # the rows must divide evenly among the devices
            images = jnp.pad(images, [(0, short), (0, 0), (0, 0), (0, 0)])
        return forward(frozen, jax.device_put(images, by_row))[:n]

    shape = (1, backbone.input.size, backbone.input.size, 3)
    code = traced(backbone.forward, frozen, jax.ShapeDtypeStruct(shape, np.float32))
    source = f"weights {backbone.fingerprint[:32]}, code {code.digest}"
    given = {"name": backbone.name, "source": source, "chunk": chunk}
    return Oracle(answer, len(backbone.classes), **given)


def zero_one(seen: Seen) -> jax.Array:
    """1 for each error. It has no useful gradient, but searches here need none."""
    return (chosen(seen.output) != seen.labels).astype(jnp.float32)


class Searched(NamedTuple):
    """A program found by a search, and the queries it cost."""

    params: Params
    """The best by validation; without validation, the last."""
    last: Params
    accuracy: dict[str, float]
    """"validation", of the selected params; empty without validation."""
    curve: np.ndarray
    """[checks 3]: queries so far, mean loss of the steps since the last check,
    validation accuracy."""
    queries: dict[str, int]
    """The numbers of queries for "maps", "search" and "validation"."""


def fit_black_box(
    program: Program,
    oracle: Oracle,
    task: Task,
    search: Search,
    *,
    budget: int,
    batch: int,
    seed: int = 0,
    loss: Loss = cross_entropy,
    refresh: Refresh = "epoch",
    checks: int = 10,
    log: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Searched:
    """Search for a program's learnable params by queries, within a budget.

    A query is one image, or text, sent to the model. The budget covers the training
    images for the first label map, each step's points on each of the step's images, and
    the validation images at each check. The last step uses fewer images, so that less
    than one image a point is left over. Unusable answers also count against the budget.
    If they used up too much of it, the restarted run stops one step or one validation
    check early. The test split is not read: see `evaluate`.

    Args:
        program: on the card of `only_answers`, or of `black_box_texts.only_scores`.
        search: for `params.learnable`, such as `spsa(...)`.
        batch: images a step.
        refresh: when label maps are estimated: "once", or again after each epoch from
            the answers that the search paid for.
        checks: how often to ask for the validation images, evenly over the budget; 0:
            never, and the last params are the result.
        log: a file of the answers. After any interruption the same call continues from
            it. A run that differs in anything that affects its numbers raises
            ValueError, which names what differs: see `identity`.
        identity: further settings that define this run, as JSON.
    """
    _check_arguments(program, oracle, task, search)
    budget, batch, checks = _settings(budget, batch, checks, refresh)
    seed, rows = whole_seed(seed), outline(task, batch)
    size, epoch, held = rows.size, rows.steps, len(task.validation.y)
    params, key = _begin(program, oracle, task, seed, loss), jax.random.key(seed)
    state = search.init(key, params.learnable)
    first = search.ask(key, state)
    _check_budget(program, task, budget, held * checks, first)
    run = {"seed": seed, "batch": batch, "budget": budget, "checks": checks}
    if log is not None:
        run |= {"refresh": refresh, "data": digest(task)}
        run |= {"start": _fingerprint(params, first)}
        run |= {"search": _searched(search, key, params.learnable)}
        answers = jax.ShapeDtypeStruct((size, oracle.classes), np.float32)
        asked = program, partial(judge, loss), (SENT,), answers
        run |= of_asking(*asked, rows.x, rows.y, rows.context, identity)
    with (
        Account(oracle, budget, log, run) as account,
        bar(0, budget, progress, "query") as line,
    ):
        ask = _Asking(program, account, line)
        if estimation.estimated(program):
            params = ask.maps(params, task.train, size)
        spent = {"maps": account.asked, "validation": 0}
        curve, losses, sums, step, passed = [], [], None, 0, 0
        best = (-1.0, params)
        while True:
            here = jax.random.fold_in(key, step)
            points = params._replace(learnable=search.ask(here, state))
            n = len(jax.tree.leaves(points.learnable)[0])
            x, y, context = order.batch(task.train, size, seed, step)
            left = account.left - held * (checks - passed)
            y = np.where(np.arange(size) < left // n, y, -1)
            last = not (y >= 0).any()
            try:
                if not last:
                    found = ask.judge(
                        loss, points, params, x, y, unshared(context), here, step
                    )
            except BudgetSpent:  # unusable answers used up the budget
                last = True
            if not last:
                values, seen, params = found
                _check_values(values, step)
                state, step = search.tell(state, points.learnable, values), step + 1
                params = params._replace(learnable=search.read(state))
                sums = seen if sums is None else jax.tree.map(jnp.add, sums, seen)
                losses.append(float(values.mean()))
                if refresh == "epoch" and step % epoch == 0:
                    params, sums = refresh_maps(program, params, sums), None
            if checks and (last or checks * account.asked // budget > passed):
                begun = account.asked
                try:
                    accuracy = ask.accuracy(params, task.validation, size)
                except BudgetSpent:
                    break
                finally:
                    spent["validation"] += account.asked - begun
                passed = checks * account.asked // budget
                best = max(best, (accuracy, params), key=lambda pair: pair[0])
                curve.append((account.asked, np.mean(losses or [np.nan]), accuracy))
                losses = []
                line.set_postfix(validation=f"{accuracy:.3f}")
            if last:
                break
        spent["search"] = account.asked - sum(spent.values())
    accuracy = {"validation": best[0]} if curve else {}
    chosen = best[1] if curve else params
    return Searched(chosen, params, accuracy, np.reshape(curve, (-1, 3)), spent)


def evaluate(
    program: Program, params: Params, oracle: Oracle, split: Split, batch: int = 256
) -> float:
    """The accuracy on a split; it costs len(split.y) queries, on no budget."""
    with Account(oracle, len(split.y)) as account:
        ask = _Asking(program, account, bar(0, 0, False))
        return ask.accuracy(params, split, min(batch, len(split.y)))


class _Asking(NamedTuple):
    """A program and the account through which it asks."""

    program: Program
    account: Account
    line: tqdm

    @property
    def said(self) -> tuple[str, int]:
        return self.account.oracle.kind, self.account.oracle.classes

    def answers(
        self,
        points: Params,
        x: PyTree,
        y: np.ndarray,
        context: PyTree,
        key: Key | None,
    ) -> tuple[np.ndarray, PyTree]:
        """[n B w], the answers to n programs. Rows that are not real are not sent and
        get zeros. And the points' new running averages, averaged over the points."""
        n, rows = len(jax.tree.leaves(points.learnable)[0]), int((y >= 0).sum())
        some = max(1, 2 * self.account.oracle.chunk // rows)  # bounds the memory
        found, news = [], []
        for at in range(0, n, some):
            part = jax.tree.map(lambda a, at=at: a[at : at + some], points.learnable)
            group = points._replace(learnable=part)
            sent, seen = _sent(self.program, self.said[1], group, x, context, key)
            real = lambda a: a[:, :rows].reshape(-1, *a.shape[2:])
            flat = jax.tree.map(real, sent)
            found.append(self.account.ask(flat))
            news.append(seen)
            self.line.update(count_rows(flat))
        answers = np.concatenate(found).reshape(n, rows, -1)
        gap = ((0, 0), (0, len(y) - rows), (0, 0))
        mean = lambda *parts: jnp.concatenate(parts).mean(0)
        return np.pad(answers, gap), jax.tree.map(mean, *news)

    def judge(
        self,
        loss: Loss,
        points: Params,
        params: Params,
        x: PyTree,
        y: np.ndarray,
        context: PyTree,
        key: Key,
        step: int,
    ) -> tuple[jax.Array, PyTree, Params]:
        """The points' losses [n], their mean sums for maps, params with averages."""
        answers, news = self.answers(points, x, y, context, key)
        given = (points, answers, x, y, context, key, step)
        values, sums = _judge(self.program, loss, self.said, *given)
        return values, sums, estimation.put_news(params, news)

    def maps(self, params: Params, split: Split, size: int) -> Params:
        """The params with label maps estimated by one pass over a split."""
        total: Any = None
        for x, y, context in in_order(split, size):
            given = x, y, unshared(context), None
            answers = self.answers(_one(params), *given)[0]
            given = (_one(params), answers, *given, 0)
            sums = _judge(self.program, cross_entropy, self.said, *given)[1]
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        check_statistics(total, "the answers to the training images")
        return refresh_maps(self.program, params, total)

    def accuracy(self, params: Params, split: Split, size: int) -> float:
        """The share of correct answers on a split."""
        errors = 0.0
        for x, y, context in in_order(split, min(size, len(split.y))):
            given = x, y, unshared(context), None
            answers = self.answers(_one(params), *given)[0]
            given = (_one(params), answers, *given, 0)
            values = _judge(self.program, zero_one, self.said, *given)[0]
            errors += float(values[0]) * int((y >= 0).sum())
        return 1 - round(errors) / len(split.y)


def _one(params: Params) -> Params:
    return params._replace(learnable=jax.tree.map(lambda a: a[None], params.learnable))


@partial(jax.jit, static_argnums=(0, 1))
def _sent(
    program: Program,
    classes: int,
    points: Params,
    x: PyTree,
    context: PyTree,
    key: Key | None,
) -> tuple[PyTree, PyTree]:
    """The images of n programs [n B H W C], or what else they send, and their news."""
    nothing = jnp.zeros((count_rows(x), classes))

    def one(learnable: PyTree) -> tuple[PyTree, PyTree]:
        call = record(program.apply, [SENT], also=estimation.is_news)
        own = points._replace(learnable=learnable)
        _, seen = call(own, nothing, x, context, key=key)
        return seen.pop(SENT), seen

    return jax.vmap(one)(points.learnable)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _judge(
    program: Program,
    loss: Loss,
    said: tuple[Any, int],
    points: Params,
    answers: jax.Array,
    x: PyTree,
    labels: jax.Array,
    context: PyTree,
    key: Key | None,
    step: Any,
) -> tuple[jax.Array, PyTree]:
    """The losses of n programs [n] by their answers [n B w], and their mean sums."""
    kind, classes = said
    wanted = ["output", *estimation.raw_sites(program)]

    def one(learnable: PyTree, answers: jax.Array) -> tuple[jax.Array, PyTree]:
        params = points._replace(learnable=learnable)
        y = logits(kind, answers, classes)
        _, seen = record(program.apply, wanted)(params, y, x, context, key=key)
        sums = estimation.observe(program, params, seen, labels)
        found = judge(loss, seen, labels, learnable, x, context, key, step)
        return mean_loss(found, labels), sums

    values, sums = jax.vmap(one)(points.learnable, answers)
    return values, jax.tree.map(lambda a: a.mean(0), sums)


def _begin(
    program: Program, oracle: Oracle, task: Task, seed: int, loss: Loss
) -> Params:
    """The initial params; raise first if the program cannot be searched in this way."""
    if task.answers != "class":
        raise ValueError(
            f"the answers to {task.name} are {task.answers}, expected one class a row, "
            "because the model only answers with classes; choose another task"
        )
    x, labels, context = taken(task.train, slice(2))
    context = unshared(context)
    answers = jnp.zeros((len(labels), oracle.classes))
    params = program.init(jax.random.key(seed), answers, x, context)
    wanted = ["output", *estimation.raw_sites(program), SENT]
    y, seen = record(program.apply, wanted)(params, answers, x, context)
    shape = getattr(y, "shape", type(y).__name__)
    if shape != (len(labels), len(task.classes)):
        raise ValueError(
            f"the program answers {shape} to a batch of {len(labels)}, expected "
            f"{(len(labels), len(task.classes))} for the classes of {task.name}; give "
            '"output" an alignment to that number'
        )
    fills = "the last step may have fewer"
    check_rows(loss, params.learnable, seen, x, labels, context, fills)
    check_params(params)
    return params


def _fingerprint(*trees: PyTree) -> str:
    total = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(trees):
        total.update(f"{leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return total.hexdigest()


def _searched(search: Search, key: Key, learnable: PyTree) -> str:
    """A fingerprint of a search: its points in three steps with made-up values.

    Some searches run on the host and have no jaxpr. Differences that show later, such
    as in a schedule's end, appear as queries that differ from the log's.
    """
    state, asked = search.init(key, learnable), []
    for step in range(3):
        points = search.ask(jax.random.fold_in(key, step), state)
        asked.append(points)
        values = jnp.arange(len(jax.tree.leaves(points)[0]), dtype=jnp.float32)
        state = search.tell(state, points, values)
    return _fingerprint(asked, search.read(state))


def _check_arguments(program: Any, oracle: Any, task: Any, search: Any) -> None:
    who = "fit_black_box"
    order = f"the order is {who}(program, oracle, task, search, budget=...)"
    check_program(who, program, order)
    if not isinstance(oracle, Oracle):
        raise ValueError(
            f"{who} got {shown(oracle)} for the oracle, expected an Oracle, a model "
            f"behind a function; in_process(card) gives one; {order}"
        )
    check_task(who, task, order)
    if not isinstance(search, Search):
        raise ValueError(
            f"{who} got {shown(search)} for the search, expected a Search; "
            f"searches.spsa(...) gives one; {order}"
        )


def _settings(
    budget: Any, batch: Any, checks: Any, refresh: str
) -> tuple[int, int, int]:
    """budget, batch and checks as ints."""
    counts = whole("budget", budget, 1), whole("batch", batch, 1)
    found = *counts, whole("checks", checks)
    if refresh not in ("epoch", "once"):
        raise ValueError(
            f"fit_black_box got refresh={refresh!r}, expected 'epoch' or 'once'; an "
            "exact map would query all training images again"
        )
    return found


def _check_budget(
    program: Program, task: Task, budget: int, checks: int, points: PyTree
) -> None:
    n = len(jax.tree.leaves(points)[0])
    maps = len(task.train.y) if estimation.estimated(program) else 0
    if budget < maps + checks + n:
        raise ValueError(
            f"got a budget of {budget} queries, which leaves no step: {maps} are for "
            f"the label map, {checks} for validation, and a step needs {n} points on "
            "each image; give a larger budget, fewer checks or fewer images"
        )


def _check_values(values: jax.Array, step: int) -> None:
    if not bool(jnp.isfinite(values).all()):
        raise ValueError(
            f"the loss of step {step + 1} is not finite: {values.tolist()}; the log "
            "keeps the answers; take a smaller radius or smaller steps"
        )
