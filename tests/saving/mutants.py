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
    Mutant(
        "identity: a metric is what it sums, however it scores",
        "saving/identity.py",
        "[sums, _scored(score, sums.out)]",
        "[sums]",
        "test_identity.py::test_each_ingredient_changed_alone_is_refused_by_name",
    ),
    Mutant(
        "identity: a metric is how it scores, whatever it sums",
        "saving/identity.py",
        "[sums, _scored(score, sums.out)]",
        "[_scored(score, sums.out)]",
        "test_identity.py::test_another_loss_as_the_metric_is_refused",
    ),
)
