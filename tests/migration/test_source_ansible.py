"""Ansible inventories as estates: what a host becomes, what is a fault, and what is refused."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from strongroom.migration.digest import Digest
from strongroom.migration.records import Item
from strongroom.migration.sources import open_source
from strongroom.migration.sources.ansible import yaml_file
from strongroom.migration.sources.ansible.inventory import ALL, MAX_HOSTS, Inventory, take_host
from strongroom.migration.sources.ansible.source import Ansible
from strongroom.migration.sources.base import Scrubbable
from strongroom.migration.sources.files import Unfit
from strongroom.storage_service.errors import ConfigurationError

KEY: Final = "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n"
OTHER: Final = KEY.replace("MC4C", "MC4D")
VAULT: Final = "$ANSIBLE_VAULT;1.1;AES256\n62313365396662343061393464336163\n"


class Story(NamedTuple):
    """Files, and of each item what it becomes: names and a part of the last value, or a part of a fault."""

    files: Mapping[str, str]
    items: Mapping[str, Sequence[str] | str]
    options: Mapping[str, Sequence[str]] = {}


STORIES: Final = {
    "a host": Story({"hosts": "w1\n"}, {"host w1": ["hosts/w1", '"w1"']}),
    "an address": Story({"hosts": "w1 ansible_host=10.0.0.7\n"}, {"host w1": ["hosts/10.0.0.7", '"10.0.0.7"']}),
    "a key file beside the inventory": Story(
        {"hosts": "w1 ansible_ssh_private_key_file=keys/a.pem ansible_user=core\n", "keys/a.pem": KEY},
        {"host w1": ["hosts/w1", "secrets/hosts/w1", base64.b64encode(KEY.encode()).decode()]},
    ),
    "a key file beside the playbooks": Story(
        {"hosts": "w1 ansible_ssh_private_key_file=a.pem\n", "a.pem": OTHER, "play/a.pem": KEY},
        {"host w1": ["hosts/w1", "secrets/hosts/w1", base64.b64encode(KEY.encode()).decode()]},
        {"playbook_dir": ["play"]},
    ),
    "a key in a variable": Story(
        {"hosts.yml": f"web: {{hosts: {{w1: {{ansible_ssh_private_key: {json.dumps(KEY)}}}}}}}\n"},
        {"host w1": ["hosts/w1", "secrets/hosts/w1", base64.b64encode(KEY.encode()).decode()]},
    ),
    "the last of two names": Story(
        {"hosts": "w1 ansible_ssh_host=h2 ansible_host=h1 ansible_ssh_user=b ansible_user=a\n"},
        {"host w1": ["hosts/h2", "secrets/hosts/h2", '"remote_user":"b"']},
    ),
    "a user in the host's name": Story(
        {"hosts": "pi@192.0.2.10 ansible_ssh_private_key_file=a.pem\n", "a.pem": KEY},
        {"host pi@192.0.2.10": ["hosts/192.0.2.10", "secrets/hosts/192.0.2.10", '"remote_user":"pi"']},
    ),
    "a user in the address, and another": Story(
        {"hosts": "w1 ansible_host=pi@h1 ansible_user=core ansible_ssh_private_key_file=a.pem\n", "a.pem": KEY},
        {"host w1": ["hosts/h1", "secrets/hosts/h1", '"remote_user":"core"']},
    ),
    "nobody in an address": Story({"hosts": "w1 ansible_host=@h1\n"}, {"host w1": "user@host"}),
    "a user of those that name none": Story(
        {"hosts": "w1 ansible_ssh_private_key_file=a.pem\n", "a.pem": KEY},
        {"host w1": ["hosts/w1", "secrets/hosts/w1", '"remote_user":"core"']},
        {"remote_user": ["core"]},
    ),
    "passwords": Story(
        {
            "hosts": "[web]\nw1 ansible_password=hunter2 ansible_user=me\n",
            "group_vars/web.json": '{"ansible_become_pass": 12345, "db_pw": "x"}',
        },
        {
            "host w1": ["hosts/w1", "secrets/hosts/w1", '"remote_user":"me"'],
            "host w1, ansible_password": ["secrets/ansible/w1/ansible_password", "hunter2"],
            "host w1, ansible_become_pass": ["secrets/ansible/w1/ansible_become_pass", "12345"],
            "host w1, db_pw": ["secrets/ansible/w1/db_pw", "x"],
        },
        {"secret": ["db_pw"]},
    ),
    "another container": Story(
        {"hosts": "w1 ansible_password=x\n"},
        {"host w1": ["hosts/w1", "w1"], "host w1, ansible_password": ["secrets/old/estate/w1/ansible_password", "x"]},
        {"container": ["old/estate"]},
    ),
    "a vaulted password beside a good host": Story(
        {"hosts.yml": f"web: {{hosts: {{w1: {{ansible_password: !vault {json.dumps(VAULT)}}}}}}}\n"},
        {"host w1": ["hosts/w1", "w1"], "host w1, ansible_password": "ansible_password is encrypted by ansible-vault"},
    ),
    "a vaulted user": Story(
        {"hosts": '{"web": {"hosts": {"w1": {"ansible_user": {"__ansible_vault": "$ANSIBLE_VAULT;1.1"}}}}}'},
        {"host w1": "ansible_user is encrypted by ansible-vault"},
    ),
    "templates": Story(
        {"hosts": "w1 ansible_host='{{ inventory_hostname }}.example.com'\nw2 ansible_password='{{ vault_pw }}'\n"},
        {
            "host w1": "ansible_host is a template",
            "host w2": ["hosts/w2", "w2"],
            "host w2, ansible_password": "ansible_password is a template",
        },
    ),
    "what only looks like a template": Story(
        {"hosts.yml": "web: {hosts: {w1: {ansible_password: !unsafe '{{x'}}}\n"},
        {"host w1": ["hosts/w1", "w1"], "host w1, ansible_password": ["secrets/ansible/w1/ansible_password", "{{x"]},
    ),
    "files that are encrypted as a whole": Story(
        {"hosts": "w1\n", "group_vars/all/vault.yml": VAULT, "host_vars/w1/vault": VAULT},
        {
            "file group_vars/all/vault.yml": "encrypted as a whole",
            "file host_vars/w1/vault": "encrypted as a whole",
            "host w1": ["hosts/w1", "w1"],
        },
    ),
    "a file of a host that is no YAML": Story(
        {"hosts": "w1\nw2\n", "host_vars/w1.yml": "a: [hunter2\n"},
        {"host w1": "host_vars/w1.yml is not YAML that can be read (line 2", "host w2": ["hosts/w2", "w2"]},
    ),
    "key files that cannot be taken": Story(
        {
            "hosts": "w1 ansible_ssh_private_key_file=none.pem\nw2 ansible_ssh_private_key_file=.\n"
            "w3 ansible_ssh_private_key_file=a.pub\nw4 ansible_ssh_private_key_file=[1]\n",
            "a.pub": "ssh-rsa AAAA",
        },
        {
            "host w1": "its key file is missing",
            "host w2": "its key file is not a regular file",
            "host w3": "its key file holds a public key",
            "host w4": "ansible_ssh_private_key_file must be text",
        },
    ),
    "lines that cannot be read": Story(
        {
            "hosts": "w1\nw2 hunter2\nw3 a='b\n[web]\nw[1\nw[3:1:x]\nw[01:9]\nw:\n"
            "[web:vars]\nhunter2\n[web:children]\nlater\nweb\n"
        },
        {
            "hosts:line 2": "name=value",
            "hosts:line 3": "a quote",
            "hosts:line 5": "a range",
            "hosts:line 6": "the step",
            "hosts:line 7": "as wide",
            "hosts:line 8": "the name of a host",
            "hosts:line 10": "name=value",
            "hosts:line 12": "declared nowhere",
            "hosts:line 13": "child of itself",
            "host w1": ["hosts/w1", "w1"],
        },
    ),
    "parts of YAML that cannot be read": Story(
        {"hosts.yml": "web: {hosts: {w1: , 7: , w2: x}, children: {web: , db: [a]}, vars: [a]}\nnone: 7\n"},
        {
            "host w1": ["hosts/w1", "w1"],
            "hosts.yml:host 7": "in quotes",
            "hosts.yml:host w2": "variables by their names",
            "hosts.yml:group web": "child of itself",
            "hosts.yml:group db": "must have a name",
            "hosts.yml:group web, vars": "a mapping",
            "hosts.yml:group none": "must have a name",
        },
    ),
    "names that no name allows": Story(
        {"hosts": "höst ansible_password=x\nb/c\n"},
        {
            "host h\\xf6st": "address must be",
            "host h\\xf6st, ansible_password": "do not allow",
            "host b/c": "address must be",
        },
    ),
    "what ansible-inventory prints": Story(
        {
            "hosts.json": '{"_meta": {"hostvars": {"w1": {"ansible_user": "a"}, "w2": 7}},'
            ' "all": {"children": ["web", "x"]}, "x": {"hosts": "w3"}, "y": [],'
            ' "web": {"hosts": ["w1"], "vars": {"ansible_host": "h1"}}}'
        },
        {
            "host w1": ["hosts/h1", "secrets/hosts/h1", '"remote_user":"a"'],
            "hosts.json:host w2": "must be an object",
            "hosts.json:group x, hosts": "must be a list",
            "hosts.json:group y": "must be an object",
        },
    ),
}


def written(directory: Path, files: Mapping[str, str]) -> Path:
    """Write files; return the first."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    return directory / next(iter(files))


def source_of(place: Path, options: Mapping[str, Sequence[str]]) -> Ansible:
    here = {
        name: [str(place.parent / each) for each in said] if name == "playbook_dir" else said
        for name, said in options.items()
    }
    source = open_source("ansible", str(place), here)
    assert isinstance(source, Ansible)
    return source


async def read(place: Path, **options: Sequence[str]) -> dict[str, Item]:
    """Return the items by their ids."""
    source = source_of(place, options)
    await source.open(Digest())
    items = [item async for item in source.items()]
    marks = await source.marks([item.id for item in items])
    assert marks == {item.id: item.mark for item in items}
    assert len({item.id for item in items}) == len(items)
    return {item.id: item for item in items}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
async def test_items(story: Story, tmp_path: Path) -> None:
    """Hosts and passwords become records; what cannot is a fault that says why, and hides nothing else."""
    found = await read(written(tmp_path, story.files), **story.options)

    assert set(found) == set(story.items)
    for id_, expected in story.items.items():
        item = found[id_]
        assert "hunter2" not in f"{item.fault} {item.notes} {item}"
        if isinstance(expected, str):
            assert expected in item.fault
            assert item.records == ()
            continue
        assert item.fault == ""
        assert [record.name for record in item.records] == list(expected[:-1])
        value = item.records[-1].value.reveal()
        if item.records[-1].name.startswith("secrets/hosts/"):
            value = base64.b64decode(value).decode()
        assert expected[-1] in value


async def test_notes(tmp_path: Path) -> None:
    """What stays behind is told by name, apart what looks like a secret, and that others can read a key file."""
    place = written(
        tmp_path,
        {
            "inventory": "w1 ansible_port=22 db_pass=hunter2 root_pw=x wpa_psk=x compass=n"
            " ansible_ssh_private_key_file=a.pem\n"
            "w2 ansible_connection=local ansible_user=me\n[w:vars]\n[w]\n",
            "a.pem": KEY,
        },
    )
    (tmp_path / "a.pem").chmod(0o644)

    found = await read(place)

    assert list(found["host w1"].notes) == [
        "variables that look like secrets stay behind: db_pass, root_pw, wpa_psk; move them with -o secret=NAME",
        "variables that stay behind: ansible_port, compass",
        "others than its owner can read its key file: they may know the key, so replace it",
        "it names no user: root is taken; say another with -o remote_user=…",
    ]
    assert "ansible_connection says that it is not reached by SSH" in found["host w2"].notes


REFUSED: Final[Mapping[str, tuple[Mapping[str, str], str]]] = {
    "a script": ({"hosts.py": "#!/usr/bin/env python3\nprint('hunter2')\n"}, "ansible-inventory --list --export"),
    "a program": ({"hosts": "\x7fELF"}, "ansible-inventory --list --export"),
    "TOML": ({"hosts.toml": "[web]\n"}, "ansible-inventory --list --export"),
    "a plugin": ({"aws_ec2.yml": "plugin: amazon.aws.aws_ec2\n"}, "ansible-inventory --list --export"),
    "an encrypted inventory": ({"hosts": VAULT}, "encrypted as a whole"),
    "not YAML": ({"hosts.yml": "web: [hunter2\n"}, "not YAML that can be read .line 2"),
    "no groups": ({"hosts.yml": "- hunter2\n"}, "holds no groups"),
    "a section that is none": ({"hosts": "[hunter2 web]\nw1\n"}, "line 1 is not a section"),
    "a section of an unknown kind": ({"hosts": "w1\n[web:hunter2]\nw1\n"}, "line 2 is a section of an unknown kind"),
    "a list without variables": ({"hosts.json": '{"_meta": {}, "web": {"hosts": ["w1"]}}'}, "without hostvars"),
    "a group's file that is no YAML": ({"hosts": "w1\n", "group_vars/all.yml": "a: {hunter2\n"}, "all.yml is not YAML"),
    "a group's file that is a list": (
        {"hosts": "w1\n", "group_vars/all.yml": "[hunter2]\n"},
        "no variables by their names",
    ),
}


@pytest.mark.parametrize(("files", "reason"), REFUSED.values(), ids=REFUSED)
async def test_refused(files: Mapping[str, str], reason: str, tmp_path: Path) -> None:
    """What cannot be read as a whole is refused with what to do, and nothing of it is repeated or executed."""
    with pytest.raises(ConfigurationError, match=reason) as caught:
        await read(written(tmp_path, files))

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_no_inventory(tmp_path: Path) -> None:
    """A place where nothing is, and playbooks that are nowhere, are refused."""
    with pytest.raises(ConfigurationError, match="not an inventory"):
        await read(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="playbook_dir"):
        await read(written(tmp_path, {"hosts": "w1\n"}), playbook_dir=["none"])


async def test_keys_in_an_inventory_directory_are_no_inventory(tmp_path: Path) -> None:
    """A key that lies among the files of an inventory is told of, and read as nothing else."""
    written(tmp_path, {"inv/hosts": "w1\n", "inv/keys/a": KEY})

    found = await read(tmp_path / "inv")

    assert set(found) == {"host w1"}
    assert found["host w1"].notes == ("keys/a is a key and no inventory",)


async def test_marks_follow_every_file(tmp_path: Path) -> None:
    """A mark changes with whatever says something of its item, in whichever file, and with nothing else."""
    inventory = "[web]\nw1 ansible_ssh_private_key_file=a.pem\nw2\n"
    place = written(tmp_path, {"hosts": inventory, "a.pem": KEY, "group_vars/web.yml": "ansible_user: a\n"})
    source = source_of(place, {})
    await source.open(Digest())
    ids = ["host w1", "host w2"]
    before = await source.marks(ids)

    async def changed(files: Mapping[str, str]) -> list[bool]:
        nonlocal before
        written(tmp_path, files)
        after = await source.marks(ids)
        told = [before[each] != after[each] for each in ids]
        before = after
        return told

    assert await changed({"a.pem": OTHER}) == [True, False]
    assert await changed({"hosts": f"{inventory}w2 ansible_host=10.0.0.2\n"}) == [False, True]
    assert await changed({"group_vars/web.yml": "ansible_user: bb\n"}) == [True, True]
    assert await changed({"host_vars/w2.yml": "ansible_user: c\n"}) == [False, True]
    assert await changed({"group_vars/all.yml": "ntp: x\n"}) == [True, True]  # what stays behind is another
    assert await changed({"README.md": "x\n"}) == [False, False]


def test_a_range_has_an_end() -> None:
    """A few characters that stand for more hosts than anybody has are a problem, and soon."""
    inventory = Inventory()

    with pytest.raises(Unfit, match=f"more than {MAX_HOSTS}"):
        take_host(inventory, "n[1:999999999].example.com", ALL, {})

    assert len(inventory.hosts) == MAX_HOSTS


def test_it_is_not_scrubbable(tmp_path: Path) -> None:
    """An inventory is people's to clean; the source does not offer it."""
    assert not isinstance(source_of(tmp_path / "hosts", {}), Scrubbable)


# YAML from anybody.

BOMB: Final = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN: Final = "a0: &a0 {x: 1}\n" + "".join(f"a{at}: &a{at} {{x: *a{at - 1}}}\n" for at in range(1, 100))
HOSTILE: Final[Mapping[str, tuple[str, str]]] = {
    "aliases without end": (BOMB, "stands for more than"),
    "merges without end": (
        BOMB.replace("[", "{<<: [").replace("]", "]}").replace("[x, x, x, x, x, x, x, x, x, x]", "[{y: 1}]"),
        "stands for more",
    ),
    "brackets without end": ("[" * 100_000, "nested deeper"),
    "a chain of aliases": (CHAIN, "nested deeper"),
    "what holds itself": ("a: &a [*a]\n", "holds itself"),
    "a tag of Python's": ("a: !!python/object/apply:os.system ['hunter2']\n", "not YAML that can be read .line 1"),
    "an unknown tag": ("a: !hunter2 x\n", "not YAML that can be read .line 1"),
    "a vaulted list": ("a: !vault [hunter2]\n", "not YAML"),
    "two documents": ("a: 1\n---\nb: hunter2\n", "not YAML"),
    "an alias of nothing": ("a: *hunter2\n", "not YAML"),
    "a key that is a list": ("? [hunter2]\n: 1\n", "not YAML"),
    "a control character": ("a: hunter2\x01\n", "not YAML"),
    "no UTF-8": ("a: \udcff\n", "not YAML"),
    "a date that is none": ("a: 2024-99-99\n", "not YAML"),
}


@pytest.mark.parametrize(("text", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml(text: str, reason: str) -> None:
    """What would stand for too much, or make anything but data, is refused and not repeated."""
    with pytest.raises(Unfit, match=reason) as caught:
        yaml_file.load(text.encode(errors="surrogateescape"))

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or "hunter2" not in str(caught.value.__context__)
