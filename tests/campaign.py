"""How far campaigns go: tests that try ever more of the same, of which `make test` tries some and `make soak` many."""

import os
from typing import Final

TIMES: Final = int(os.environ.get("STRONGROOM_SOAK", "1"))
"""How many times as many as `make test` tries."""


def as_many_as(usual: int) -> int:
    """Return how many to try, where *usual* are enough to see that nothing has broken."""
    return usual * TIMES
