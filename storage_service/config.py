"""What the two processes are told, as frozen values; ``strongroom.deploy.settings`` reads files and the environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strongroom.models.secret import Secret
from strongroom.storage_service.wire import PROXIED_SECRETS_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSettings:
    """One entry of ``storage_handlers``: where records of some models are kept."""

    type: str | None = None  # a scheme of storage_service/backends: "sqlite", "etcd", "memory"; None: from the name
    name: str | None = None  # None: after its type, then -1, -2 …
    models: tuple[str, ...] = ("*",)  # patterns (fnmatch) over the names of non-secret models; (): by name only
    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # what the backend of that type takes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticatorSettings:
    """One authenticator of the service: Custodia's ``auth:`` sections."""

    handler: str  # a name in access.registry
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizerSettings:
    """One authorizer of the service: Custodia's ``authz:`` sections."""

    handler: str  # a name in access.registry
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One engine that is asked after all others who decide."""

    name: str  # what the audit log calls it
    handler: str  # a name in access.registry
    stance: str  # "may-allow" | "must-allow"
    options: Mapping[str, str] = field(default_factory=dict)  # none is a secret: they name files


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRuleSettings:
    """One rule of the configuration about who may come from where."""

    type: str  # "allow" | "deny"
    addresses: tuple[str, ...]  # of IPv4 and IPv6, or networks
    commands: tuple[str, ...]  # names of rights, "login", "status"; "*": everything


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadThroughSettings:
    """One old place where secrets lie that have not moved yet; what the words mean is the affair of ``migration``."""

    source: str  # what kind of source
    place: str
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)  # none is a secret: they name files


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyKey:
    """The proxy's own API key: whoever shows it is the proxy."""

    api_id: str
    api_key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """All that the storage service is told."""

    socket: Path
    audit_log: Path
    root_key: Path  # JWK, 0600; made on first start, and never again once the store holds anything
    store: str = field(repr=False)  # URL of the store of secrets: sqlite:/path, etcd://host:port,…, memory:
    storage_handlers: tuple[HandlerSettings, ...] = ()  # (): one, "*", on the store of the secrets
    authenticators: tuple[AuthenticatorSettings, ...] = (AuthenticatorSettings(handler="SimpleAuthKeys"),)
    authorizers: tuple[AuthorizerSettings, ...] = (
        AuthorizerSettings(handler="SimplePathAuthz", options={"paths": "/"}),
    )
    engines: tuple[EngineSettings, ...] = ()
    network_rules: tuple[NetworkRuleSettings, ...] = ()  # (): everybody may come from everywhere
    api_id: str  # the key that platform services and the operator's command use
    api_key: Secret
    proxy: ProxyKey | None = None  # who alone is believed about the network, and whom he acts for; None: nobody
    users_file: Path | None = None  # users and hashes of passwords, of those who have no records; None: nobody
    socket_mode: int = 0o660
    autogen_root_key: bool = True
    keyring_seen: Path | None = None  # says which keyring was seen here last; None: nothing does after a restart
    machine_key: Path | None = None  # this machine's own key pair; used if the file is there
    machine_documents: Path | None = None  # a JSON file with the documents of machines; None: they are in the store
    read_through: tuple[ReadThroughSettings, ...] = ()  # asked in this order for what the store does not have
    store_record: Path | None = None  # says which store the records are in; None: nothing does
    beside: str | None = (
        None  # URL of the store that is used where none is said, if that is another and holds something
    )
    rate_limit: int = 0  # requests a minute of one principal at one address, at one worker; 0: as many as they like
    ready_when_locked: bool = True  # /readyz says 200 while there are no keys: plain records are served
    addresses: tuple[str, ...] = ()  # at which it is spoken to, as those who log in write them
    debug: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """All that the HTTP proxy is told."""

    socket: Path
    api_id: str  # its own, which shows the service that the proxy asks
    api_key: Secret
    listen: str = "127.0.0.1:8000"
    self_auths: tuple[str, ...] = (PROXIED_SECRETS_PATH,)
    authenticators: tuple[tuple[str, Mapping[str, str]], ...] = (("apikey", {}),)  # (name in the table, options)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_minimum: str = "1.2"  # "1.2" | "1.3"
    tls_client_certificates: str = "off"  # "off" | "optional" | "required"
    tls_client_ca: Path | None = None  # who signs the certificates of clients
    trusted_proxies: int = 0  # that stand before this one, and append to X-Forwarded-For whom they ask for
    connections: int = 64  # kept open to the socket, at most
    timeout: float = 10.0  # seconds for one forwarded request, from its first byte to the answer's last
    metrics_token: Secret = field(default_factory=lambda: Secret(""))  # who shows it may read /metrics; empty: nobody
    debug: bool = False
