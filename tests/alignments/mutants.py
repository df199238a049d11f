"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

CENTRED = "alignments/statistical.py"
POOLING = "alignments/rule.py"

MUTANTS = (
    Mutant(
        "pooling: padding counts",
        POOLING,
        "jnp.where(y.position >= start, y.weight, 0)",
        "jnp.where(y.position >= start, 1.0, 0.0)",
        "test_pooling.py::test_the_mean_of_real_tokens_by_weight",
    ),
    Mutant(
        "pooling: the slope of a norm at zero",
        POOLING,
        "jnp.sqrt(jnp.maximum(square, 1e-24))",
        "jnp.maximum(jnp.sqrt(square), 1e-12)",
        "test_pooling.py::test_a_row_of_padding_gives_zeros_and_no_nan",
    ),
    Mutant(
        "several: every alignment draws from the same key",
        "alignments/heads.py",
        "m.init(fold(key, name), spec, inside(scope, name))",
        "m.init(key, spec, inside(scope, name))",
        "test_heads.py::test_alignments_of_one_kind_draw_by_name",
    ),
    Mutant(
        "calibration: the estimate is added",
        "alignments/statistical.py",
        "return y - (strength",
        "return y + (strength",
        "test_calibration.py",
    ),
    Mutant(
        "calibration: rows that fill a batch count",
        "alignments/statistical.py",
        "jnp.where(labels[:, None] >= 0, p, 0).sum(0)",
        "p.sum(0)",
        "test_calibration.py",
    ),
    Mutant(
        "calibration: rows weigh alike in the published mean too",
        "alignments/statistical.py",
        "jax.nn.softmax(y) if normalised else jnp.exp(y)",
        "jax.nn.softmax(y)",
        "test_calibration.py",
    ),
    Mutant(
        "centred: rows that fill a batch are in the mean",
        CENTRED,
        "real @ y.astype(jnp.float32)",
        "y.astype(jnp.float32).sum(0)",
        "test_centring.py::test_sums_of_uneven_batches_add_up_and_filled_rows_are_none",
    ),
    Mutant(
        "centred: the map counts what is centred",
        CENTRED,
        "count(inner(params), y, labels)",
        'count(inner(params), y - params.fixed["mean"], labels)',
        "test_centring.py::test_the_mean_goes_off_before_the_map_of_the_answers_as_they_came",
    ),
    Mutant(
        "masked: the mask's place as if no prompt stood in front",
        "alignments/rule.py",
        "hit.argmax(1) + value.weight.shape[1] - hit.shape[1]",
        "hit.argmax(1)",
        "test_masked.py::test_the_token_at_the_mask",
    ),
)
