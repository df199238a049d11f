"""What the benchmarks time: a bare model with its gradient, and `fit`'s own step."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from reprojax import Program
from reprojax.core import spec_of
from reprojax.models import Model, Pixels
from reprojax.models.language import Words
from reprojax.models.language.card import role
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import begin, train_step

OPTIMIZER = optax.sgd(0.01)


def floor(card: Model[Pixels]) -> Any:
    """(pixels, frozen) -> forward and input gradient of the bare model."""

    def total(x: jax.Array, frozen: Any) -> jax.Array:
        return card.forward(frozen, x).astype(jnp.float32).sum()

    return jax.jit(jax.value_and_grad(total))


def floor_of_words(card: Model[Words]) -> Any:
    """(added, frozen, ids) -> forward and gradient at the words' vectors [B L D].

    What is added to these is to be zeros.
    """
    (site,) = role(card, "embedding")

    def total(added: jax.Array, frozen: Any, ids: Any) -> jax.Array:
        def edit(at: str, value: Any) -> Any:
            return value._replace(value=value.value + added) if at == site else value

        y = card.forward(frozen, ids, edit=edit)
        return y.value.astype(jnp.float32).sum()

    return jax.jit(jax.value_and_grad(total))


def held(compiled: Any) -> int:
    """Bytes that a compiled call needs besides its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def whole(compiled: Any) -> int:
    """Bytes that a compiled call holds: arguments, results and what is in between."""
    its = compiled.memory_analysis()
    held = its.argument_size_in_bytes + its.temp_size_in_bytes
    return held + its.output_size_in_bytes - its.alias_size_in_bytes


class Stepper:
    """`fit`'s own step on one batch, again and again, compiled ahead.

    Args:
        programs: K equal ones, whose step is one by vmap; None: one program.
    """

    def __init__(
        self,
        program: Program,
        frozen: Any,
        x: Any,
        y: jax.Array,
        programs: int | None = None,
    ) -> None:
        self._rest = frozen, x, y
        settings = program, OPTIMIZER, cross_entropy, ()
        start = time.perf_counter()
        spec = spec_of(x)

        @jax.jit
        def first(frozen: Any) -> Any:
            state = begin(program, OPTIMIZER, frozen, spec, seed=0, epochs=1)
            if programs is None:
                return state
            many = lambda a: jnp.broadcast_to(a, (programs, *a.shape))
            return jax.tree.map(many, state)

        self.state = first(frozen)
        step: Any = partial(train_step, *settings)
        if programs is not None:
            step = jax.vmap(step, (0, None, None, None))
        step = jax.jit(step, donate_argnums=0)
        traced = step.trace(self.state, *self._rest)
        self.jaxpr = traced.jaxpr
        self.compiled = traced.lower().compile()
        self.seconds = time.perf_counter() - start
        """To draw the state, to trace and to compile."""

    @property
    def memory(self) -> int:
        """Bytes besides arguments and results."""
        return held(self.compiled)

    def step(self) -> Any:
        """One update."""
        self.state = self.compiled(self.state, *self._rest)
        return self.state
