"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "core: a module of one example under vmap is taken for one of a batch",
        "core/guards.py",
        "if before[:1] != (1,) and after",
        "if len(before) == 0 and after",
        "test_linen.py::test_a_module_of_one_example_is_refused",
    ),
    Mutant(
        "nnx: batch norm on the batch's own statistics",
        "locations/nnx.py",
        '{"deterministic": True, "use_running_average": True}',
        '{"deterministic": True}',
        "test_nnx.py",
    ),
    Mutant(
        "nnx: what one pass traced serves the next",
        "locations/nnx.py",
        "eq=False)\nclass _Tap:",
        "eq=False)\nclass _Tap:\n"
        "    __eq__ = lambda self, other: True\n    __hash__ = lambda self: 0\n",
        "test_nnx.py",
    ),
    Mutant(
        "equinox: dropout as in training",
        "locations/equinox.py",
        "eqx.nn.inference_mode((module, state))",
        "(module, state)",
        "test_equinox.py",
    ),
    Mutant(
        "equinox: an edit inside scan serves one example",
        "locations/equinox.py",
        "self.edit(site, one) is not one:",
        "self.edit(site, one) is None:",
        "test_equinox.py",
    ),
    Mutant(
        "haiku: a stack's layers have the names of those outside",
        "locations/haiku.py",
        "return self._prefix(name, params) + name",
        "return name",
        "test_haiku.py",
    ),
    Mutant(
        "keras: a pass leaves its taps in the model",
        "locations/keras.py",
        "with lock, _replaced(layers, taps), library",
        "with lock, library",
        "test_keras.py",
    ),
    Mutant(
        "visits: a scanned body's second trace is numbered on",
        "locations/visits.py",
        "if trace == here:",
        "if trace is not None:",
        "test_linen.py",
    ),
)
