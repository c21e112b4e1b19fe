"""``strongroom key usage``: what is under which generation."""

import click
import msgspec

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import client, common_options
from strongroom.deploy.cli.interruption import interruptible
from strongroom.deploy.cli.words import Verb

LONG = 24 * 3600.0  # seconds that the service may take to look at every record


@click.command(cls=Verb)
@click.option("--scan", is_flag=True, help="Open every record, and hold the key usage index against what it is under.")
@click.option("--repair", is_flag=True, help="With --scan: put right what the index says wrongly.")
@common_options
def usage(*, scan: bool, repair: bool) -> None:
    """Show how many records are under each generation of each keyset."""
    from strongroom.models.steps import Step

    if repair and not scan:
        raise click.UsageError("--repair goes with --scan")
    with client(LONG if scan else 60.0) as service:
        if not scan:
            counted = service.key_usage()
            if show.as_json():
                show.answer(msgspec.to_builtins(counted))
                return
            show.table(("generation", "records"), counted.generations.items())
            if not counted.counted:
                show.words(show.advice("not all records are counted yet", "key usage", scan=True, repair=True))
            return
        again = Step("to do it again", "key usage", {"scan": True, "repair": repair})
        with interruptible("no record has changed, and what is not counted yet keeps its keys", again):
            found = service.scan_key_usage(repair=repair)
    if show.as_json():
        show.answer(msgspec.to_builtins(found))
        return
    show.table(("key", "records"), found.by_kid.items())
    show.words(f"rows of the index that were missing: {found.missing}; that should not be: {found.stale}")
    for name in found.unreadable:
        show.words(f"does not open: {name}")
