"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "prompts: a number that there is not is its neighbour",
        "core/many.py",
        'mode="fill", wrap_negative_indices=False',
        'mode="clip"',
        "test_prompts.py::test_a_wrong_number_is_refused_or_no_number",
    ),
    Mutant(
        "prompts: the first row's number for all",
        "core/many.py",
        "lambda a: _rows_of(a, index), params",
        "lambda a: _rows_of(a, 0 * index + index[0]), params",
        "test_prompts.py::test_a_stacked_batch_is_the_separate_batches[soft-rotary]",
    ),
    Mutant(
        "prompts: a path that misses its second end",
        "core/many.py",
        "(1 - s) * x + s * y",
        "x + s * (y - x)",
        "test_prompts.py::test_a_path_has_its_ends_and_is_straight",
    ),
    Mutant(
        "prompts: long words are near to everything",
        "models/language/words.py",
        "(_unit(a) for a in (table, own))",
        "(a for a in (table, own))",
        "test_prompts.py::test_the_order_is_that_by_hand",
    ),
)
