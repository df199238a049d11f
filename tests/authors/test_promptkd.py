"""PromptKD beside a second implementation; no labels, and selected by its own loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import promptkd
from small_models import MIXER, patches, pictures
from walk import descend, walk

from reprojax import data
from reprojax.data import Shared

WIDTH, LENGTH, HEAT, WEIGHT, RATE = 6, 2, 2.0, 0.3, 0.01
ARGUMENTS = {"width": WIDTH, "length": LENGTH}
DRAW = np.random.default_rng(8)
CLASSES = DRAW.normal(size=(4, WIDTH)).astype(np.float32)
CLASSES /= np.linalg.norm(CLASSES, axis=1, keepdims=True)
TASK = pictures()


def taught(x):
    """What a teacher says: logits by the colours of an image."""
    return {
        "logits": (8 * x.mean((1, 2)) / 255 @ np.eye(3, 4)).astype(np.float32),
        "classes": Shared(CLASSES),
    }


def unlabelled():
    parts = {n: getattr(TASK, n).x for n in ("train", "validation", "test")}
    triple = lambda x: (x, None, taught(x))
    return data.from_arrays(
        parts["train"],
        None,
        list("abcd"),
        context=taught(parts["train"]),
        validation=triple(parts["validation"]),
        test=triple(parts["test"]),
    )


def student(learnable, x, moments=None):
    """Logits [B 4], features normalised by the batch's own moments unless given."""
    mix = lambda x: jnp.tanh(x + x.mean(1, keepdims=True) @ MIXER.frozen["mix"])
    h = patches(jnp.float32(x) / 255)
    wide = lambda p: jnp.broadcast_to(p, (len(h), *p.shape))
    prompts = learnable["block_0:in"], learnable["block_1:in"]
    h = mix(jnp.concatenate([h[:, :1], wide(prompts[0]), h[:, 1:]], 1))
    h = mix(jnp.concatenate([h[:, :1], wide(prompts[1]), h[:, 1 + LENGTH :]], 1))
    own = learnable["output"]["project"]
    h = h.mean(1) @ own["Dense_0"]["kernel"] + own["Dense_0"]["bias"]
    mean, variance = moments or (h.mean(0), ((h - h.mean(0)) ** 2).mean(0))
    norm = own["BatchNorm_0"]
    h = (h - mean) / jnp.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
    h = jax.nn.relu(h) @ own["Dense_1"]["kernel"] + own["Dense_1"]["bias"]
    return 100 * (h / jnp.sqrt((h**2).sum(1, keepdims=True))) @ CLASSES.T


def apart(p, q):
    """KL of q from p, a class at a time."""
    p, q = (a - jax.nn.logsumexp(a, 1, keepdims=True) for a in (p / HEAT, q / HEAT))
    every = [jnp.exp(p[:, i]) * (p[:, i] - q[:, i]) for i in range(4)]
    return WEIGHT * HEAT**2 * sum(every) / 4


def test_the_way_of_fifty_steps_beside_a_loop_by_hand(tmp_path):
    task = unlabelled()
    x, teacher = task.train.x, task.train.context["logits"]
    loss = promptkd.distilled(HEAT, WEIGHT)
    settings = {"optimizer": optax.sgd(RATE), "epochs": 50, "batch": len(x)}
    settings |= {"loss": loss, "arguments": ARGUMENTS}
    says = "learnable embedding concatenative + learnable hidden concatenative"
    says += " -> linear"
    walked = walk(promptkd.METHOD, MIXER, task, tmp_path, says, **settings)
    program, params, fitted = walked
    context = {"logits": teacher, "classes": CLASSES}
    first = program.init(jax.random.key(0), MIXER.frozen, x, context)
    cost = lambda p: apart(teacher, student(p, x)).mean()
    losses, last = descend(cost, first.learnable, RATE)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=5e-3)
    assert losses[-1] < 0.5 * losses[0]
    # the likeliest mistake: the divergence the other way round
    logits = jax.jit(student)(first.learnable, x)
    other = apart(logits, teacher).mean()
    assert abs(other - losses[0]) > 0.05 * losses[0]
    # validation's score is the loss of what an evaluation answers, and selects
    statistics = params.fixed["output"]["project"]["batch_stats"]["BatchNorm_0"]
    moments = statistics["mean"], statistics["var"]
    seen = jax.jit(student)(params.learnable, task.validation.x, moments)
    score = apart(task.validation.context["logits"], seen).mean()
    assert list(fitted.metrics) == ["loss"]
    np.testing.assert_allclose(fitted.score["validation"], score, rtol=1e-3)
    assert fitted.score["validation"] == fitted.curves[:, 1].min()
