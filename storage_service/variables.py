"""The variables ``STRONGROOM_…`` that mean something: one that means nothing is a slip of the pen, and is refused.

A setting that was believed to be said and was not may be the one that keeps secrets safe. The commands and the client
library ask here, each before it believes one; what is of the service alone is no slip to a client, and the reverse.
Only Python's own library is imported, so that every command can ask. ``docs/configuration.md`` has the same names for
people.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

PREFIX: Final = "STRONGROOM_"
"""What the name of every variable begins with."""
SETTINGS: Final = frozenset(
    {
        *("HOME", "STORAGE_CONF", "CUSTODIA_CONF", "STORE", "SOCKET", "SOCKET_MODE", "AUDIT_LOG", "ROOT_KEY"),
        *("AUTOGEN_ROOT_KEY", "KEYRING_SEEN", "MACHINE_KEY", "MACHINE_DOCUMENTS", "STORAGE_HANDLERS"),
        *(
            "AUTHENTICATORS",
            "AUTHORIZERS",
            "ENGINES",
            "READ_THROUGH",
            "CLIENT",
            "API_ID",
            "API_KEY",
            "PROXY_CLIENT",
            "PROXY_ID",
        ),
        *(
            "PROXY_KEY",
            "LISTEN",
            "SELF_AUTHS",
            "ADDRESSES",
            "PROXY_AUTHENTICATORS",
            "TLS_CERTIFICATE",
            "TLS_KEY",
            "TLS_MINIMUM",
        ),
        *("TLS_CLIENT_CERTIFICATES", "TLS_CLIENT_CA", "CONNECTIONS", "TIMEOUT", "WORKERS", "PROXY_WORKERS", "UMASK"),
        *("MAKEDIRS", "LOG_FORMAT", "DEBUG", "METRICS_TOKEN", "RATE_LIMIT", "READY_WHEN_LOCKED"),
        *("NETWORK_RULES", "TRUSTED_PROXIES"),
    }
)
"""What `deploy.settings.Keys` has."""
CLIENTS: Final = frozenset({"URL", "CA", "OUTPUT", "CONFIG"})  # of the command and the client library
OTHERS: Final = frozenset(
    {
        *("ETCD_PASSWORD", "ETCD_SERVER", "ETCD_PORT"),  # of the store, and of the proposal's two files
        "CONVECTION_UNLOCK_KEY",  # of a source of `migrate`
        "PASSWORD_FILE",  # of deploy/etcd/users.sh
        "SOAK",  # of the tests
    }
)
IN_A_FILE: Final = SETTINGS | {"URL", "ETCD_PASSWORD", "ETCD_SERVER", "ETCD_PORT"}
"""What can be said as ``…_FILE``, too."""
KNOWN: Final = SETTINGS | CLIENTS | OTHERS | {f"{name}_FILE" for name in IN_A_FILE}

_TEMPLATES: Final = (f"{PREFIX}STORAGE_CONF", f"{PREFIX}CUSTODIA_CONF")  # whose placeholders variables fill
# Where a service is called strongroom…, Kubernetes and Docker's links say so to every container.
_OF_CONTAINERS: Final = re.compile(
    r"(?:[A-Z0-9]+_)*?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?"
    r"|NAME|ENV_[A-Za-z0-9_]+)"
)


def check(environ: Mapping[str, str], filling: Collection[str] | None = None) -> None:
    """Refuse a variable that means nothing.

    Args:
        environ: the environment; what is empty says nothing.
        filling: the names that fill placeholders of ``storage.conf`` and ``custodia.conf``; None: not known here.
            Then nothing is refused where a variable leads to one of them.

    Raises:
        ConfigurationError: there is one; the text names it, and what may have been meant.
    """
    if filling is None and any(environ.get(name) for name in _TEMPLATES):
        return
    for name in sorted(environ):
        said = name.removeprefix(PREFIX)
        if said == name or not environ[name] or said in KNOWN or _OF_CONTAINERS.fullmatch(said):
            continue
        if filling is None or said.lower() not in filling:
            from strongroom.storage_service.errors import ConfigurationError

            raise ConfigurationError(f"{name}: there is no such variable; {_meant(said)}")


def _meant(said: str) -> str:
    near = difflib.get_close_matches(said, KNOWN, n=1)
    return f"did you mean {PREFIX}{near[0]}?" if near else "unset it; docs/configuration.md has those that there are"
