"""The reader of Ansible inventories against Ansible itself: what ``ansible-inventory --list`` prints is what is read.

Ansible takes seconds to start, so that one process of it forks for every story.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.migration.sources.ansible.inventory_files import Files
from strongroom.migration.sources.ansible.yaml_file import Vaulted

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = ROOT / ".venv-ansible/bin/python"  # made by `make test`
PLACED: Final = ("inventory_file", "inventory_dir")  # which are where a host came from, and not what it is

LISTER: Final = """
import json, os, sys
from ansible.cli.inventory import InventoryCLI
import ansible.inventory.manager, ansible.vars.manager

for place, arguments in json.load(sys.stdin):
    if not os.fork():
        os.chdir(place)
        os.dup2(os.open("printed.json", os.O_WRONLY | os.O_CREAT), 1)
        try:
            InventoryCLI.cli_executor(["ansible-inventory", "--list", *arguments])
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.wait()
"""
OPTIONS: Final[Mapping[str, Sequence[str]]] = {"merged": (), "exported": ("--export",)}

STORIES: Final[Mapping[str, str]] = {
    "hosts of no group": """
-- hosts
mail.example.com
10.0.0.7
::1
""",
    "comments and blank lines": """
-- hosts
# a comment
; another

  web1  # behind a host
[web]   # behind a section
web2 a=1 # and b=2
""",
    "ranges": """
-- hosts
[web]
web[01:12].example.com
web[1:9:3]-x
db-[a:c]
n[8:10]m[0:1]
rack[A:C]
u[:2]
x[098:101]
""",
    "ports": """
-- hosts
web1:2222
web[2:3]:2200
[::1]:22
[fe80::a:1]:2022
foo_:22
v.example.com:5309 a=b
web1:99
""",
    "values of lines": """
-- hosts
web1 a=1 b=1.5 c=True d=text e='two words' f="x y" g=[1,2] h=None i=0x10 j=012 k=a=b l= m=1_000 n='"q"'
web2 path=/a/b#c win='C:\\dir' t=true s='1' o="{'a':1}" p=(1,2) q=b'x' r=... u=2j
""",
    "values of groups": """
-- hosts
[web]
web1
[web:vars]
a = 1
b = text # no comment
c = 5 # comment
d="quoted"
e=[1, 2]
f=
g=\\d
h=r'x'
i={'k': {'l': ('m',)}}
j = True # so
k=Trueish
l=None
""",
    "groups of groups": """
-- hosts
[web]
w1
[db]
d1
[south:children]
web
db
[world:children]
south
[world:vars]
a=world
b=world
c=world
[south:vars]
b=south
c=south
[web:vars]
c=web
[all:vars]
a=all
z=all
""",
    "children that are declared later": """
-- hosts
[top:children]
low
[low:vars]
a=1
[low]
h1
[top:vars]
a=0
b=0
""",
    "variables before the group": """
-- hosts
[web:vars]
a=1
[web]
w1
""",
    "siblings by name": """
-- hosts
[b]
h
[a]
h
[c]
h
[a:vars]
x=a
y=a
[b:vars]
x=b
[c:vars]
y=c
""",
    "siblings by priority": """
-- hosts
[a]
h
[b]
h
[a:vars]
ansible_group_priority=10
x=a
[b:vars]
x=b
""",
    "a longer way counts": """
-- hosts
[a:children]
b
c
[b:children]
c
[c]
h
[z]
h
[c:vars]
x=c
[z:vars]
x=z
[b:vars]
x=b
""",
    "ungrouped": """
-- hosts
lone
[web]
w1
[all]
lone2
[ungrouped:vars]
x=u
[all:vars]
x=all
""",
    "a host in a group after all": """
-- hosts
w1 a=1
[web]
w1 b=2
[ungrouped:vars]
x=u
""",
    "yaml": """
-- hosts.yml
all:
  hosts:
    mail: {ansible_host: 10.0.0.1}
  vars: {a: 1, t: yes, n: ~, f: 1.5, s: '1'}
  children:
    web:
      hosts:
        web[01:03]:
          b: [1, {c: d}]
      vars: {a: 2}
    db:
      hosts: db1
      children:
        replicas:
          hosts: {db2: , 'db3:2222': {x: y}}
""",
    "yaml with anchors and merges": """
-- hosts.yaml
x-common:
  vars: &v {a: 1, b: 2}
web:
  hosts:
    w1:
      <<: *v
      b: 3
  vars: *v
""",
    "yaml with text of many kinds": """
-- hosts.yml
web:
  hosts:
    w1:
      a: |
        two
        lines
      b: >
        folded
        text
      c: !unsafe '{{ no template }}'
      d: 0o14
      e: 014
      f: 1e3
      g: off
      h: '2024'
      i: 2024
""",
    "json as yaml": """
-- hosts.json
{"web": {"hosts": {"w1": {"a": 1, "t": true, "n": null}}, "vars": {"b": [1]}}}
""",
    "no suffix, and yaml": """
-- hosts
web:
  hosts:
    w1: {a: 1}
""",
    "a vaulted value": """
-- hosts.yml
web:
  hosts:
    w1:
      p: !vault |
          $ANSIBLE_VAULT;1.1;AES256
          62313365396662343061393464336163383764373764613633653634306231386433626436623361
          6134333665353966363534333632666535333761666131620a663537646436643839616531643561
      q: 1
""",
    "files of groups and hosts": """
-- hosts
[web]
w1 a=host b=host
w2
[south:children]
web
[web:vars]
c=inventory
d=inventory
[all:vars]
d=all
-- group_vars/all.yml
a: all file
c: all file
e: all file
-- group_vars/web
c: web file
-- group_vars/south.json
{"e": "south file", "f": 1}
-- host_vars/w1.yaml
b: host file
-- host_vars/w2/a.yml
b: one
g: one
-- host_vars/w2/b
g: two
-- host_vars/w2/c.txt
g: ignored
-- host_vars/w2/.d.yml
g: ignored
-- host_vars/w2/e.yml~
g: ignored
-- host_vars/w2/deep/a.yml
h: deep
""",
    "one file of several that could be": """
-- hosts
w1
-- host_vars/w1
a: bare
-- host_vars/w1.yml
a: yml
-- host_vars/w1.json
{"a": "json"}
""",
    "an empty file of variables": """
-- hosts
w1 a=1
-- host_vars/w1.yml
---
# nothing
""",
    "files beside the playbooks": """
-- hosts
[web]
w1 a=inventory h=inventory
-- group_vars/all
a: 1
b: 1
c: 1
d: 1
-- group_vars/web
b: 2
c: 2
e: 2
-- host_vars/w1
h: 3
i: 3
-- play/group_vars/all.yml
c: 4
d: 4
f: 4
-- play/group_vars/web.yml
e: 5
-- play/host_vars/w1.yml
i: 6
""",
    "a directory": """
-- inv/01-hosts
[web]
w1 a=one b=one
-- inv/02-more.yml
web: {hosts: {w1: {b: two}, w2: }, vars: {g: yaml}}
-- inv/03-last.ini
[web:vars]
g=ini
[db]
d1
-- inv/deeper/hosts
[web]
w3
-- inv/.hidden
h1
-- inv/old.bak
h2
-- inv/notes.txt
h3
-- inv/hosts~
h4
-- inv/a.cfg
h5
-- inv/group_vars/web.yml
g: file
-- inv/host_vars/w3.yml
x: 3
-- group_vars/web.yml
g: not beside the inventory
""",
    "unicode": """
-- hosts
höst ansible_user=jürgen
[gruppe_ä:children]
[gruppe_ä]
h2 x='東京'
""",
    "windows line ends": """
-- hosts
[web]\r
w1 a=1\r
[web:vars]\r
b=2\r
""",
}


def written(directory: Path, story: str) -> Path:
    """Write the files of a story, each below a line with its name; return the inventory, which is the first."""
    names: list[str] = []
    for name, text in re.findall(r"^-- (.+)\n((?:(?!-- ).*\n)*)", story, re.MULTILINE):
        names.append(name)
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    return directory / Path(names[0]).parts[0]


@dataclass
class Told:
    """A story that lies in files, and what Ansible reads there, with each of the `OPTIONS`."""

    inventory: Path
    playbooks: Path | None
    listings: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Told]:
    """Every story, as Ansible reads it."""
    assert PYTHON.exists(), "Ansible is missing: make .venv-ansible/complete"
    stories: dict[str, Told] = {}
    asked: list[tuple[str, list[str]]] = []
    for number, (name, story) in enumerate(STORIES.items()):
        directory = tmp_path_factory.mktemp(f"story{number}-")
        inventory = written(directory, story)
        playbooks = directory / "play" if (directory / "play").exists() else None
        stories[name] = Told(inventory, playbooks, {})
        for option, said in OPTIONS.items():
            (directory / option).mkdir()
            beside = ["--playbook-dir", str(playbooks)] if playbooks else []
            asked.append((str(directory / option), ["-i", str(inventory), *said, *beside]))
    home = tmp_path_factory.mktemp("home")
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "ANSIBLE_LOCAL_TEMP": str(home)}
    done = subprocess.run(
        [PYTHON, "-c", LISTER],
        input=json.dumps(asked),
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, (place, _) in zip([name for name in STORIES for _ in OPTIONS], asked, strict=True):
        printed = Path(place, "printed.json").read_text()
        stories[name].listings[Path(place).name] = json.loads(printed)
    return stories


def resolved(inventory: Path, playbooks: Path | None) -> dict[str, dict[str, Any]]:
    """Return what we read: every host's variables."""
    files = Files(inventory, playbooks)
    read = files.read()
    assert read.problems == []
    return {host: read.variables(host, files.host(host)[0]) for host in read.hosts}


def plain(value: Any) -> Any:
    """Return a value as JSON has it, whichever side it comes from."""
    match value:
        case {"__ansible_vault": text}:
            return ["vaulted", text.strip()]
        case {"__ansible_unsafe": text}:
            return text
        case Vaulted(text):
            return ["vaulted", text.strip()]
        case dict():
            return {str(name): plain(each) for name, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case _:
            return value


@pytest.mark.parametrize("story", STORIES)
def test_resolved_as_ansible_does(told: Mapping[str, Told], story: str) -> None:
    """Every host has the variables that Ansible gives it, and there is no other host."""
    one = told[story]
    listing = one.listings["merged"]

    variables = {host: plain(said) for host, said in resolved(one.inventory, one.playbooks).items()}
    expected = {
        host: plain({name: value for name, value in said.items() if name not in PLACED})
        for host, said in listing["_meta"]["hostvars"].items()
    }
    assert {host: said for host, said in variables.items() if said} == expected
    assert set(variables) == hosts_of(listing)
    assert variables


def hosts_of(listing: Mapping[str, Any]) -> set[str]:
    """Return the hosts of all groups."""
    return {host for name, group in listing.items() if name != "_meta" for host in group.get("hosts", ())}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("story", STORIES)
def test_what_ansible_prints_is_read(told: Mapping[str, Told], story: str, option: str, tmp_path: Path) -> None:
    """The output of ansible-inventory --list, with and without --export, says the same as the inventory it is of."""
    one = told[story]
    printed = tmp_path / "inventory.json"
    printed.write_text(json.dumps(one.listings[option], indent=4))

    before = {host: plain(said) for host, said in resolved(one.inventory, one.playbooks).items()}
    after = {host: plain(said) for host, said in resolved(printed, None).items()}
    assert after == before
