"""A language model behind an OpenAI-compatible server."""

from reprojax.text.served.answers import Malformed
from reprojax.text.served.connection import Unanswered
from reprojax.text.served.server import Endpoint

__all__ = [
    "Endpoint",
    "Malformed",
    "Unanswered",
]
