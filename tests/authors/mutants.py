"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

REGISTRY = "recipes/registry.py"

MUTANTS = (
    Mutant(
        "authors: a program is built again for what the model reads, not the task's x",
        REGISTRY,
        "x = _row(card, model) if x is None else x",
        "x = _row(card, model)",
        "test_voice2series.py",
    ),
    Mutant(
        "authors: a language model checks its ids before the input is edited",
        "models/language/card.py",
        "return check_ids(edit(site, value))",
        "return edit(site, check_ids(value))",
        "test_time_llm.py",
    ),
)
