"""Text from outside, for a log that people read on a terminal: what does not print stands as its escape."""


def printable(text: str) -> str:
    r"""Return *text* with a ``\uXXXX`` (of UTF-16, as in JSON) for whatever would move a cursor, hide or turn around.

    That are control characters, C1 among them, line and paragraph separators, marks of direction, and lone surrogates.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
