"""ZPE (arXiv 2302.06235) beside the functions of its authors' notebook, which ran on
the vectors of the same small pair.

The wrong variants: no mean taken off; all of one mean; a maximum over templates; scores
of features that are not of unit length.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_pairs import pair, pictures

from reprojax.models.image_text import classifier, image_features, template_weights
from reprojax.models.image_text.card import encoded, text_features
from reprojax.models.image_text.weighting import template_scores

NAMES = ["cat", "small dog", "bird"]
TEMPLATES = [
    "a photo of a {}.",
    "a red {}",
    "the small {} on blue",
    "{}",
    "good {} with a bird .",
]
OWN, GENERAL = pictures(24, 3), pictures(40, 12)
OFFICIAL = {
    "both": [0.614326, 0.501434, 0.651518, 0.937835, 0.611676],
    "test": [0.241438, 0.284616, 0.315312, 0.686779, 0.343236],
    "none": [1.532826, 4.69171, 4.15347, 4.737937, 1.362299],
    # of the first four images: the mean over templates of logits times weights
    "logits": [
        [0.587338, 1.022655, 0.5288],
        [0.525027, 0.96553, 0.562414],
        [0.207555, 0.643032, 0.06879],
        [0.487628, 0.924228, 0.421306],
    ],
    "selected": {0.5: [2, 3], 1.0: [3]},
}
GIVEN = pair(), NAMES, TEMPLATES, image_features(pair(), OWN)
BESIDE = image_features(pair(), GENERAL)


def test_scores_are_those_of_the_official_code():
    found = template_scores(*GIVEN, BESIDE)
    np.testing.assert_allclose(found, OFFICIAL["both"], rtol=1e-4, atol=1e-5)
    alone = template_scores(*GIVEN)
    np.testing.assert_allclose(alone, OFFICIAL["test"], rtol=1e-4, atol=1e-5)
    assert np.abs(np.array(OFFICIAL["none"]) - found).min() > 0.5


def test_the_classifier_has_the_official_logits_but_for_a_vectors_length():
    """Theirs are the mean of 5 weighted logits; ours divide by the mean's length."""
    weights = template_weights(*GIVEN, BESIDE)
    assert weights.shape == (3, 15)
    model = classifier(pair(), NAMES, TEMPLATES, weights=weights)
    y = model.forward(model.frozen, OWN[:4])
    texts = [t.replace("{}", n) for n in NAMES for t in TEMPLATES]
    rows = np.asarray(text_features(pair(), encoded(pair(), texts)))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).reshape(3, 5, -1)
    soft = np.asarray(jax.nn.softmax(jnp.array(OFFICIAL["both"])))
    length = np.linalg.norm(np.einsum("p,tpj->tj", soft, rows), axis=1)
    np.testing.assert_allclose(
        np.asarray(y) * length / 5, OFFICIAL["logits"], rtol=1e-3, atol=1e-4
    )


def test_features_without_a_value_are_refused():
    with pytest.raises(ValueError, match="all finite"):
        template_weights(*GIVEN[:3], np.full((4, 6), np.nan))
    with pytest.raises(ValueError, match="got features .0, 6., expected one for each"):
        template_weights(*GIVEN, BESIDE[:0])
    with pytest.raises(ValueError, match="was called within jit"):
        jax.jit(lambda x: template_weights(*GIVEN[:3], x))(GIVEN[3])


@pytest.mark.parametrize("select", [0.5, 1.0])
def test_templates_far_above_the_median_are_selected(select):
    weights = template_weights(*GIVEN, BESIDE, select)
    chosen = np.flatnonzero(weights[0]).tolist()
    assert chosen == OFFICIAL["selected"][select]
    np.testing.assert_array_equal(weights[1, 5:10], weights[0, :5])
    with pytest.raises(ValueError, match="above which no template's score is"):
        template_weights(*GIVEN, BESIDE, 50.0)
