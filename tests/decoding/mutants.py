"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

READING = "decoding/reading.py"
WRITING = "decoding/writing.py"
SAMPLING = "decoding/sampling.py"

MUTANTS = (
    Mutant(
        "engine: all layers write at one slot",
        READING,
        "start = slots[site]",
        "start = min(slots.items())[1]",
        "test_decoding.py::test_decoding_is_recomputation[rotary-hidden]",
    ),
    Mutant(
        "engine: words stand behind the padding",
        WRITING,
        "repeat(last_position(x) + 1, samples),",
        "repeat(last_position(x) * 0 + x.weight.shape[1], samples),",
        "test_decoding.py::test_decoding_is_recomputation[rotary-soft prompt]",
    ),
    Mutant(
        "engine: a query behind a head gets the prompt again",
        READING,
        "x = x._replace(span=TAIL)",
        "x = x._replace(span=WHOLE)",
        "test_decoding.py::test_what_queries_begin_with_is_read_once",
    ),
    Mutant(
        "engine: the samples of a row share its key",
        WRITING,
        "return fold(keys, jnp.arange(samples)).reshape(-1)",
        "return fold(keys, jnp.zeros(samples, int)).reshape(-1)",
        "test_decoding.py::test_keys_are_by_row_and_sample",
    ),
    Mutant(
        "engine: top-p leaves out the word that reaches p",
        SAMPLING,
        "kept = jnp.cumsum(mass) - mass < top_p",
        "kept = jnp.cumsum(mass) < top_p",
        "test_decoding.py::test_what_is_drawn_from",
    ),
    Mutant(
        "engine: what is written stays greedy where one row is",
        SAMPLING,
        "jax.lax.cond(warm.any(), drawn, lambda: best)",
        "jax.lax.cond(warm.all(), lambda: best, lambda: best)",
        "test_decoding.py::test_draws_are_as_often_as_likely",
    ),
    Mutant(
        "prefix: each new word brings it again",
        "operators/concatenative.py",
        "if isinstance(value, Tokens) and not value.span.first:",
        "if False:",
        "test_decoding.py::test_decoding_is_recomputation[rotary-one prefix for all]",
    ),
)
