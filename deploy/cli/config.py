"""``strongroom config``: what the settings come to, before anything is started on them."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from strongroom.deploy.cli import show
from strongroom.deploy.cli.common import common, common_options
from strongroom.deploy.cli.settings_options import flags_of, settings_options
from strongroom.deploy.cli.words import Noun, needing_server
from strongroom.deploy.places import PREFIX

_FILE = click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="The TOML file to read.")


@click.group(cls=Noun)
def config() -> None:
    """Show or check the settings."""


@config.command("show")
@_FILE
@settings_options
@common_options
def show_(*, file: Path | None, sets: dict[str, str], **options: Any) -> None:
    """Show every setting, and where it was said. Secrets are masked."""
    settings = _load(file, sets, options)
    if show.as_json():
        show.answer(
            {
                "settings": {each.key: each.value for each in settings.shown},
                "sources": {each.key: each.source for each in settings.shown},
                "notes": settings.notes,
            }
        )
    else:
        show.table(("setting", "value", "said by"), ((s.key, s.value, s.source) for s in settings.shown))
        _notes(settings.notes)


@needing_server
@config.command()
@click.option("--for", "role", type=click.Choice(["storage", "proxy"]), help="Check for one process [both].")
@_FILE
@settings_options
@common_options
def check(*, role: str | None, file: Path | None, sets: dict[str, str], **options: Any) -> None:
    """Check the settings; what is wrong is an error, what has no effect is noted.

    Run it as the user of the service: files are looked at as that user will. With --for, what the other process alone
    reads is left out. Without --for and --config the home is looked at, too, as up does.
    """
    settings = _load(file, sets, options, role)
    from strongroom.deploy.serving import tls
    from strongroom.deploy.serving.look import look
    from strongroom.deploy.serving.server import Role, rehearse, rehearse_stores

    now = datetime.now(UTC)
    rehearse(settings)
    if role != "proxy":
        rehearse_stores(settings)
    pair = tls.check(settings.proxy, now)  # the storage service's settings have none
    soon = pair and pair.note(now)
    by_up = file is None and role is None and not os.environ.get(f"{PREFIX}CONFIG")
    seen_to = look(settings, Role(role) if role else None, by_up=by_up)
    notes = (*settings.notes, *((soon,) if soon else ()), *seen_to)
    if show.as_json():
        show.answer({"valid": True, "notes": notes, "tls": pair and _certificate(pair)})
    else:
        show.words("the settings are valid")
        if pair:
            show.words(f"the proxy's certificate is for {', '.join(pair.names)}, until {pair.not_after:%Y-%m-%d}")
        _notes(notes)


def _certificate(pair: Any) -> dict[str, object]:
    return {
        "names": pair.names,
        "not_before": f"{pair.not_before:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{pair.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "fingerprint": pair.fingerprint,
    }


def _load(file: Path | None, sets: dict[str, str], options: dict[str, Any], role: str | None = None) -> Any:
    from strongroom.deploy.settings import load

    flags = flags_of(options)
    return load(
        environ=os.environ, home=common().home, config=file, flags=flags, sets=sets, without_key=True, role=role
    )


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        show.words(f"note: {note}")
