"""The service, with one worker: who reads a large answer slowly keeps nobody else from one."""

import asyncio
import json
import secrets
from pathlib import Path

import pytest

from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient
from tests.raw_http import Client, request
from tests.serving.conftest import Served

PATIENCE = 60.0  # seconds: the test's own


@pytest.mark.parametrize("target", ["/secrets/?batch=get", "/bulk/read"])
async def test_a_slow_reader_gives_up_its_turn(product: dict[str, Served], target: str) -> None:
    """Who does not read a large answer loses it, and its connection, when another principal wants one and gets it."""
    served, container = product["socket"], secrets.token_hex(6)
    key = served.fields.decode().split("CUSTODIA_AUTH_KEY: ")[1].split("\r\n")[0]
    names = [f"{container}/{number}" for number in range(8)]
    assert isinstance(served.place, Path)
    async with AsyncStorageClient(socket=served.place, api_id="own", api_key=key) as client:
        await client.create_container(container)
        for name in names:
            await client.set_secret(container, name.rpartition("/")[2], "v" * wire.MAX_SECRET)
        keys = [await client.create_apikey(f"{container}-{number}", paths=["/"]) for number in range(2)]
    full = names if "batch" in target else ["secrets/" + name for name in names]
    body = json.dumps({"names": full}).encode()
    slow, other = (
        request(
            "POST", target, f"CUSTODIA_AUTH_ID: {each.api_id}", f"CUSTODIA_AUTH_KEY: {each.api_key.reveal()}", body=body
        )
        for each in keys
    )
    async with await Client.at(served.place) as held, await Client.at(served.place) as waiting:
        held.writer.write(slow)
        async with asyncio.timeout(PATIENCE):
            assert await held.reader.readexactly(12) == b"HTTP/1.1 200"  # it has the turn
        waiting.writer.write(other)
        got = 0
        async with asyncio.timeout(PATIENCE):
            while got < len(names) * wire.MAX_SECRET:
                piece = await waiting.reader.read(2**20)
                assert piece
                got += len(piece)
        assert len(await held.rest()) < len(names) * wire.MAX_SECRET
