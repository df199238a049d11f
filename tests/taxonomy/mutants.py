"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "taxonomy: the one site of scanned layers is the embedding",
        "taxonomy/programs.py",
        'eqn.primitive.name in ("scan", "while")',
        'eqn.primitive.name in ("while",)',
        "test_describe.py::test_a_site_inside_a_loop_is_hidden_whatever_a_card_calls_it",
    ),
    Mutant(
        "taxonomy: of several prompts the first alone has a cell",
        "taxonomy/programs.py",
        'dict.fromkeys(prompts.split(" + "))',
        'prompts.split(" + ")[:1]',
        "test_describe.py::test_the_cells_and_what_stands_in_them",
    ),
)
