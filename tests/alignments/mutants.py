"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

CENTRED = "alignments/statistical.py"
POOLING = "alignments/rule.py"
RIDGE = "alignments/closed_form.py"
SEMANTIC = "alignments/semantic.py"

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
        CENTRED,
        "return y - (strength",
        "return y + (strength",
        "test_calibration.py",
    ),
    Mutant(
        "calibration: rows that fill a batch count",
        CENTRED,
        "jnp.where(labels[:, None] >= 0, p, 0).sum(0)",
        "p.sum(0)",
        "test_calibration.py",
    ),
    Mutant(
        "calibration: rows weigh alike in the published mean too",
        CENTRED,
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
        POOLING,
        "hit.argmax(1) + value.weight.shape[1] - hit.shape[1]",
        "hit.argmax(1)",
        "test_masked.py::test_the_token_at_the_mask",
    ),
    Mutant(
        "map: rows normalised instead of columns",
        CENTRED,
        "total = weight.sum(0, keepdims=True)",
        "total = weight.sum(1, keepdims=True)",
        "test_named.py::test_bayesian_columns",
    ),
    Mutant(
        "map: no smoothing",
        CENTRED,
        "seen = counts.sum(1, keepdims=True) + smoothing",
        "seen = counts.sum(1, keepdims=True)",
        "test_named.py::test_bayesian_columns",
    ),
    Mutant(
        "map: weights on probabilities, not on logits",
        CENTRED,
        "return y @ params.fixed.astype(y.dtype)",
        "return jax.nn.softmax(y) @ params.fixed.astype(y.dtype)",
        "test_named.py::test_bayesian_columns",
    ),
    Mutant(
        "map: a source class serves two targets",
        CENTRED,
        "left = left.at[s].set(-1.0)",
        "left = left.at[s, t].set(-1.0)",
        "test_named.py::test_frequent_answers_one_to_one",
    ),
    Mutant(
        "map: k = int(.15 T), which is 0 for few classes",
        CENTRED,
        "max(1, int(0.15 * targets))",
        "int(0.15 * targets)",
        "test_named.py::test_bayesian_plus_sums_probabilities",
    ),
    Mutant(
        "map: logits summed instead of probabilities",
        CENTRED,
        "jax.nn.softmax(y.astype(jnp.float32)), k)",
        "y.astype(jnp.float32), k)",
        "test_named.py::test_bayesian_plus_sums_probabilities",
    ),
    Mutant(
        "map: rows that fill a batch are counted",
        CENTRED,
        "answers.T @ jax.nn.one_hot(labels, targets)",
        "answers.T @ jax.nn.one_hot(labels % targets, targets)",
        "test_named.py::test_rows_that_fill_a_batch_count_for_nothing",
    ),
    Mutant(
        "ridge: rows that fill a batch count",
        RIDGE,
        "jnp.where(real > 0, y.astype(jnp.float32), 0)",
        "y.astype(jnp.float32)",
        "test_closed_form.py::test_sums_add_up_and_rows_that_fill_a_batch_are_none",
    ),
    Mutant(
        "ridge: a penalty that does not follow the logits",
        RIDGE,
        "strength * jnp.trace(spread) / len(mean) + 1e-12",
        "strength",
        "test_closed_form.py",
    ),
    Mutant(
        "ridge: squares that are not centred",
        RIDGE,
        'sums["xx"] / rows - jnp.outer(mean, mean)',
        'sums["xx"] / rows',
        "test_closed_form.py",
    ),
    Mutant(
        "semantic: all of a class's sources at once",
        SEMANTIC,
        "product(range(several), range(len(near)))",
        "((k, t) for t in range(len(near)) for k in range(several))",
        "test_semantic.py",
    ),
    Mutant(
        "semantic: longer features are nearer",
        SEMANTIC,
        "np.linalg.norm(a, axis=1, keepdims=True)",
        "1.0",
        "test_semantic.py",
    ),
    Mutant(
        "favourites: one to one",
        CENTRED,
        "return _mapping(initial, observe, favourites_map)",
        "return _mapping(initial, observe, one_to_one_map)",
        "test_named.py",
    ),
)
