"""Where an unexpected exception came from, for a log: its class, and places in our files; never a word of what it says.

The text of another's exception may quote what it was given, and so may the values of variables: either may be a secret.
"""

import errno
from pathlib import Path
from types import FrameType
from typing import Final

_OURS: Final = f"{Path(__file__).parents[1]}/"  # where the package lies; nobody else's code does
MOST: Final = 16  # places


def trace_of(error: BaseException) -> str:
    """Return the class of *error* and where it was raised; of the way there, what is ours, the innermost first."""
    places: list[str] = []
    step = error.__traceback__
    while step is not None:
        if (ours := step.tb_frame.f_code.co_filename.startswith(_OURS)) or step.tb_next is None:
            places.append(_place(step.tb_frame, step.tb_lineno, ours=ours))
        step = step.tb_next
    kind = type(error).__name__
    if isinstance(error, OSError) and (number := errno.errorcode.get(error.errno or 0)):
        kind += f" ({number})"
    return f"{kind} at {' < '.join(places[: -MOST - 1 : -1]) or 'an unknown place'}"


def _place(frame: FrameType, line: int, *, ours: bool) -> str:
    file = frame.f_code.co_filename.removeprefix(_OURS) if ours else frame.f_globals.get("__name__", "elsewhere")
    return f"{file}:{line}:{frame.f_code.co_name}"
