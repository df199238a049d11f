"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "contract: a class token for each row is called a copy",
        "testing/laws.py",
        "programs = distinct(",
        "programs = programs or distinct(",
        "test_testing.py::test_law_5_a_class_token_for_each_row_is_no_copy",
    ),
)
