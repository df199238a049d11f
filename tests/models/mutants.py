"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "models: settings that nobody reads are passed over",
        "models/settings.py",
        "    if other:",
        "    if False:",
        "test_settings.py",
    ),
    Mutant(
        "models: weights that are not finite are taken",
        "models/stored.py",
        "np.isfinite(tensor.astype(np.float32)).sum()",
        "tensor.size",
        "test_settings.py",
    ),
    Mutant(
        "models: a bare file of a family of many is taken for the plain one",
        "models/vision/catalogue.py",
        "if kind is None and layout.example:",
        "if kind is False:",
        "test_settings.py",
    ),
)
