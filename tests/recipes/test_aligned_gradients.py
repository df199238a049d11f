"""ProGrad (arXiv 2205.14865) beside its official code.

The labels are zero-shot's least likely classes, so that both gradients oppose each
other in 55 of 60 steps. The wrong variants: the sum of both losses; a projection onto
the first gradient; one where they agree; random words at the start.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contexts import X, Y, model, official, trained
from small_pairs import WIDTH

from reprojax.core import record
from reprojax.recipes.prompt_tuning import prograd
from reprojax.recipes.prompt_tuning.aligned_gradients import (
    METHOD,
    agreeing,
    two_losses,
)
from reprojax.testing import contract
from reprojax.training import steps
from reprojax.training.losses import Seen, cross_entropy
from reprojax.training.optimizers import sgd_by_epochs

MODEL, SITE, SIZES = model("a photo of a {}."), "text/embed:out", {"length": 6}
LEAST = np.asarray(MODEL.forward(MODEL.frozen, X).argmin(1))
CASES = {"one": (1.0, 1.0), "half": (0.5, 2.0), "none": (0.0, 1.0)}


@pytest.mark.parametrize("case", CASES)
def test_sixty_steps_are_those_of_the_official_code(case):
    strength, temperature = CASES[case]
    program, wanted = prograd(MODEL, **SIZES), official()["prograd"][case]
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    preset = METHOD.preset
    if case != "one":  # the published setting
        preset = preset._replace(
            optimizer=lambda *pace: agreeing(sgd_by_epochs(*pace), strength),
            loss=two_losses(temperature),
        )
    losses, last = trained(program, params, MODEL.frozen, preset, labels=LEAST)
    np.testing.assert_allclose(losses, wanted["losses"], rtol=1e-3)
    y = program.apply(last, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, wanted["logits"], rtol=1e-2, atol=1e-2)
    assert last.learnable["text/features"]["which"] == 0
    others = [official()["prograd"][name]["losses"] for name in CASES if name != case]
    assert all(np.abs(losses - other).max() > 0.03 for other in others)


@pytest.mark.parametrize("case", ["one", "half"])
def test_the_second_loss_is_the_official_one(case):
    program = prograd(MODEL, **SIZES)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    y, seen = record(program.apply, METHOD.preset.sites)(params, MODEL.frozen, X[:8])
    on = {"text/features": {"which": jnp.ones(())}}
    found = two_losses(CASES[case][1])(Seen(seen | {"output": y}, Y[:8], on))
    wanted = official()["prograd"][case]["kl"][0]
    np.testing.assert_allclose(found.mean(), wanted, rtol=1e-4)


def test_with_another_optimiser_it_is_coop():
    program = prograd(MODEL, **SIZES)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    preset = METHOD.preset._replace(optimizer=sgd_by_epochs)
    losses, last = trained(program, params, MODEL.frozen, preset, 4, labels=LEAST)
    plain = preset._replace(loss=cross_entropy, sites=())
    again, _ = trained(program, params, MODEL.frozen, plain, 4, labels=LEAST)
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    assert last.learnable["text/features"]["which"] == 0


def test_a_batch_in_parts_makes_the_same_step():
    """The second gradient is of the whole batch, in parts or not."""
    program, preset = prograd(MODEL, **SIZES), METHOD.preset

    def stepped(start, optimizer, count):
        state = steps.begin(program, optimizer, MODEL.frozen, X, params=start)
        what = program, optimizer, preset.loss, preset.sites, state, MODEL.frozen
        rows = jnp.asarray(X), jnp.asarray(LEAST)
        return steps.train_step(*what, *rows, accumulate=count).params

    def move(before, after):
        one, other = (p.learnable[SITE]["words"] for p in (before, after))
        return np.asarray(other - one)

    plain, own = optax.sgd(2.0), agreeing(optax.sgd(2.0))
    start = program.init(jax.random.key(0), MODEL.frozen, X)
    for _ in range(3):  # until the gradients oppose each other
        start = stepped(start, plain, 1)
    whole, parts = (move(start, stepped(start, own, n)) for n in (1, 3))
    np.testing.assert_allclose(parts, whole, atol=2e-3 * np.abs(whole).max())
    against = move(start, stepped(start, plain, 1))
    assert np.abs(against - whole).max() > 0.5 * np.abs(whole).max()


def test_the_contract():
    program = prograd(MODEL, **SIZES)
    found = contract(
        program,
        MODEL.frozen,
        X[:4],
        jnp.asarray(Y[:4]),
        forward=MODEL.forward,
        shape=(4, 3),
        loss=METHOD.preset.loss,
        sites=METHOD.preset.sites,
        no_gradient=("which",),
    )
    assert found.learnable == 6 * WIDTH + 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="words=7 of 6 in place .* expected 1 to 6"):
        prograd(MODEL, length=6, words=7)
    with pytest.raises(ValueError, match="prograd got texts that begin with 0 common"):
        prograd(model())
    with pytest.raises(ValueError, match="with 3 names"):
        prograd(MODEL, targets=4)
