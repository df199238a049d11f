"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "stem: squares start a row too late",
        "models/vision/layers.py",
        "((1, 0), (1, 0), (0, 0), (0, 0))",
        "((0, 1), (0, 1), (0, 0), (0, 0))",
        "test_layers.py::test_the_same_weights_give_the_same_values_and_gradients",
    ),
    Mutant(
        "stem: what is odd is cut off",
        "models/vision/layers.py",
        "x = jnp.pad(x, ((0, 0), *((0, n % 2) for n in x.shape[1:3]), (0, 0)))",
        "x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]",
        "test_layers.py::test_the_same_weights_give_the_same_values_and_gradients",
    ),
    Mutant(
        "attention: biases go to keys that a prompt puts in front",
        "models/vision/vit.py",
        "(*[(0, 0)] * 3, (more, 0))",
        "(*[(0, 0)] * 3, (0, more))",
        "test_position_biases.py::test_keys_in_front_have_no_bias",
    ),
    Mutant(
        "BEiT: tokens that a prompt inserts have biases",
        "models/vision/beit.py",
        "known = pair(patch | first, patch | first)",
        "known = pair(place > -length, place > -length)",
        "test_position_biases.py::test_inserted_tokens_have_none_and_move_no_other",
    ),
    Mutant(
        "Swin: windows that a roll makes are one",
        "models/vision/swin.py",
        "(place >= side - window) + (place >= side - shift)",
        "(place >= side - window)",
        "test_position_biases.py::test_places_that_a_roll_brings_together_are_apart",
    ),
    Mutant(
        "DINOv3: the class token is turned too",
        "models/vision/dinov3.py",
        "first, x = x[:, : -(side**2)], x[:, -(side**2) :]",
        "first, x = x[:, side**2 :], x[:, : side**2]",
        "test_position_biases.py::test_turned_keys_meet_by_distance_and_what_is_inserted_stays",
    ),
    Mutant(
        "pool: padded by zeros",
        "models/vision/resnet.py",
        "constant_values=-jnp.inf",
        "constant_values=0.0",
        "test_layers.py::test_maxima_are_those_of_every_three_by_three",
    ),
)
