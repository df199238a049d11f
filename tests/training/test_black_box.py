"""A program around a model that only answers.

The wrong variants: rows that fill a batch are sent, and paid; validation is free; the
last step passes the budget, or leaves a batch unspent; maps that count every point as a
whole set; a resumed run that asks again, or plans otherwise than the first.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from documents import ROOT, run
from fitting import FORWARD, FROZEN, MEAN, SOURCES, STD, TARGETS, TASK, bits
from jax.nn.initializers import zeros
from jax.sharding import Mesh

from reprojax import recipes, reprogram
from reprojax.alignments import bayesian, linear
from reprojax.core import chain, passthrough, record
from reprojax.data import order
from reprojax.formats import learnable, subspace
from reprojax.models import Model, Pixels
from reprojax.operators import add, dropout
from reprojax.searches import (
    Oracle,
    cma_es,
    evolution_strategy,
    sphere,
    spsa,
    zeroth_order,
)
from reprojax.training import steps
from reprojax.training.black_box import (
    evaluate,
    fit_black_box,
    in_process,
    only_answers,
    zero_one,
)
from reprojax.training.losses import Seen, cross_entropy, mean_loss

NAMES, NORMS = tuple("abcde"), (tuple(MEAN.tolist()), tuple(STD.tolist()))
MODEL = Model("toy", FORWARD, FROZEN, Pixels(8, *NORMS), {}, NAMES)
ANSWER = jax.jit(FORWARD)
SPSA = spsa(0.5, 0.02, count=2)


class Service:
    """The toy net behind a function that counts its rows."""

    def __init__(self, kind="logits", stop=None):
        self.rows, self.kind, self.stop = [], kind, stop

    def __call__(self, images):
        if self.stop is not None and sum(map(len, self.rows)) >= self.stop:
            raise KeyboardInterrupt
        self.rows.append(np.array(images))
        y = np.asarray(ANSWER(FROZEN, images))
        p = np.asarray(jax.nn.softmax(y))
        top = np.argsort(-p, 1)[:, :3]
        return {
            "logits": y,
            "probabilities": p,
            "top-k": (top, np.take_along_axis(p, top, 1)),
            "labels": y.argmax(1),
        }[self.kind]

    @property
    def count(self):
        return sum(map(len, self.rows))


def oracle(service, **changes):
    settings = {"classes": SOURCES, "kind": getattr(service, "kind", "logits")}
    return Oracle(service, **(settings | {"chunk": 7, "name": "toy"} | changes))


def card(service, **changes):
    return only_answers(oracle(service, **changes), 8, *NORMS)


def reprogrammed(service, align=None):
    align = bayesian(TARGETS) if align is None else align
    at = {"normalized": add(learnable(zeros)), "output": align}
    return reprogram(card(service).forward, at)


PROGRAM = reprogrammed(Service())  # whom it asks is no part of it


def search(service, way=SPSA, program=PROGRAM, task=TASK, source="", **changes):
    settings = {"budget": 400, "batch": 4, "checks": 2, "progress": False}
    who = oracle(service, source=source)
    return fit_black_box(program, who, task, way, **(settings | changes))


@pytest.mark.parametrize("budget", [60, 61, 63, 64, 200, 333])
@pytest.mark.parametrize("checks", [0, 1, 3])
def test_the_budget_is_met_exactly(budget, checks):
    service = Service()
    fitted = search(service, budget=budget, checks=checks)
    assert service.count == sum(fitted.queries.values())
    assert budget - 4 < service.count <= budget  # a step asks for four points
    if (budget - 10 - 7 * checks) % 4 == 0:
        assert service.count == budget
    assert fitted.queries["maps"] == 10
    assert fitted.queries["validation"] == 7 * len(fitted.curve)
    assert len(fitted.curve) == checks
    if checks:
        assert fitted.curve[-1, 0] == service.count
        assert fitted.accuracy["validation"] == fitted.curve[:, 2].max()


@pytest.mark.parametrize("at", [5, 30, 50, 57, 58, 64])
def test_a_run_goes_on_behind_an_answer_of_no_use(tmp_path, at):
    """Without slack in the budget: in the maps, the last step, the last check."""
    service = Service()

    def spoilt(images):
        first, answers = service.count, np.array(service(images))
        if first <= at < service.count:
            answers[at - first, 0] = np.nan
        return answers

    log = tmp_path / "log"
    settings = {"budget": 65, "checks": 1, "log": log}
    with pytest.raises(ValueError, match="nan"):
        search(spoilt, **settings)
    fitted = search(service, **settings)
    paid = service.count
    assert 65 - 4 - 7 < paid <= 65 and fitted.queries["search"] > 40
    assert len(fitted.curve) == ("validation" in fitted.accuracy)
    again = search(service, **settings)
    assert service.count == paid and bits(again[:2]) == bits(fitted[:2])


def test_what_is_sent():
    service = Service()
    search(service, budget=10 + 4 * 10, checks=0)  # one epoch: batches of 4, 4 and 2
    assert service.count == 50
    np.testing.assert_allclose(
        np.concatenate(service.rows)[:10], TASK.train.x / 255, atol=1e-6
    )
    assert max(map(len, service.rows)) == 7
    assert all(0 <= rows.min() and rows.max() <= 1 for rows in service.rows)


def clipped(frozen, x, edit=passthrough):
    """The model itself, given nothing but images."""

    def inner(site, value):
        value = edit(site, value)
        if site != "normalized":
            return value
        return jnp.clip(value, (0 - MEAN) / STD, (1 - MEAN) / STD)

    return FORWARD(frozen, x, edit=inner)


PLAIN = reprogram(
    clipped, {"normalized": add(learnable(zeros)), "output": bayesian(TARGETS)}
)
WHOLE = jax.jit(record(PLAIN.apply, ["output", "output/raw"]))


def whole(params, x):
    """What the program shows on that."""
    return WHOLE(params, FROZEN, x)[1]


def test_three_epochs_equal_a_loop_on_the_model_itself():
    fitted = search(Service(), budget=10 + 4 * 30, checks=0)
    params = PLAIN.init(jax.random.key(0), FROZEN, TASK.train.x[:2])
    params = steps.estimate(PLAIN, params, FROZEN, TASK.train, 4)
    state, sums = SPSA.init(jax.random.key(0), params.learnable), 0
    for step in range(9):
        points = SPSA.ask(jax.random.fold_in(jax.random.key(0), step), state)
        x, y, _ = order.batch(TASK.train, 4, 0, step)
        values = []
        for i in range(4):
            one = params._replace(learnable=jax.tree.map(lambda a, i=i: a[i], points))
            seen = whole(one, x)
            y = jnp.asarray(y)
            values.append(mean_loss(cross_entropy(Seen(seen, y)), y))
            hot = jax.nn.one_hot(seen["output/raw"].argmax(-1), SOURCES)
            sums = sums + hot.T @ jax.nn.one_hot(y, TARGETS) / 4
        state = SPSA.tell(state, points, jnp.stack(values))
        params = params._replace(learnable=SPSA.read(state))
        if step % 3 == 2:
            params = steps.refresh_maps(PLAIN, params, {"output": sums})
            sums = 0
    moved = np.abs(params.learnable["normalized"]).max()
    assert moved > 0.01
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3 * moved),
        fitted.last,
        params,
    )


WAYS = {
    "bar": zeroth_order(optax.adam(0.1), sphere(), count=3, radius=0.1, sides=1),
    "evolution": evolution_strategy(optax.adam(0.1), pairs=3, sigma=0.1),
    "cma-es": cma_es(0.3, 6),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_search_lowers_the_loss(way):
    program = PROGRAM
    if way == "cma-es":
        at = {"normalized": add(subspace(10, learnable(zeros))), "output": linear(3)}
        program = reprogram(card(Service()).forward, at)
    fitted = search(Service(), WAYS[way], program, budget=1500, batch=10, checks=5)
    assert fitted.curve[-1, 1] < 0.9 * fitted.curve[0, 1]
    share = evaluate(program, fitted.params, oracle(Service()), TASK.test)
    assert share in (0, 0.2, 0.4, 0.6, 0.8, 1)


@pytest.mark.parametrize("kind", ["probabilities", "top-k", "labels"])
def test_oracles_of_every_kind(kind):
    service = Service(kind)
    fitted = search(service, budget=200)
    assert service.count <= 200 and np.isfinite(fitted.curve).all()
    if kind == "probabilities":  # a map's columns sum to one, so the loss is the same
        other = search(Service(), budget=200)
        np.testing.assert_allclose(fitted.curve, other.curve, rtol=1e-4)
    errors = search(Service(kind), loss=zero_one, budget=200)
    assert 0 <= errors.curve[:, 1].min() and errors.curve[:, 1].max() <= 1


def test_evaluation_counts_errors_by_rows():
    params = search(Service(), budget=100).params
    again = Service()
    found = evaluate(PROGRAM, params, oracle(again), TASK.validation, batch=4)
    assert again.count == 7
    seen = whole(params, TASK.validation.x)
    right = np.asarray(seen["output"].argmax(-1)) == TASK.validation.y
    np.testing.assert_allclose(found, right.mean())


def test_a_run_that_was_stopped_goes_on_and_pays_nothing_twice(tmp_path):
    straight = Service()
    wanted = search(straight, budget=300, checks=3)
    sent = []
    for stop in (0, 5, 10, 50, 100, 180, 250, None):
        service = Service(stop=stop and stop - sum(map(len, sent)))
        try:
            found = search(service, budget=300, checks=3, log=tmp_path / "log")
        except KeyboardInterrupt:
            found = None
        sent += service.rows
    assert bits(found[:2]) == bits(wanted[:2])
    np.testing.assert_array_equal(found.curve, wanted.curve)
    asked, straight = np.concatenate(sent), np.concatenate(straight.rows)
    np.testing.assert_array_equal(asked, straight)
    last = Service()
    again = search(last, budget=300, checks=3, log=tmp_path / "log")
    assert not last.rows and bits(again[:2]) == bits(wanted[:2])


def test_a_log_of_another_run_is_refused(tmp_path):
    log = tmp_path / "log"
    search(Service(), budget=100, log=log)
    service = Service()
    others = {
        "seed": {"seed": 1},
        "batch": {"batch": 5},
        "start": {"way": spsa(0.5, 0.03, count=2)},
        "budget": {"budget": 101},
        "identity.note": {"identity": {"note": "b"}},
        "identity.seed": {"identity": {"seed": 0}},
        "checks": {"checks": 1},
        "refresh": {"refresh": "once"},
        "data": {"task": TASK._replace(classes=("a", "c", "b"))},
        "loss": {"loss": lambda seen: 2 * cross_entropy(seen)},
        "search": {"way": spsa(0.4, 0.03, count=2)},
        "program": {"program": reprogrammed(service, bayesian(TARGETS, 2.0))},
        "'source'": {"source": "http://elsewhere/v1"},
    }
    for name, change in others.items():
        with pytest.raises(ValueError, match=f"another run: .*{name}.*"):
            search(service, **({"budget": 100, "log": log} | change))
    program = reprogrammed(service, linear(TARGETS))
    with pytest.raises(
        ValueError, match="another run: loss, program, search, start differ"
    ):
        search(service, program=program, budget=100, log=log)
    assert not service.rows
    search(service, program=reprogrammed(service), budget=100, log=log)
    assert not service.rows


def test_a_model_of_our_own_is_known_by_its_weights_and_code():
    own = Model("toy", FORWARD, FROZEN, Pixels(8, (), ()), {}, tuple("abcde"))
    other = jax.tree.map(lambda a: a + 1, FROZEN)
    doubled = lambda frozen, x, edit=passthrough: 2 * FORWARD(frozen, x, edit)
    same, *others = (
        in_process(own._replace(**change)).source
        for change in ({}, {"frozen": other}, {"forward": doubled})
    )
    assert same == in_process(own).source
    assert len({same, *others}) == 3


def test_what_is_refused_before_anything_is_paid():
    service = Service()
    cases = {
        "budget=0, expected a whole number of at least 1": {"budget": 0},
        "batch=0, expected": {"batch": 0},
        "27 queries, which leaves no step: 10 are for the label map, 14 for": {
            "budget": 27
        },
        "refresh='exact', expected 'epoch' or 'once'": {"refresh": "exact"},
        r"answers \(2, 5\) to a batch of 2, expected \(2, 3\)": {
            "program": reprogram(card(service).forward, {})
        },
        r"\[2, 8, 8, 1\] to send to": {
            "program": reprogram(
                card(service).forward,
                {"input": chain(a=grey()), "output": bayesian(3)},
            )
        },
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=message):
            search(service, **change)
    assert not service.rows


def grey():
    from reprojax import stateless

    return stateless(lambda x: x[..., :1])


def test_a_loss_that_is_not_finite(tmp_path):
    broken = lambda seen: jnp.nan * seen.output.sum(-1)
    with pytest.raises(ValueError, match="loss of step 1 is not finite.*the log keeps"):
        search(Service(), loss=broken, log=tmp_path / "log")


def test_randomness_and_running_averages_pass():
    from fitting import Average

    from reprojax.operators import network

    parts = {
        "net": network(Average()),
        "drop": dropout(0.5),
        "add": add(learnable(zeros)),
    }
    at = {"normalized": chain(**parts), "output": bayesian(TARGETS)}
    program = reprogram(card(Service()).forward, at)
    fitted = search(Service(), program=program, checks=0)
    average = fitted.last.fixed["normalized"]["net"]["statistics"]["mean"]
    assert average.shape == (3,) and np.abs(average).min() > 0


@pytest.mark.parametrize("method", ["ar", "vp", "padding", "watermark", "bar", "smm"])
def test_recipes_work_on_a_model_that_only_answers(method):
    import backbones

    model = backbones.convolutional()
    asked = in_process(model)
    black = only_answers(asked, 16, model.input.mean, model.input.std, model.classes)
    build = recipes.find_method(method).build
    program, own = build(black, targets=3), build(model, targets=3)
    x = backbones.photos(4)
    params = own.init(jax.random.key(0), model.frozen, x)
    params = params._replace(
        learnable=jax.tree.map(lambda a: 0.01 * a, params.learnable)
    )
    y, seen = record(own.apply, ["normalized", "output/raw"])(params, model.frozen, x)
    found, sent = record(program.apply, ["sent"])(params, seen["output/raw"], x)
    pixels = seen["normalized"] * jnp.array(model.input.std) + jnp.array(
        model.input.mean
    )
    np.testing.assert_allclose(sent["sent"], jnp.clip(pixels, 0, 1), atol=1e-5)
    np.testing.assert_allclose(found, y, atol=1e-5)
    with pytest.raises(ValueError, match="expected 'features' among them for vpt"):
        recipes.vpt_deep(black, targets=3)


def test_our_own_model_as_an_oracle():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    x = np.float32(TASK.train.x / 255)
    wanted = ANSWER(FROZEN, x)
    for asked in (in_process(MODEL), in_process(MODEL, chunk=8, mesh=mesh)):
        assert asked.classes == SOURCES and asked.name == "toy"
        np.testing.assert_allclose(asked.answer(x[:8]), wanted[:8], atol=1e-5)
        np.testing.assert_allclose(asked.answer(x[:3]), wanted[:3], atol=1e-5)


PAGE = ROOT / "docs/black_boxes.md"


def test_the_page_on_black_boxes_runs_against_a_service_of_our_own(tmp_path):
    import backbones

    model, seen = backbones.convolutional(), []
    forward = jax.jit(model.forward)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            pixels = np.frombuffer(bytes.fromhex(asked["pixels"]), np.uint8)
            seen.append(asked["shape"][0])
            y = forward(model.frozen, pixels.reshape(asked["shape"]))[:, :5]
            reply = {"probabilities": jax.nn.softmax(y).tolist()}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        host = f"127.0.0.1:{server.server_port}"
        names = run(PAGE, HOST=host, task=TASK, LOG=tmp_path / "queries.log")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    fitted = names["fitted"]
    assert sum(fitted.queries.values()) + len(TASK.test.y) == sum(seen)
    assert 392 < sum(fitted.queries.values()) <= 400 and max(seen) <= 32
