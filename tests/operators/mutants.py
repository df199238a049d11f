"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

IMAGES = "operators/images.py"

MUTANTS = (
    Mutant(
        "crop: the corner instead of the centre",
        IMAGES,
        "top, left = room[0] // 2, room[1] // 2",
        "top, left = 0, 0",
        "test_operators.py::test_crop_in_evaluation_is_the_centre",
    ),
)
