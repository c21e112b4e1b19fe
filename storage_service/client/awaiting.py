"""`AsyncStorageClient`: the operations as coroutines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from strongroom.models.base import ListModel, Model
from strongroom.storage_service.client import (
    access_operations,
    bulk_operations,
    key_operations,
    login_operations,
    operations,
    rule_operations,
)
from strongroom.storage_service.client.login import MOST_KEYS, Decrypts, LoggedIn, Signs, answer, asked, in_agent
from strongroom.storage_service.client.loops import LoopPools
from strongroom.storage_service.client.operations import Record
from strongroom.storage_service.client.place import UpstreamError
from strongroom.storage_service.client.retries import Effect, Operation, Outcome, Pause, Send, converse
from strongroom.storage_service.client.session import Session, present_as
from strongroom.storage_service.errors import Denied

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
T = TypeVar("T")


def _method(
    operation: Callable[P, Operation[T]],
) -> Callable[Concatenate["AsyncStorageClient", P], Coroutine[Any, Any, T]]:
    async def method(self: "AsyncStorageClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._carry_out(operation(*args, **kwargs))

    present_as(method, operation)
    return method


class AsyncStorageClient(Session[LoopPools, Callable[[float], Awaitable[None]]]):
    """The storage service, for event loops: ``async with AsyncStorageClient.from_home(DIR) as client: …``.

    Tasks may share one; each event loop has connections of its own.
    Every method raises the `ServiceError` that the service answers, and `Unavailable` when it does not answer;
    what each does is told in ``strongroom.storage_service.client.operations``.
    """

    _new_transport = LoopPools
    _sleep = staticmethod(asyncio.sleep)

    get = _method(operations.get)
    get_many = _method(operations.get_many)
    find_tag = _method(operations.find_tag)
    save = _method(operations.save)
    save_many = _method(operations.save_many)
    get_texts = _method(operations.get_texts)
    save_texts = _method(operations.save_texts)
    delete = _method(operations.delete)
    delete_many = _method(operations.delete_many)
    check_may = _method(operations.check_may)
    list_keys = _method(operations.list_keys)
    list_store_handlers = _method(operations.list_store_handlers)
    host_sources = _method(operations.host_sources)

    get_secret = _method(operations.get_secret)
    get_secrets = _method(operations.get_secrets)
    set_secret = _method(operations.set_secret)
    delete_secret = _method(operations.delete_secret)
    create_container = _method(operations.create_container)
    list_container = _method(operations.list_container)
    list_containers = _method(operations.list_containers)
    list_names = _method(operations.list_names)
    delete_container = _method(operations.delete_container)

    status = _method(operations.status)
    whoami = _method(operations.whoami)
    secrets_endpoint = _method(operations.secrets_endpoint)
    create_apikey = _method(operations.create_apikey)
    list_apikeys = _method(operations.list_apikeys)
    rotate_apikey = _method(operations.rotate_apikey)
    end_former_apikey = _method(operations.end_former_apikey)
    revoke_apikey = _method(operations.revoke_apikey)

    list_principals = _method(access_operations.list_principals)
    get_principal = _method(access_operations.get_principal)
    add_principal = _method(access_operations.add_principal)
    remove_principal = _method(access_operations.remove_principal)
    disable_principal = _method(access_operations.disable_principal)
    add_credential = _method(access_operations.add_credential)
    remove_credential = _method(access_operations.remove_credential)
    end_tokens = _method(access_operations.end_tokens)
    set_up = _method(access_operations.set_up)
    list_groups = _method(access_operations.list_groups)
    get_group = _method(access_operations.get_group)
    add_group = _method(access_operations.add_group)
    remove_group = _method(access_operations.remove_group)
    add_member = _method(access_operations.add_member)
    remove_member = _method(access_operations.remove_member)

    list_rules = _method(rule_operations.list_rules)
    get_rule = _method(rule_operations.get_rule)
    put_rule = _method(rule_operations.put_rule)
    remove_rule = _method(rule_operations.remove_rule)
    export_rules = _method(rule_operations.export_rules)
    import_rules = _method(rule_operations.import_rules)
    diff_rules = _method(rule_operations.diff_rules)
    try_rules = _method(rule_operations.try_rules)
    explain = _method(rule_operations.explain)
    who_can = _method(rule_operations.who_can)
    what_can = _method(rule_operations.what_can)
    get_cases = _method(rule_operations.get_cases)
    challenge = _method(login_operations.challenge)
    answer_challenge = _method(login_operations.answer_challenge)
    logout = _method(login_operations.logout)
    revoke_token = _method(login_operations.revoke_token)

    keyring = _method(key_operations.keyring)
    init_keyring = _method(key_operations.init_keyring)
    take_back_keyring = _method(key_operations.take_back_keyring)
    unlock = _method(key_operations.unlock)
    lock = _method(key_operations.lock)
    prepare_root = _method(key_operations.prepare_root)
    confirm_root = _method(key_operations.confirm_root)
    abandon_root = _method(key_operations.abandon_root)
    list_keysets = _method(key_operations.list_keysets)
    create_keyset = _method(key_operations.create_keyset)
    remove_keyset = _method(key_operations.remove_keyset)
    rotate_keyset = _method(key_operations.rotate_keyset)
    revert_keyset = _method(key_operations.revert_keyset)
    assign_keyset = _method(key_operations.assign_keyset)
    reencrypt = _method(key_operations.reencrypt)
    resume_keyset = _method(key_operations.resume_keyset)
    retire_generation = _method(key_operations.retire_generation)
    key_usage = _method(key_operations.key_usage)
    scan_key_usage = _method(key_operations.scan_key_usage)
    list_backups = _method(key_operations.list_backups)
    register_backup = _method(key_operations.register_backup)
    forget_backup = _method(key_operations.forget_backup)
    export_keyring = _method(key_operations.export_keyring)

    bulk_limit = _method(bulk_operations.bulk_limit)
    read_bulk = _method(bulk_operations.read_bulk)
    list_bulk = _method(bulk_operations.list_bulk)
    commit_bulk = _method(bulk_operations.commit_bulk)

    async def list(self, list_model: type[ListModel[M]], *, source: str = "") -> AsyncIterator[Record[M]]:
        """Yield every record of a list model (``Hosts``), by key, asking for a page when the one before is used up.

        Args:
            list_model: of what.
            source: the name of the storage handler whose hosts they are, where that is not the model's own.
        """
        after: str | None = None
        while True:
            records, after = await self._carry_out(operations.page(list_model, after, source=source))
            for record in records:
                yield record
            if after is None:
                return

    async def walk(self, container: str = "") -> AsyncIterator[str]:
        """Yield the names in *container* and in all containers within, in order, asking for a page at a time.

        Args:
            container: which one; "": all that the caller may list, by their whole names.

        Raises:
            NotFound: there is no such container.
            Denied: the caller may not list it, or no container at all.
        """
        walk = operations.Walk(container)
        while not walk.done:
            names = await self._carry_out(operations.walk_on(walk))
            for name in names:
                yield name

    @asynccontextmanager
    async def edit(self, model: type[M], key: str, *, source: str = "") -> AsyncIterator[M]:
        """Give the record out to be changed, and save it at the end if nobody else has changed it meanwhile.

        Nothing is saved if the block raises.

        Raises:
            NotFound: there is no such record.
            Changed: somebody else changed it; read it anew.
        """
        record = await self.get(model, key, source=source)
        yield record.model
        operations.check_key(record.model, key)
        await self.save(record.model, etag=record.etag)

    async def login(
        self, principal: str, key: Signs | Decrypts | None = None, *, lifetime: str = "", decrypt: bool = False
    ) -> LoggedIn:
        """Log in, and return the token: a client shows it that is made with it, ``…Client(url=…, token=…)``.

        Args:
            principal: who, with its kind: ``user:ann``.
            key: the private key; None: those that the SSH agent holds, in turn, until one is the principal's.
            lifetime: how long the token is to be good, as in ``10m``; the service may give less.
            decrypt: open a challenge with the key (RSA or EC, in a file), in the place of signing one.

        Raises:
            Denied: that is nobody's key, or nobody is called so: which of the two, the service tells nobody.
            Invalid: it is not spoken to at this address, as far as it knows.
            NoKey, AgentError: there is no key, or its agent does not sign.
            Misled: the service answered with another one's challenge; nothing was told to it.
        """
        keys: list[Signs] = [] if key is None else [key]
        if not keys:
            keys += (await asyncio.to_thread(in_agent))[:MOST_KEYS]
        for each in keys:
            question = asked(principal, self.address, each if decrypt else None)
            given = await self.challenge(question)
            proof = await asyncio.to_thread(answer, given, question, each, lifetime)
            try:
                return (await self.answer_challenge(proof)).by(each)
            except Denied:
                if each is keys[-1]:
                    raise
        raise AssertionError

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_transport:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _carry_out(self, operation: Operation[T]) -> T:
        talk = converse(operation, self._patience)
        outcome: Outcome | None = None
        try:
            while True:
                match talk.send(outcome):
                    case Send() as send:
                        outcome = await self._exchange(send)
                    case Pause(seconds):
                        outcome = None
                        await self._sleep(seconds)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _exchange(self, send: Send) -> Outcome:
        call = send.call
        request, request_id = self._request(call)
        try:
            return await self._transport.exchange(
                request, send.seconds, repeatable=call.effect is Effect.READ, request_id=request_id
            )
        except UpstreamError as error:
            return self._lost(call, error, request_id)
