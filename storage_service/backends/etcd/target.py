"""Where etcd is and who we are to it: the backend's URL and options, read once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote

from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.url import DEFAULT_PORT, DEFAULT_PREFIX, ETCD_OPTIONS, check_at, prefix
from strongroom.storage_service.errors import ConfigurationError

DEFAULT_TIMEOUT: Final = 4.0  # seconds for one operation, all its attempts together; settling a lost write has as many
PASSWORD_VARIABLE: Final = "STRONGROOM_ETCD_PASSWORD"  # noqa: S105  # the variable's name, not a password

_ENDPOINT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An etcd cluster, the part of its keys that is ours, and our credentials there.

    Without *cacert* all of it crosses the network in the clear, the password too: for loopback and tunnels only.
    """

    endpoints: tuple[str, ...]  # host:port, one or more members of one cluster
    prefix: str = f"/{DEFAULT_PREFIX}/"  # every key of ours begins with it; no other key is ever touched
    user: str | None = None
    password: Secret = field(default_factory=lambda: Secret(""))
    password_file: Path | None = None  # read when the backend opens; one line
    cacert: Path | None = None  # PEM; its presence switches TLS on
    cert: Path | None = None  # PEM, of our client certificate
    key: Path | None = None  # PEM, its private key
    timeout: float = DEFAULT_TIMEOUT  # seconds


def parse(url: SplitResult, options: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Target:
    """Return the target that ``etcd://[user[:password]@]host[:port],…[/prefix]`` and *options* name.

    Args:
        url: without its query; user and password are percent-encoded, the prefix is of the grammar of names, an @ in it
            ``%40``.
        options: the URL's query and what was said beside it: ``cacert``, ``cert``, ``key``, ``timeout`` (seconds),
            ``password_file``, and ``password``, which a URL in a list of processes would show to everyone.
        environ: where ``STRONGROOM_ETCD_PASSWORD`` is looked up, if a user is named and no password options.

    Raises:
        ConfigurationError: the URL or an option cannot be understood; the text never holds any of it.
    """
    if url.fragment or not url.netloc:
        raise ConfigurationError("an etcd store is etcd://[user[:password]@]host:port,…[/prefix][?option=…&…]")
    check_at(url)
    if options.keys() - ETCD_OPTIONS:
        raise ConfigurationError(f"an etcd store takes the options {', '.join(sorted(ETCD_OPTIONS))} and no others")
    userinfo, _, hosts = url.netloc.rpartition("@")
    user, _, url_password = (unquote(part) for part in userinfo.partition(":"))
    if url_password and options.keys() & {"password", "password_file"}:
        raise ConfigurationError("the etcd password stands both in the URL and beside it")
    password = url_password or options.get("password") or ""
    if user and not password and "password_file" not in options:
        password = environ.get(PASSWORD_VARIABLE, "")
        if not password:
            raise ConfigurationError(f"an etcd user needs a password: password_file, or {PASSWORD_VARIABLE}")
    if not user and (password or "password_file" in options):
        raise ConfigurationError("an etcd password needs a user in the URL")
    if ("cert" in options) != ("key" in options) or ("cert" in options and "cacert" not in options):
        raise ConfigurationError("etcd's cert and key go together, and with cacert, which switches TLS on")
    return Target(
        endpoints=tuple(_endpoint(host) for host in hosts.split(",")),
        prefix=_prefix(url.path),
        user=user or None,
        password=Secret(password),
        password_file=_path(options, "password_file"),
        cacert=_path(options, "cacert"),
        cert=_path(options, "cert"),
        key=_path(options, "key"),
        timeout=_seconds(options.get("timeout")),
    )


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match[2] or DEFAULT_PORT) < 65536:
        raise ConfigurationError("an etcd URL names its members as host:port, separated by commas")
    return f"{match[1]}:{match[2] or DEFAULT_PORT}"


def _prefix(path: str) -> str:
    try:
        return f"/{names.check(prefix(path))}/"
    except InvalidName:
        raise ConfigurationError("the prefix in an etcd URL is segments as in names") from None


def _path(options: Mapping[str, str], option: str) -> Path | None:
    if option not in options:
        return None
    if not options[option]:
        raise ConfigurationError(f"etcd's {option} is empty")
    return Path(options[option])


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or DEFAULT_TIMEOUT)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise ConfigurationError("etcd's timeout is seconds, from 0.1 to 3600")
    return seconds
