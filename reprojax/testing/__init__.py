"""The laws that every method keeps. `import reprojax` does not import this."""

from reprojax.testing.compiled import copies, operations
from reprojax.testing.contract import Report, contract

__all__ = [
    "Report",
    "contract",
    "copies",
    "operations",
]
