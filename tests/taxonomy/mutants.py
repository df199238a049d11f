"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "taxonomy: outer sites alone are seen",
        "taxonomy/programs.py",
        "plain &= is_own(program, params, m, own) and is_same(x, scope.x)",
        "plain &= True",
        "test_describe_wrapped.py::test_a_prompt_made_of_factors_counts_its_factors_once",
    ),
    Mutant(
        "watching: a manipulation acts unseen",
        "core/program.py",
        "new = faults.given_value(acted(m, params, value, scope, began))",
        "new = faults.given_value(m.apply(params, value, scope))",
        "test_describe_wrapped.py::test_a_watcher_sees_what_acts_and_is_gone_after_an_error",
    ),
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
