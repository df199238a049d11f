"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MAPS = "alignments/statistical.py"

MUTANTS = (
    Mutant(
        "map: a class that is absent makes NaN",
        MAPS,
        "return jnp.where(total > 0, share, 1 / len(counts))",
        "return weight / total",
        "test_estimation.py::test_absent_classes_give_a_whole_map",
    ),
    Mutant(
        "map: estimated from the task's logits, not the model's",
        "core/estimation.py",
        'return [f"{site}/raw" for site in estimated(program)]',
        'return [f"{site}" for site in estimated(program)]',
        "test_estimation.py::test_what_is_counted_is_the_answer_of_the_model_and_not_of"
        "_the_map",
    ),
    Mutant(
        "core: an outer program sees a value before it is edited",
        "core/program.py",
        "            return tapped(site, new)\n",
        "            return new\n",
        "test_program.py::test_the_order_of_events",
    ),
    Mutant(
        "core: parts draw by their order, not by their names",
        "core/program.py",
        "jax.random.fold_in(key, zlib.crc32(name.encode()))",
        "key",
        "test_program.py::test_keys_by_name",
    ),
    Mutant(
        "core: a site that comes twice is edited twice in silence",
        "core/guards.py",
        'if reached.get(site) == now and not site.endswith("/raw"):',
        "if False:",
        "test_taps.py::test_a_site_that_comes_twice_is_refused",
    ),
    Mutant(
        "core: a forward's answer from before the edit is taken",
        "core/faults.py",
        "y is passage.given and y is not passage.got",
        "False",
        "test_border.py",
    ),
    Mutant(
        "core: an error of a part goes on without its site",
        "core/faults.py",
        'raise PartError(what, (f"{where} ({name_of(part)})",)) from error',
        "raise",
        "test_border.py",
    ),
    Mutant(
        "taps: given rows of another batch are broadcast",
        "core/taps.py",
        "if old != found or old_tree != tree:",
        "if old_tree != tree:",
        "test_taps.py::test_given_refuses_what_the_model_would_not_have_there",
    ),
    Mutant(
        "taps: a star stands for the last part of a name alone",
        "core/taps.py",
        "check_sites(every, shown | taken)",
        "check_sites(every, shown)",
        "test_taps.py::test_record_takes_all_taps_of_a_name",
    ),
)
