"""MPT beside a second implementation, a row at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mpt import METHOD, distilled, mpt, onto_target, taught
from small_words import LABELS, WORDS, judged, states, texts
from walk import descend, walk

from reprojax import data
from reprojax.alignments import label_words
from reprojax.core import stack_params, stacked
from reprojax.recipes.prompt_tuning import prompt_tuning
from reprojax.training import fit

TASKS, LENGTH, SITE = 3, 2, "embed:out"
ALIGN = label_words(LABELS)
TEXTS = texts(tasks=TASKS)
PROGRAM = mpt(WORDS, ALIGN, tasks=TASKS, length=LENGTH)


def named(task):
    """The context as MPT reads it."""
    splits = {n: getattr(task, n) for n in ("train", "validation", "test")}
    own = {n: s._replace(context={"task": s.context}) for n, s in splits.items()}
    return task._replace(**own)


TASK = named(TEXTS)
X, Y, CONTEXT = TASK.train


@pytest.fixture(scope="module")
def lessons():
    """The task with its teachers' answers: a prompt of its own for each task."""
    alone = prompt_tuning(WORDS, ALIGN, length=LENGTH)
    keys = jax.random.split(jax.random.key(7), TASKS)
    params = stack_params([alone.init(key, WORDS.frozen, X) for key in keys])
    teachers = stacked(WORDS.forward, alone, TASKS)
    settings = {"optimizer": optax.adam(0.1), "epochs": 5, "batch": 8}
    settings |= {"params": params, "progress": False}
    fitted = fit(teachers, WORDS.frozen, TEXTS, **settings).last
    splits = {n: getattr(TASK, n) for n in ("train", "validation", "test")}
    told = {n: taught(s, WORDS, teachers, fitted) for n, s in splits.items()}
    return TASK._replace(**told), fitted


def wide():
    """Params far from the small first ones."""
    params = PROGRAM.init(jax.random.key(0), WORDS.frozen, X, CONTEXT)
    draw = np.random.default_rng(4)
    other = lambda a: jnp.asarray(draw.normal(size=a.shape), jnp.float32)
    return params._replace(learnable=jax.tree.map(other, params.learnable))


def read(learnable, ids, task, matrix=jnp.outer):
    """The states [P+L D] of one text."""
    own = learnable[SITE]
    prompt = own["shared"] * matrix(own["u"][task], own["v"][task])
    return states(jnp.concatenate([prompt, WORDS.frozen["embed"][ids]]))


def answers(learnable, matrix=jnp.outer, tasks=CONTEXT["task"]):
    row = lambda ids, task: judged(read(learnable, ids, task, matrix))
    return jax.jit(jax.vmap(row))(jnp.asarray(X.value), tasks)


def test_a_row_has_the_shared_prompt_times_its_tasks_matrix():
    params = wide()
    found = jax.jit(PROGRAM.apply)(params, WORDS.frozen, X, CONTEXT)
    learnable = params.learnable
    np.testing.assert_allclose(found, answers(learnable), rtol=1e-4, atol=1e-5)
    added = lambda u, v: u[:, None] + v
    assert not np.allclose(found, answers(learnable, added), atol=0.01)
    first = answers(learnable, tasks=0 * CONTEXT["task"])
    assert not np.allclose(found, first, atol=0.01)


def test_the_start_of_a_target_is_the_mean_of_the_sources():
    params = wide()
    one = onto_target(params, SITE)
    program = mpt(WORDS, ALIGN, tasks=1, length=LENGTH)
    context = {"task": np.zeros(len(Y), np.int32)}
    found = jax.jit(program.apply)(one, WORDS.frozen, X, context)
    own = params.learnable[SITE]
    mean = {"shared": own["shared"], "u": own["u"].mean(0)[None]}
    mean = {SITE: mean | {"v": own["v"].mean(0)[None]}}
    expected = answers(mean, tasks=context["task"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path, lessons):
    task, teachers = lessons
    told = task.train.context

    def student(learnable, ids, k, label, prompt, weight=0.9):
        own = read(learnable, ids, k)
        other = states(jnp.concatenate([prompt, WORDS.frozen["embed"][ids]]))
        p, q = jax.nn.softmax(judged(other)), jax.nn.softmax(judged(own))
        apart = (p * jnp.log(p / q)).sum() + jnp.square(own - other).mean()
        return -jnp.log(q[label]) + weight * apart

    def cost(learnable):
        prompts = teachers.learnable[SITE][told["task"]]
        rows = (jnp.asarray(X.value), told["task"], jnp.asarray(Y), prompts)
        each = lambda *row: student(learnable, *row)
        return jax.vmap(each)(*rows).mean()

    first = wide()
    settings = {"optimizer": optax.sgd(0.1), "epochs": 50, "batch": len(Y)}
    settings |= {"loss": distilled(WORDS), "record_sites": ("hidden",)}
    settings |= {"params": first}
    settings["arguments"] = {"tasks": TASKS, "length": LENGTH, "labels": LABELS}
    says = "learnable embedding concatenative -> rule"
    fitted = walk(METHOD, WORDS, task, tmp_path, says, **settings)[2]
    losses, last = descend(cost, first.learnable, 0.1)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=1e-3)
    for name in ("shared", "u", "v"):
        found = fitted.last.learnable[SITE][name]
        np.testing.assert_allclose(found, last[SITE][name], rtol=1e-2, atol=1e-3)
    assert losses[-1] < 0.8 * losses[0] and data.check(task)
