"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "zpe: all of the mean over the task's images, none of the general ones",
        "models/image_text/weighting.py",
        "middle = (middle + unit(jnp.asarray(general)).mean(0)) / 2",
        "pass",
        "image_text/test_weighting.py",
    ),
    Mutant(
        "zpe: the largest mean for the mean of the largest",
        "models/image_text/weighting.py",
        "((own - middle) @ named.T).max(-1).mean()",
        "((own - middle) @ named.T).mean(0).max()",
        "image_text/test_weighting.py",
    ),
    Mutant(
        "zpe: features as long as the images",
        "models/image_text/weighting.py",
        "own = unit(jnp.asarray(features))",
        "own = jnp.asarray(features)",
        "image_text/test_weighting.py",
    ),
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
