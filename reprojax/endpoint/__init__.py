"""A language model behind an OpenAI-compatible server."""

from reprojax.endpoint.answers import Malformed
from reprojax.endpoint.connection import Unanswered
from reprojax.endpoint.server import Endpoint

__all__ = ["Endpoint", "Malformed", "Unanswered"]
