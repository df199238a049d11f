"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "taxonomy: outer sites alone are seen",
        "taxonomy/programs.py",
        "plain &= is_own(program, params, m, own)",
        "plain &= True",
        "test_describe_wrapped.py::test_numbers_that_a_wrapper_throws_away_do_not_act",
    ),
    Mutant(
        "taxonomy: a context is taken for the program's own",
        "taxonomy/programs.py",
        "plain &= is_same((frozen, x, own_context), given)",
        "plain &= is_same((frozen, x), given[:2])",
        "test_describe_wrapped.py::"
        "test_a_context_that_a_wrapper_looks_up_is_a_fixed_prompt",
    ),
    Mutant(
        "taxonomy: what is learned beside the sites is not seen",
        "taxonomy/programs.py",
        "plain &= known and is_whole(program, args[0])",
        "plain &= known",
        "test_describe_wrapped.py::"
        "test_learned_numbers_of_no_site_have_a_row_of_their_own",
    ),
    Mutant(
        "taxonomy: a manipulation that nobody runs is looked for",
        "taxonomy/programs.py",
        "plain &= known and is_whole(program, args[0])",
        "plain &= is_whole(program, args[0])",
        "test_describe_wrapped.py::test_a_program_that_runs_none_of_its_manipulations",
    ),
    Mutant(
        "taxonomy: only what the given context chooses acts",
        "taxonomy/manipulations.py",
        "return [context, *map(walked, belows)]",
        "return [context]",
        "test_describe_wrapped.py::test_what_can_be_chosen_acts_however_it_is_chosen",
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
