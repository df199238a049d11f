"""What is the same run: each ingredient changed alone is refused by its name.

The likeliest mistakes: a closure's setting that nobody looks at, an array known by its
shape, a backward rule that a forward pass does not show, a digest that is another one
in the next process.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import FROZEN, TASK, outcome
from jax.nn.initializers import normal

from reprojax import reprogram
from reprojax.alignments import bayesian, bayesian_plus, linear
from reprojax.core import Program, chain, stateless
from reprojax.data import Split
from reprojax.formats import learnable
from reprojax.models import images
from reprojax.operators import add, dropout
from reprojax.saving import identity
from reprojax.saving.identity import traced
from reprojax.training import metrics, parallel
from reprojax.training.caches import cached
from reprojax.training.loop import Fitted
from reprojax.training.losses import cross_entropy, with_norm

ROOT = Path(__file__).parents[2]
X, ONES = np.arange(5, dtype=np.float32), np.ones(3, np.float32)


# -- a function


def doubled(backward: float) -> Any:
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, slope: (backward * slope,))
    return double


def looked_up(value: float) -> Any:
    table = np.ones((300, 300), np.float32)
    table[250, 250] = value
    return lambda x: jax.jit(lambda x: jnp.asarray(table)[:5, 0] + table.sum() + x)(x)


@pytest.mark.parametrize(
    "one, same, other",
    [
        (lambda x: x * 2, lambda other_name: other_name * 2, lambda x: x * 3),
        (looked_up(1.0), looked_up(1.0), looked_up(2.0)),
        (jax.grad(lambda x: doubled(2.0)(x).sum()),)
        + (jax.grad(lambda x: doubled(2.0)(x).sum()),)
        + (jax.grad(lambda x: doubled(3.0)(x).sum()),),
        (
            lambda x: jax.lax.scan(lambda c, t: (c + t, c), x, jnp.stack([x, x]))[0],
            lambda x: jax.lax.scan(lambda c, t: (c + t, c), x, jnp.stack([x, x]))[0],
            lambda x: jax.lax.scan(lambda c, t: (c - t, c), x, jnp.stack([x, x]))[0],
        ),
        (lambda x: x - x[::-1], lambda x: x - x[::-1], lambda x: x[::-1] - x),
        (
            lambda x: jax.random.normal(jax.random.key(1), (5,)) + x,
            lambda x: jax.random.normal(jax.random.key(1), (5,)) + x,
            lambda x: jax.random.normal(jax.random.key(2), (5,)) + x,
        ),
    ],
    ids=["constant", "array", "backward", "loop", "order", "key"],
)
def test_a_function_is_known_by_what_it_computes(one, same, other):
    assert traced(one, X).digest == traced(same, X).digest
    assert traced(one, X).digest != traced(other, X).digest


def test_what_calls_back_into_python_is_named():
    def called(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((5,), np.float32), x)

    def told(x):
        jax.debug.print("{}", x)
        return jax.nn.relu(x) + jax.nn.gelu(x)

    assert traced(called, X).opaque == {"pure_callback"}
    assert traced(told, X).opaque == frozenset()


# -- a run


def program(
    spread: float = 0.1,
    rate: float = 0.2,
    site: str = "normalized",
    table: np.ndarray = ONES,
    mean: float = 0.4,
    align: Any = None,
) -> Program:
    """Every closure in it is a new one each time."""
    forward = images(fitting.Net(), 8, (mean, 0.5, 0.6), tuple(fitting.STD.tolist()))
    scaled = stateless(lambda x: x * table)
    parts = chain(prompt=add(learnable(normal(spread))), s=scaled, d=dropout(rate))
    return reprogram(forward, {site: parts, "output": align or bayesian(3)})


def weighted(weight: float) -> Any:
    return lambda seen: weight * cross_entropy(seen)


def clipped(backward: float) -> Any:
    def loss(seen):
        recorded = {**seen.recorded, "output": doubled(backward)(seen.output)}
        return cross_entropy(seen._replace(recorded=recorded))

    return loss


def accuracy(times: int = 1, power: int = 1) -> metrics.Metric:
    """Of the name of the library's own, with closures that are new ones each time."""
    observe, score = metrics.accuracy.observe, metrics.accuracy.score
    many = (lambda a: times * a) if times > 1 else (lambda a: a)
    return metrics.accuracy._replace(
        observe=lambda seen: tuple(map(many, observe(seen))),
        score=lambda sums: score(sums) ** power,
    )


PROGRAM, ADAM, LOSS = program(), optax.adam(0.05), weighted(1.0)


def train(out: Path | None = None, **changes: Any) -> Fitted:
    settings = {"program": PROGRAM, "optimizer": ADAM, "loss": LOSS, "epochs": 2}
    settings |= {"resume": True, "seed": 4, "identity": {"who": "me"}, "out": out}
    return fitting.train(**(settings | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, tuple]:
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, outcome(train(folder))


def moved(where: str) -> dict[str, Any]:
    tree = jax.tree.map(np.copy, FROZEN)
    tree["params"][where]["bias"][0] += 1e-3
    return tree


def shuffled(name: str) -> Any:
    rows = getattr(TASK, name)
    return TASK._replace(**{name: Split(rows.x[::-1], rows.y[::-1])})


HALF = np.array([1, 1, 0.5], np.float32)
COSINE = optax.cosine_decay_schedule
CHANGES = {
    "a weight": ({"frozen": moved("conv")}, "frozen"),
    "the weights' type": (
        {"frozen": jax.tree.map(lambda a: a.astype(np.float16), FROZEN)},
        "frozen",
    ),
    "the model's code": ({"program": program(mean=0.41)}, "program"),
    "how a prompt begins": ({"program": program(spread=0.2)}, "program"),
    "an operator's setting": ({"program": program(rate=0.3)}, "program"),
    "an operator's array": ({"program": program(table=HALF)}, "program"),
    "a site": ({"program": program(site="conv:in")}, "program"),
    "a map": ({"program": program(align=bayesian_plus(3))}, "program"),
    "a map's setting": ({"program": program(align=bayesian(3, 2.0))}, "program"),
    "a rate": ({"optimizer": optax.adam(0.06)}, "optimizer"),
    "a momentum": ({"optimizer": optax.adam(0.05, b1=0.8)}, "optimizer"),
    "an optimiser": ({"optimizer": optax.adamw(0.05)}, "optimizer"),
    "a schedule": ({"optimizer": optax.adam(COSINE(0.05, 6))}, "optimizer"),
    "what is evaluated": ({"evaluated": lambda opt, own: own}, "evaluated"),
    "a loss": ({"loss": with_norm(0.1)}, "loss"),
    "a loss's setting": ({"loss": weighted(2.0)}, "loss"),
    "a loss's gradient": ({"loss": clipped(2.0)}, "loss"),
    "a metric": ({"metric": metrics.f1}, "metric"),
    "what a metric sums": ({"metric": accuracy(times=2)}, "metric"),
    "a metric's score": ({"metric": accuracy(power=2)}, "metric"),
    "which way is better": ({"metric": accuracy()._replace(better="lower")}, "metric"),
    "recorded sites": ({"record_sites": ("conv:in",)}, "record_sites"),
    "the refresh": ({"refresh": "once"}, "refresh"),
    "the parts": ({"accumulate": 2}, "accumulate"),
    "the batch": ({"batch": 5}, "batch"),
    "the seed": ({"seed": 5}, "seed"),
    "fewer epochs": ({"epochs": 1}, "epochs"),
    "a mesh": ({"mesh": parallel.mesh()}, "mesh"),
    "training rows": ({"task": shuffled("train")}, "data"),
    "validation rows": ({"task": shuffled("validation")}, "data"),
    "class names": ({"task": TASK._replace(classes=("a", "c", "b"))}, "data"),
    "the caller's word": ({"identity": {"who": "you"}}, "identity.who"),
    "no word": ({"identity": None}, "identity.who"),
    "one more word": ({"identity": {"who": "me", "seed": 4}}, "identity.seed"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_ingredient_changed_alone_is_refused_by_name(finished, what):
    changes, name = CHANGES[what]
    folder = finished[0]
    before = (folder / "identity.json").read_bytes()
    with pytest.raises(ValueError, match=rf"another run:(.|\n)*\n  {name}: got"):
        train(folder, **changes)
    assert (folder / "identity.json").read_bytes() == before


def test_a_change_of_one_thing_names_no_other(finished):
    for what in ("a weight", "an operator's setting", "a rate", "a loss's setting"):
        changes, name = CHANGES[what]
        line = rf"another run:\n  {name}: got \w+, expected \w+\nchoose"
        with pytest.raises(ValueError, match=line):
            train(finished[0], **changes)


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"program": program(), "loss": weighted(1.0), "metric": accuracy()},
        {"epochs": np.int64(2), "batch": np.int32(4), "seed": np.int64(4)},
        {"optimizer": optax.adam(0.05)},
        {"frozen": jax.tree.map(jnp.asarray, FROZEN)},
        {"task": TASK._replace(name="renamed")},
    ],
    ids=["nothing", "closures", "numpy", "optimiser", "jax", "a name"],
)
@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_difference_gives_the_same_bits(finished, same):
    folder, whole = finished
    assert outcome(train(folder, **same)) == whole


def test_a_score_of_no_drawn_sums_is_known_by_its_error():
    sums = (jax.ShapeDtypeStruct((), np.float32),) * 2
    spread = lambda least: lambda t: math.sqrt(t[0] - t[1] ** 2 - least)
    digest = lambda score: identity._scored(score, sums).digest
    assert digest(spread(0)) == digest(spread(0)) != digest(lambda t: t[0])
    assert digest(lambda t: t[0] / t[1]) == digest(lambda t: 1 / (t[1] / t[0]))


def test_another_loss_as_the_metric_is_refused(tmp_path):
    """Metrics of losses have one name, and scores on another scale would select."""
    thousandth = metrics.of_loss(weighted(1e-3))
    train(tmp_path, metric=thousandth)
    with pytest.raises(ValueError, match=r"another run:\n.*\n  metric: got loss, low"):
        train(tmp_path, metric=metrics.of_loss(weighted(1.0)), epochs=4)
    longer = train(tmp_path, metric=thousandth, epochs=4)
    assert outcome(longer) == outcome(train(metric=thousandth, epochs=4))


def test_a_cache_is_an_ingredient(tmp_path):
    head = reprogram(fitting.FORWARD, {"output": linear(3)}), FROZEN, TASK
    given = dict(zip(("program", "frozen", "task"), head, strict=True))

    def on_values(**where: Any) -> tuple:
        kept = cached(*head, batch=4, progress=False, **where)
        return outcome(train(tmp_path, **dict(zip(given, kept, strict=True))))

    whole = on_values()
    with pytest.raises(ValueError, match=r"another run:(.|\n)*\n  data: got"):
        train(tmp_path, **given)
    assert on_values(folder=tmp_path / "values") == whole
    train(tmp_path / "images", **given)
    with pytest.raises(ValueError, match=r"\n  data: got(.|\n)*\n  program: got"):
        train(tmp_path / "images", **dict(zip(given, cached(*head), strict=True)))


# -- more epochs


def test_more_epochs_give_the_bits_of_a_longer_run(tmp_path):
    assert len(train(tmp_path).curves) == 2
    with pytest.raises(ValueError, match="already holds|another run"):
        train(tmp_path, epochs=4, resume=False)
    longer = train(tmp_path, epochs=4)
    assert len(longer.curves) == 4
    assert outcome(longer) == outcome(train(epochs=4))
    with pytest.raises(ValueError, match="epochs: got 2, expected 4"):
        train(tmp_path)


def test_a_kill_between_more_epochs_and_their_first_save(tmp_path, monkeypatch):
    train(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("reprojax.training.loop.lengthened", _interrupted)
        train(tmp_path, epochs=4)
    assert outcome(train(tmp_path, epochs=4)) == outcome(train(epochs=4))


def _interrupted(*given: Any) -> Any:
    raise KeyboardInterrupt


def test_a_schedule_over_the_total_refuses_more_epochs_and_says_so(tmp_path):
    def over(epochs: int) -> dict[str, Any]:
        return {"epochs": epochs, "optimizer": optax.sgd(COSINE(0.5, 3 * epochs))}

    whole = outcome(train(tmp_path, **over(2)))
    with pytest.raises(ValueError, match="schedule depends on the total"):
        train(tmp_path, **over(3))
    assert outcome(train(tmp_path, **over(2))) == whole


# -- what stands around it


def test_a_folder_of_an_earlier_version_is_refused_in_words(finished, tmp_path):
    (tmp_path / "identity.json").write_text('{"seed": 4, "epochs": 2, "batch": 4}')
    with pytest.raises(ValueError, match="another version of reprojax made it"):
        train(tmp_path)


def test_another_version_of_jax_is_named(finished, monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"jax: got 0\.0\.1, .*\n.*version of JAX"):
        train(finished[0])


@pytest.mark.parametrize("text", ["", "[]", "null", '{"seed": 4', '{"seed": NaN}'])
def test_an_identity_that_is_damaged_is_refused(tmp_path, text):
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(ValueError, match=r"identity\.json is damaged"):
        train(tmp_path)


def called_back(scale: float) -> Program:
    def ask(x):
        answer = lambda a: np.asarray(scale * a, np.float32)
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(answer, spec, jax.lax.stop_gradient(x))

    at = {"input": stateless(ask), "normalized": add(learnable(normal()))}
    return reprogram(lambda frozen, x, edit: edit("output", _flat(x, edit)), at)


def _flat(x: Any, edit: Any) -> Any:
    x = edit("normalized", edit("input", x.astype(jnp.float32)))
    return x.mean((1, 2))


def test_a_callback_needs_a_name(tmp_path):
    given = {"program": called_back(2.0), "frozen": {}, "epochs": 1}
    with pytest.raises(ValueError, match="calls back into Python .*pure_callback"):
        train(tmp_path, **given, identity=None)
    assert not list(tmp_path.iterdir())
    train(tmp_path, **given, identity={"callback": "2"})
    given["program"] = called_back(3.0)
    with pytest.raises(ValueError, match=r"identity\.callback: got 3, expected 2"):
        train(tmp_path, **given, identity={"callback": "3"})


def test_identities_are_the_same_in_another_process(finished):
    code = "import sys, test_identity as t, pathlib; t.train(pathlib.Path(sys.argv[1]))"
    paths = os.pathsep.join(
        [str(ROOT), *(str(ROOT / "tests" / d) for d in ("", "saving"))]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished[0])],
        env=os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_identity_is_json(finished):
    there = json.loads((finished[0] / "identity.json").read_text())
    assert there["identity.who"] == "me" and there["format"] == 4
    with pytest.raises(ValueError, match=r"identity is not JSON .*float"):
        train(finished[0], identity={"rate": float("nan")})
