"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "pairs: the folders' names are texts as they are written",
        "commands/pairs.py",
        "classifier(pair, texts, templates)",
        "classifier(pair, classes, templates)",
        "test_pairs.py::test_learned_words_around_the_names_of_folders",
    ),
    Mutant(
        "predict: a pair gets the common template, not the program's",
        "commands/predict.py",
        "pairs.read(card.template)",
        "['a photo of a {}.']",
        "test_pairs.py::test_learned_words_around_the_names_of_folders",
    ),
    Mutant(
        "zero-shot: its file says that it has the method's own template",
        "commands/kept.py",
        "cards[seed]._replace(**about)",
        "cards[seed]",
        "test_pairs.py::test_learned_words_around_the_names_of_folders",
    ),
    Mutant(
        "controls: of two classes the regression's one row is the first one's",
        "commands/controls.py",
        "np.stack([0 * weights[0], weights[0]])",
        "np.stack([weights[0], 0 * weights[0]])",
        "test_kept_controls.py::test_the_regression_is_the_head_of_a_linear_probe",
    ),
    Mutant(
        "controls: the file of the best map holds the map that was drawn",
        "commands/kept.py",
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
    Mutant(
        "verdict: a mean that is higher is a prompt that wins",
        "commands/verdict.py",
        """    if _low(difference) > 0:
        best_of =""",
        """    if difference.value > 0:
        best_of =""",
        "test_verdict.py::test_what_is_not_settled",
    ),
    Mutant(
        "verdict: the program on random weights is a candidate",
        "commands/verdict.py",
        "(n for n in finite if n != RANDOM)",
        "(n for n in finite)",
        "test_verdict.py::test_whether_the_weights_matter",
    ),
    Mutant(
        "verdict: what is best is taken, though no file holds it",
        "commands/verdict.py",
        "filed = [name for name in others if name in kept]",
        "filed = others",
        "test_verdict.py::test_pixels_are_in_no_file",
    ),
    Mutant(
        "train: the file to take is that of the first seed",
        "commands/kept.py",
        "seed = int(np.argmax(own))",
        "seed = 0",
        "test_train.py::test_the_file_to_take_and_the_command_that_uses_it",
    ),
    Mutant(
        "report: the accuracy of a class counts what was answered as it",
        "commands/pictures.py",
        "own = answers[y == label]",
        "own = y[answers == label]",
        "test_report.py::test_classes_and_mistakes",
    ),
)
