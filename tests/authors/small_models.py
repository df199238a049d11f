"""Cards of the tiny frozen models that methods of any author are tried on."""

import fitting

from reprojax.models import Pixels, card

NET = card(
    fitting.Net(),
    fitting.FROZEN,
    name="net",
    input=Pixels(8, tuple(fitting.MEAN.tolist()), tuple(fitting.STD.tolist())),
    features="head:in",
)


def net_logits(x):
    """Of normalised images [B 8 8 3], without the library."""
    return fitting.Net().apply(fitting.FROZEN, x)
