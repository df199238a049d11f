"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "storage: a backbone is known by its name",
        "saving/programs.py",
        "came == card.fingerprint",
        "name == card.backbone",
        "test_saved_programs.py::test_another_backbone_is_refused",
    ),
    Mutant(
        "storage: label words in another order",
        "recipes/registry.py",
        "label_words(labels)",
        "label_words(sorted(labels))",
        "test_saved_programs.py::test_a_prompt_answers_the_same_from_its_file",
    ),
)
