"""The options that say who is to open the keyring."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from strongroom.storage_service.wire.keys import Mode, Recipient

C = TypeVar("C", bound=Callable[..., Any])

MODES = ("file", "unlock", "shares", "machine")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who is to open the keyring."""

    mode: "Mode"
    total: int = 5
    needed: int | None = None


def recipients_options(command: C) -> C:
    """Give *command* the options; they arrive as *mode*, *count* and *shares*, None where not said."""
    for option in (
        click.option("--shares", "shares", metavar="K/N", callback=_pair, help="N shares, any K of which open it."),
        click.option("--keys", "count", type=click.IntRange(1, 16), metavar="N", help="N unlock keys [5]."),
        click.option(
            "--mode",
            type=click.Choice(MODES),
            help="What opens it: the key file, unlock keys, shares, or machines alone.",
        ),
    ):
        command = option(command)
    return command


def _pair(_: click.Context, __: click.Parameter, given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    needed, slash, total = given.partition("/")
    if not slash or not needed.isdecimal() or not total.isdecimal():
        raise click.BadParameter("is K/N, such as 3/5")
    return int(needed), int(total)


def wanted(mode: "Mode | None", count: int | None, shares: tuple[int, int] | None) -> Wanted | None:
    """Return what was said; None for nothing.

    Raises:
        UsageError: it contradicts itself.
    """
    if mode is None and count is None and shares is None:
        return None
    mode = mode or ("shares" if shares else "unlock")
    if (count is not None and mode != "unlock") or (shares is not None and mode != "shares"):
        raise click.UsageError("--keys goes with --mode unlock, and --shares with --mode shares")
    if shares is not None:
        return Wanted(mode, total=shares[1], needed=shares[0])
    return Wanted(mode, total=count or 5)


def as_before(recipients: "list[Recipient]") -> Wanted:
    """Return the same recipients that there are."""
    kinds = [each.kind for each in recipients]
    if "shares" in kinds:
        held = recipients[kinds.index("shares")]
        return Wanted("shares", total=held.total or 5, needed=held.needed)
    if "unlock" in kinds:
        return Wanted("unlock", total=kinds.count("unlock"))
    return Wanted("file" if "file" in kinds else "machine")
