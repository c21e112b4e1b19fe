"""Print newly made unlock keys and shares once, on standard output, with a warning."""

import sys
from typing import TYPE_CHECKING

from strongroom.deploy.cli import show

if TYPE_CHECKING:
    from strongroom.storage_service.client import NewKeys


def new_keys(made: "NewKeys", **more: object) -> None:
    """Print the keys that were made, and what to do with them; *more* goes into the document for programs.

    Raises:
        OSError: they could not be written.
    """
    keys = [key.reveal() for key in made.keys]
    if keys:
        show.note(_warning(made))
    if show.as_json():
        show.answer({"root": made.root, "mode": made.mode, "keys": keys, "needed": made.needed, **more})
        return
    for number, key in enumerate(keys, 1):
        show.grouped(f"{number:>2}  ", key)
    sys.stdout.flush()  # what is left in a buffer has not been shown


def _warning(made: "NewKeys") -> str:
    total = len(made.keys)
    any_ = "Any one of these keys opens" if made.needed is None else f"Any {made.needed} of these {total} shares open"
    return (
        f"{any_} every secret. This is the only time that they are shown, and nobody keeps a copy: put each into the "
        "hands of another person now. When too many are lost, so are the secrets."
    )
