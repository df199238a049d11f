"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "a card: the texts' features count in a pair's fingerprint",
        "models/card.py",
        "fingerprint(self.weights(self.frozen))",
        "fingerprint(self.frozen)",
        "image_text/test_pair.py::test_a_fingerprint_is_of_weights_and_texts",
    ),
    Mutant(
        "pairs: a mean of texts in half precision",
        "models/image_text/card.py",
        "wide = jnp.promote_types(features.dtype, jnp.float32)\n    found",
        "wide = features.dtype\n    found",
        "image_text/test_pair.py::test_the_mean_of_texts_in_bfloat16_is_one_in_float32",
    ),
    Mutant(
        "pairs: a class without any text is taken",
        "models/image_text/card.py",
        " | ~found.any(1)",
        "",
        "image_text/test_pair.py::test_bad_texts_are_refused",
    ),
    Mutant(
        "pairs: padding is the config's, whatever the tokeniser says",
        "models/image_text/catalogue.py",
        "if text is not None and named is not None:",
        "if False:",
        "image_text/test_pairs_in_torch.py"
        "::test_padding_is_what_the_files_beside_the_tokeniser_say",
    ),
    Mutant(
        "pairs: a missing bias is 0",
        "models/image_text/catalogue.py",
        "found = tensors.get(number)",
        "found = tensors.get(number, np.zeros(1))",
        "image_text/test_pairs_in_torch.py::test_a_missing_scale_or_bias_is_refused",
    ),
    Mutant(
        "OpenCLIP: all of timm's towers have the exact GELU",
        "models/image_text/open_clip.py",
        'r"vit_base_patch32_siglip_\\d+": (12, "gelu_pytorch_tanh")',
        'r"vit_base_patch32_siglip_\\d+": (12, "gelu")',
        "image_text/test_pairs_in_torch.py::test_siglip_in_names_of_open_clip_and_timm",
    ),
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
