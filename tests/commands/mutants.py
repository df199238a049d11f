"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "controls: of two classes the regression's one row is the first one's",
        "commands/controls.py",
        "np.stack([0 * weights[0], weights[0]])",
        "np.stack([weights[0], 0 * weights[0]])",
        "test_kept_controls.py::test_the_regression_is_the_head_of_a_linear_probe",
    ),
    Mutant(
        "controls: a class without training images has a chance",
        "commands/controls.py",
        "np.full(targets, UNSEEN, np.float32)",
        "np.zeros(targets, np.float32)",
        "test_kept_controls.py::test_the_regression_is_the_head_of_a_linear_probe",
    ),
    Mutant(
        "controls: the file of the best map holds the map that was drawn",
        "commands/train.py",
        "{**drawn.fixed, **head.fixed}",
        "{**head.fixed, **program.init(jax.random.key(0), backbone.frozen, x).fixed}",
        "test_kept_controls.py::test_the_files_answer_as_the_table_says",
    ),
    Mutant(
        "predict: what was left out shifts the images",
        "data/pixels.py",
        "stacked[rows] = pixels",
        "stacked[min(i, len(sources) - 2)] = pixels",
        "test_predict.py::test_files_that_cannot_be_read_are_left_out_if_asked",
    ),
    Mutant(
        "predict: every labelled image is right",
        "commands/predict.py",
        ".append(classes[answer] == one.inside[1])",
        ".append(True)",
        "test_predict.py::test_a_labelled_folder_says_its_accuracy",
    ),
)
