"""One linear probe for the weights that are embedded."""

import numpy as np
from jaxtyping import Float, Int

from reprojax.core import Given


def probe(features: Float[Given, "N D"], labels: Int[Given, "N"]) -> float:
    """A logistic regression on the standardised features of the first 1,000 rows; its
    accuracy on the last 500."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = np.asarray(features), np.asarray(labels)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(x[:1000], y[:1000])
    return float(model.score(x[-500:], y[-500:]))
