"""What is to be done next, as data: each face words it in its own way.

    {"reason": "move it", "verb": "migrate apply", "options": {"run": "commissaire-x7pq", "skip_bad": true}}

What finds out that something is to be done knows neither a shell nor a web page, so it spells no command: the command
line makes one of a step, a program reads the step as it is.
"""

from collections.abc import Mapping
from typing import Literal, Self, TypeAlias

import msgspec

Verb: TypeAlias = Literal[
    "apikey create",
    "apikey end-former",
    "backup take",
    "backup verify",
    "host put",
    "key import",
    "key init",
    "key reencrypt",
    "key rotate root",
    "key status",
    "key unlock",
    "key usage",
    "login",
    "machine authorize",
    "machine config init",
    "machine init",
    "machine list",
    "migrate apply",
    "migrate check",
    "migrate forget",
    "migrate plan",
    "migrate rollback",
    "migrate scrub",
    "migrate sources",
    "migrate status",
    "migrate verify",
    "restore",
    "secret cp",
    "secret mkdir",
    "secret mv",
    "secret rm",
    "service setup",
    "status",
    "up",
    "user add",
    "user setup",
    "whoami",
]
"""All that can be advised: what is acted on, and how."""

Option: TypeAlias = str | bool | list[str]


class Step(msgspec.Struct, frozen=True):
    """One thing to do, and why; without a *verb* only people can do it.

    *options* are what the verb is to be given, by name. A ``home`` or ``socket`` among them names another service than
    the one that was asked.
    """

    reason: str
    verb: Verb | None = None
    options: dict[str, Option] = {}

    def given(self, options: Mapping[str, Option]) -> Self:
        """Return the step with more options; its own come first."""
        return msgspec.structs.replace(self, options={**options, **self.options})
