"""Lines of JSON as an estate: what a line becomes, what is a fault, and what scrubbing leaves of a line."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from strongroom.migration.digest import Digest
from strongroom.migration.records import Item
from strongroom.migration.sources import open_source
from strongroom.migration.sources.tables.rows import MAX_ROW, RowSource
from strongroom.models import MODELS, SecretModel

KEY: Final = "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n"
ENCODED: Final = base64.b64encode(KEY.encode()).decode()


class Story(NamedTuple):
    """A line, and what it becomes: names and a part of the last value, or a part of a fault; and what is noted."""

    line: str
    becomes: Sequence[str] | str
    notes: Sequence[str] = ()
    scrubbed: str | None = None  # None: nothing of it is a secret


STORIES: Final = {
    "a host": Story('{"model":"Host","address":"h1","cpus":4}', ["hosts/h1", '"cpus":4']),
    "a host of old": Story(
        f'{{"model":"Host","ssh_priv_key":"{ENCODED}" , "address":"h1","remote_user":"core", "os":"fedora"}}',
        ["hosts/h1", "secrets/hosts/h1", ENCODED],
        scrubbed='{"model":"Host", "address":"h1", "os":"fedora"}',
    ),
    "a host of old without a key": Story(
        '{"model":"Host","address":"h1","ssh_priv_key":"","remote_user":""}',
        ["hosts/h1", '"h1"'],
        scrubbed='{"model":"Host", "address":"h1"}',
    ),
    "credentials": Story(
        json.dumps({"model": "HostCreds", "address": "h1", "ssh_priv_key": KEY}),
        ["secrets/hosts/h1", ENCODED],
        scrubbed='{"model": "HostCreds", "address": "h1"}',
    ),
    "credentials that were scrubbed": Story('{"model":"HostCreds","address":"h1"}', [], ["holds no secret"]),
    "credentials of a container manager": Story(
        '{"model":"ContainerManagerCreds","token":"hunter2","name":"c1","username":"me"}',
        ["secrets/container_managers/c1", "hunter2"],
        scrubbed='{"model":"ContainerManagerCreds", "name":"c1"}',
    ),
    "a cluster": Story('{"model":"Cluster","name":"c1","hostset":["h1"]}', ["clusters/c1", '["h1"]']),
    "a secret": Story(
        '{"name":"secrets/a/b","value":"v\\u00e9\\n"}', ["secrets/a/b", "vé\n"], scrubbed='{"name":"secrets/a/b"}'
    ),
    "a secret that was scrubbed": Story('{"name":"secrets/a/b"}', [], ["holds no value"]),
    "an empty secret": Story('{"name":"secrets/a/b","value":""}', [], ["holds no value"], '{"name":"secrets/a/b"}'),
    "bytes that are text": Story(
        '{"name":"secrets/a/b","value_base64":"aGk="}', ["secrets/a/b", "hi"], scrubbed='{"name":"secrets/a/b"}'
    ),
    "bytes that are none": Story(
        '{"value_base64":"/wA=","name":"secrets/a/b"}', ["secrets/a/b", "/wA="], scrubbed='{"name":"secrets/a/b"}'
    ),
    "fields that stay behind": Story(
        '{"model":"Host","address":"h1","größe":1,"rack":{"a":[1,"}"]}}',
        ["hosts/h1", '"h1"'],
        ["fields that stay behind: gr\\xf6\\xdfe, rack"],
    ),
    "a byte order mark": Story('\ufeff{"model":"Host","address":"h1"}', ["hosts/h1", '"h1"']),
    "blanks around": Story(
        '  {"name":"secrets/a/b" , "value" : "x" }\r', ["secrets/a/b", "x"], scrubbed='  {"name":"secrets/a/b"}\r'
    ),
    "no JSON": Story('{"name":"secrets/a/b","value":"hunter2', "is not JSON"),
    "a member twice": Story('{"name":"secrets/a/b","value":"x","value":"hunter2"}', "appears twice"),
    "no object": Story('["hunter2"]', "must be an object"),
    "neither model nor name": Story('{"address":"h1"}', "neither a model nor a name"),
    "no such model": Story('{"model":"Rack","address":"h1"}', "its model is not one of those"),
    "a model of answers": Story('{"model":"HostStatus","type":"x"}', "its model is not one of those"),
    "a model that is a list": Story('{"model":["Host"]}', "its model is not one of those"),
    "a wrong field": Story('{"model":"Host","address":"h1","cpus":"hunter2"}', "cpus must be"),
    "a key of a wrong type": Story('{"model":"Host","address":"h1","ssh_priv_key":7}', "must be text"),
    "a key that is none": Story(
        '{"model":"HostCreds","address":"h1","ssh_priv_key":"hunter2!"}', "neither PEM nor base64"
    ),
    "a masked secret": Story('{"model":"ContainerManagerCreds","name":"c1","token":"********"}', "mask"),
    "a token among options": Story(
        '{"model":"ContainerManagerConfig","name":"c1","options":{"token":"hunter2"}}', "belongs in the secret record"
    ),
    "a secret at the top": Story('{"name":"secrets/a","value":"hunter2"}', "lies in no container"),
    "a plain name": Story('{"name":"hosts/h1","value":"hunter2"}', "must begin with secrets/"),
    "a name that is none": Story('{"name":"secrets/a/../b","value":"hunter2"}', "do not allow"),
    "a value of a wrong type": Story('{"name":"secrets/a/b","value":7}', "must be text"),
    "two values": Story('{"name":"secrets/a/b","value":"x","value_base64":"eA=="}', "both value and value_base64"),
    "not base64": Story('{"name":"secrets/a/b","value_base64":"hunter2!"}', "not base64"),
    "half a character": Story('{"name":"secrets/a/b","value":"\\ud800"}', "half of a surrogate pair"),
    "a line without end": Story(f'{{"name":"secrets/a/b","value":"{"x" * MAX_ROW}"}}', "the line is over"),
}


async def opened(path: Path, digest: Digest | None = None) -> RowSource:
    source = open_source("jsonl", str(path), {})
    assert isinstance(source, RowSource)
    await source.open(digest or Digest())
    return source


async def read(path: Path) -> list[Item]:
    return [item async for item in (await opened(path)).items()]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
async def test_lines(story: Story, tmp_path: Path) -> None:
    """A line becomes records, or a fault that repeats nothing of it; scrubbed, it has only what is plain of it."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(f"\n{story.line}\n".encode(errors="surrogatepass"))
    path.chmod(0o600)

    (item,) = await read(path)

    assert item.id == "a.jsonl:line 2"
    assert "hunter2" not in f"{item.fault} {item.notes} {item}"
    if isinstance(story.becomes, str):
        assert story.becomes in item.fault
        assert item.records == ()
        return
    assert item.fault == ""
    assert [record.name for record in item.records] == list(story.becomes[:-1])
    assert len(item.notes) == len(story.notes)
    assert all(expected in str(note) for expected, note in zip(story.notes, item.notes, strict=True))
    for record in item.records[-1:]:
        value = record.value.reveal()
        models = [model for model in MODELS.values() if issubclass(model, SecretModel)]
        if any(record.name.startswith(model.prefix()) for model in models):
            value = base64.b64decode(value).decode()
        assert story.becomes[-1] in value
    source = await opened(path)
    originals = list((await source.originals([item.id])).values())
    assert await source.scrub(originals) == [True]
    assert path.read_bytes().decode() == f"\n{story.line if story.scrubbed is None else story.scrubbed}\n"
    assert await source.restore(originals) == [True]
    assert path.read_bytes().decode() == f"\n{story.line}\n"


async def test_an_export_of_records_is_an_estate(tmp_path: Path) -> None:
    """A secret record that is written by its name and its stored value moves as it is."""
    path = tmp_path / "a.jsonl"
    first = tmp_path / "b.jsonl"
    first.write_text(json.dumps({"model": "HostCreds", "address": "h1", "ssh_priv_key": ENCODED}))
    ((record,),) = [item.records for item in await read(first)]
    path.write_text(json.dumps({"name": record.name, "value": record.value.reveal()}))

    ((again,),) = [item.records for item in await read(path)]

    assert again == record


async def test_patterns_are_as_they_lie_there(tmp_path: Path) -> None:
    """What is searched for after scrubbing are the bytes of the file, escapes and all, and not the user."""
    path = tmp_path / "a.jsonl"
    line = json.dumps({"model": "Host", "address": "h1", "ssh_priv_key": KEY, "remote_user": "root"})
    path.write_text(line)
    source = await opened(path)
    (original,) = (await source.originals(["a.jsonl:line 1"])).values()

    assert list(source.search_patterns(original)) == [KEY.replace("\n", "\\n").encode()]
    assert source.search_patterns(original)[0] in path.read_bytes()
