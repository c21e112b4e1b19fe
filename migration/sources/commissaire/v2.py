"""Commissaire's keys by etcd's v2 interface, which is what Commissaire itself spoke: HTTP and JSON, folders and keys.

etcd answers a folder whole, with all values, and makes that answer in its own memory. Here it is taken in as it comes,
key by key; if the connection breaks, the folder is asked for again, and gone on with after the last key. Measured with
100,000 hosts of 2.5 KB: the reader stays at 52 MB, but etcd takes 2 GB more than before, and six seconds a listing.

A member answers from what it has itself, which may be a moment old; what a change hangs on is asked of a quorum, which
costs an entry in the log. A change compares the key's index, so it may be sent again until it is known what is there.
"""

import asyncio
import codecs
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.sources.at_once import at_once
from strongroom.migration.sources.base import Place
from strongroom.migration.sources.commissaire.keys import Held, read_password
from strongroom.migration.sources.commissaire.places import Machine, places_of
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.backends.etcd.target import Target
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import why_unread

AT_ONCE: Final = 4  # requests under way: with more of them the client's pool takes longer than etcd
PAGE: Final = 100  # keys
PAGE_SIZE: Final = 1024 * 1024  # bytes of values
LISTING: Final = 60.0  # seconds until etcd has made the answer of a large folder
LONGEST_NODE: Final = 16 * 1024 * 1024  # characters of one key and its value, escaped
PAUSE: Final = 0.2  # seconds, once every member has been asked
EVENTS: Final = 1000  # of which etcd keeps a history, with the values before and after
FLUSH: Final = "_strongroom-purge"  # a key that no listing shows, for the events that push others out

_LOST_BYTES: Final = "\ufffd".encode()  # what this interface shows in place of bytes that are no UTF-8
_NODES: Final = ',"nodes":['  # inside a text of JSON, the quotes would have backslashes
_NO_KEY: Final = 100  # etcd's codes of errors (error.go of its package v2error) …
_NOT_AS_COMPARED: Final = 101
_NO_FILE: Final = 102
_OUTCOMES: Final = frozenset({_NO_KEY, _NOT_AS_COMPARED, _NO_FILE})  # … that answer the question
_LOST: Final = (httpx.TransportError, ssl.SSLError)  # TLS 1.3 refuses a client's certificate once it is under way
_TRY_AGAIN: Final = "see that it runs and that the place names it, then run this again"


class Etcd2Keys:
    """The keys below the prefix of *target*, by HTTP; with *tls* by HTTPS."""

    def __init__(self, target: Target, directories: Sequence[Path], *, tls: bool) -> None:
        """Take the cluster, and those *directories* of its members that can be read from here; nothing is opened."""
        self.prefix = target.prefix
        self.nested = True
        self.at_once = AT_ONCE
        self._target = target
        self._directories = directories
        self._scheme = "https" if tls else "http"
        self._current = 0
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Make the client, and see that what answers keeps folders and keys."""
        self._client = await asyncio.to_thread(self._make_client)
        try:
            node = await self._get(self.prefix)
            if node is not None and not node.get("dir"):
                raise ConfigurationError("the place names one key in etcd, not a folder of keys")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def count(self) -> int:
        """Return how many keys there are: there is no other way than to list them."""
        total = 0
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                total += len(page)
        return total

    async def pages(self) -> AsyncGenerator[Sequence[Held], None]:
        """Yield all keys, folder by folder, those in a folder in their order."""
        folders = [self.prefix.rstrip("/")]
        while folders:
            below: list[str] = []
            page: list[Held] = []
            size = 0
            async with aclosing(self._nodes(folders.pop(0))) as nodes:
                async for node in nodes:
                    if node.get("dir"):
                        below.append(node["key"])
                        continue
                    page.append(held := _held(node))
                    size += len(held.value)
                    if len(page) == PAGE or size > PAGE_SIZE:
                        yield page
                        page, size = [], 0
            if page:
                yield page
            folders = below + folders

    async def get_many(self, keys: Sequence[str], *, agreed: bool = False) -> Mapping[str, Held]:
        """Return those of *keys* that exist, each as of a moment of its own."""
        ours = [key for key in dict.fromkeys(keys) if key.startswith(self.prefix) and _is_key(key)]
        nodes = await at_once(lambda key: self._get(key, agreed=agreed), ours, AT_ONCE)
        return {key: _held(node) for key, node in zip(ours, nodes, strict=True) if node and not node.get("dir")}

    async def revisions(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the indexes of those of *keys* that exist; their values come along, there is no other way."""
        return {key: held.revision for key, held in (await self.get_many(keys)).items()}

    async def swap(self, held: Held, value: bytes) -> Held | None:
        """Write *value* if the key is still as *held* says, what it has left to live as it is; return what is there."""
        form = {"value": value.decode(), "prevIndex": str(held.revision), "prevValue": held.value.decode()}
        if held.life:
            form["ttl"] = str(held.life)
        status, answer = await self._ask("PUT", _path(held.key), form, also="; a change may still be under way")
        if status in (200, 201):
            return Held(held.key, value, answer["node"]["modifiedIndex"], held.life)
        return (await self.get_many([held.key], agreed=True)).get(held.key)

    async def purge(self) -> Sequence[str]:
        """Push earlier values out of the history of events; this interface cannot be asked for more."""
        path = _path(self.prefix + FLUSH)

        async def change(number: int) -> None:
            await self._ask("PUT", path, {"value": str(number)})

        await at_once(change, range(EVENTS), AT_ONCE)
        await self._ask("DELETE", path)
        return [
            f"made {EVENTS:,} changes to a key of ours, so that etcd's history of events holds no earlier value",
            "etcd's v2 interface can be asked for no more: what its logs and snapshots hold stays in them",
        ]

    async def places(self) -> Sequence[Place]:
        """Return the files that can be read, and what cannot be reached."""
        return await asyncio.to_thread(places_of, await self._machines(), self._directories)

    def __repr__(self) -> str:
        return f"<Etcd2Keys {','.join(self._target.endpoints)}{self.prefix}>"

    # Questions

    async def _get(self, key: str, *, agreed: bool = False) -> Mapping[str, Any] | None:
        """Return what etcd says of a key or folder; of a folder with what lies right in it."""
        status, answer = await self._ask("GET", _path(key) + ("?quorum=true" if agreed else ""))
        node: Mapping[str, Any] | None = answer["node"] if status == 200 else None
        return node

    async def _ask(
        self, method: str, path: str, form: Mapping[str, str] | None = None, also: str = ""
    ) -> tuple[int, Any]:
        """Return the status and the answer of whichever member gives one, asked again within the target's timeout.

        Args:
            method: of HTTP; what it does may be done twice.
            path: and query.
            form: the body.
            also: what to say besides where it may have been done, and no answer came.

        Raises:
            SourceUnavailable: no member answers.
            SourceRefused: etcd does not accept us.
            ConfigurationError: what answers does not speak this interface.
        """
        until = self._time() + self._target.timeout
        failed = 0
        while True:
            try:
                response = await self._http.request(method, self._url(path), data=form)
            except _LOST as error:
                _check_trust(error)
            else:
                answer = _judge(response.status_code, response.content)
                if answer is not None:
                    return response.status_code, answer
            failed += 1
            await self._next_member(failed, until, also)

    async def _nodes(self, folder: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield what lies right in *folder*, in order, each once, however often the connection breaks on the way."""
        path = _path(folder) + "?sorted=true"
        patience = httpx.Timeout(self._target.timeout, read=max(LISTING, self._target.timeout))
        last, failed, until = "", 0, self._time() + self._target.timeout
        while True:
            try:
                async with self._http.stream("GET", self._url(path), timeout=patience) as response:
                    if response.status_code == 200:
                        async with aclosing(_parse(response.aiter_bytes())) as nodes:
                            async for node in nodes:
                                if node["key"] > last:
                                    last, failed = node["key"], 0
                                    yield node
                        return
                    if _judge(response.status_code, await response.aread()) is not None:
                        return  # the folder is gone
            except _LOST as error:
                _check_trust(error)
            until = until if failed else self._time() + self._target.timeout
            failed += 1
            await self._next_member(failed, until)

    async def _next_member(self, failed: int, until: float, also: str = "") -> None:
        """Let the next question go to the next member, and wait where all have *failed*.

        Raises:
            SourceUnavailable: the time is over.
        """
        members = len(self._target.endpoints)
        self._current = (self._current + 1) % members
        pause = 0.0 if failed % members else PAUSE
        if self._time() + pause >= until:
            raise SourceUnavailable(f"etcd does not answer{also}: {_TRY_AGAIN}")
        await asyncio.sleep(pause)

    async def _machines(self) -> Sequence[Machine]:
        """Return the members of the cluster, those among them that the place names first."""
        named: dict[int, Machine] = {}
        others: dict[int, Machine] = {}
        for endpoint in self._target.endpoints:
            try:
                listed = await self._http.get(f"{self._scheme}://{endpoint}/v2/members")
                told = await self._http.get(f"{self._scheme}://{endpoint}/v2/stats/self")
                cluster = int(listed.headers["X-Etcd-Cluster-Id"], 16)
                own = int(told.json()["id"], 16)
                names = {int(each["id"], 16): each.get("name") or each["id"] for each in listed.json()["members"]}
            except (*_LOST, LookupError, ValueError, TypeError):
                continue  # it is told as a member that does not answer
            named[own] = Machine(cluster, own, f"etcd member {endpoint}", endpoint)
            others |= {other: Machine(cluster, other, f"etcd member {name}") for other, name in names.items()}
        if not named:
            raise SourceUnavailable(f"no member of etcd tells who belongs to its cluster: {_TRY_AGAIN}")
        return list((others | named).values())

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            raise SourceUnavailable("the source is closed")
        return self._client

    def _url(self, path: str) -> str:
        return f"{self._scheme}://{self._target.endpoints[self._current]}{path}"

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    def _make_client(self) -> httpx.AsyncClient:
        """Read our files, and return a client of them. It blocks on the disk."""
        target = self._target
        password = read_password(target.password_file) if target.password_file else target.password
        verify: ssl.SSLContext | bool = False
        if self._scheme == "https":
            try:
                verify = ssl.create_default_context(cafile=target.cacert)
                if target.cert is not None and target.key is not None:
                    verify.load_cert_chain(target.cert, target.key, password="")
            except ssl.SSLError as error:
                raise ConfigurationError(
                    "the files of etcd's cacert, cert and key are not PEM, or do not belong together"
                ) from error
            except OSError as error:
                raise ConfigurationError(
                    f"a file named for etcd (cacert, cert or key) cannot be read: {why_unread(error)}"
                ) from error
        return httpx.AsyncClient(
            auth=httpx.BasicAuth(target.user, password.reveal()) if target.user else None,
            verify=verify,
            timeout=target.timeout,
            limits=httpx.Limits(max_connections=2 * AT_ONCE),
            trust_env=False,
        )


def _judge(status: int, content: bytes) -> Any:
    """Return what etcd answers; None: another member, or this one in a moment, may know better.

    Raises:
        SourceRefused, SourceUnavailable, ConfigurationError: no member will.
    """
    if status in (401, 403) and _code(content) not in _OUTCOMES:
        raise SourceRefused("etcd does not accept the user and the password, or the user may not do this with the keys")
    if status >= 500:
        return None
    if status in (200, 201) or _code(content) in _OUTCOMES:
        try:
            return json.loads(content)
        except UNREADABLE:
            return None
    if status == 404:
        raise ConfigurationError("the server has no v2 interface: start etcd with --enable-v2, or say etcd:// for v3")
    raise SourceUnavailable(f"etcd answers with status {status} and error {_code(content)}: see its log")


def _code(content: bytes) -> int:
    """Return etcd's own code of an error, 0 if there is none."""
    try:
        code = json.loads(content)["errorCode"]
    except (*UNREADABLE, LookupError, TypeError):
        return 0
    return code if isinstance(code, int) else 0


def _check_trust(error: Exception) -> None:
    """Return if it was not the certificates that *error* is about.

    Raises:
        SourceRefused: it was.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            raise SourceRefused(
                "etcd's certificate is not accepted, or ours is not: see cacert, cert and key"
            ) from None
        cause = cause.__cause__ or cause.__context__


async def _parse(chunks: AsyncIterator[bytes]) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yield the nodes of one answer as they come.

    Raises:
        httpx.RemoteProtocolError: it ends too early, or is no such answer.
    """
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    read_one = json.JSONDecoder().raw_decode
    text, began, ended = "", False, False
    async for chunk in chunks:
        if ended:
            continue
        text += decode(chunk)
        if not began:
            if (at := text.find(_NODES)) < 0:
                continue
            text, began = text[at + len(_NODES) :], True
        at = 0
        while not ended:
            at += text[at : at + 1] == ","
            if text[at : at + 1] == "]":
                ended = True
                break
            try:
                node, at = read_one(text, at)
            except ValueError:  # it goes on in the next chunk
                break
            yield node
        text = text[at:]
        if len(text) > LONGEST_NODE:
            raise httpx.RemoteProtocolError("a node that does not end")
    if began and not ended:
        raise httpx.RemoteProtocolError("an answer that does not end")


def _held(node: Mapping[str, Any]) -> Held:
    value = node.get("value", "").encode(errors="surrogatepass")
    # What this interface does not show as it is cannot be moved: it is then no UTF-8 to us either.
    life = max(1, node.get("ttl", 0)) if "expiration" in node else 0
    return Held(node["key"], value.replace(_LOST_BYTES, b"\xff"), node["modifiedIndex"], life)


def _path(key: str) -> str:
    return "/v2/keys" + quote(key.rstrip("/"))


def _is_key(key: str) -> bool:
    """Whether *key* is one as etcd keeps it: other spellings would lead elsewhere."""
    return key.isprintable() and not {"", ".", ".."} & set(key[1:].split("/"))
