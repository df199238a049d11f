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
        "pool: padded by zeros",
        "models/vision/resnet.py",
        "constant_values=-jnp.inf",
        "constant_values=0.0",
        "test_layers.py::test_maxima_are_those_of_every_three_by_three",
    ),
)
