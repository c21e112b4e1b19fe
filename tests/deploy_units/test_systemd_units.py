"""systemd's own checkers accept the units, and units, settings and command agree about every path and address."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from strongroom.deploy.cli import strongroom
from strongroom.deploy.cli.machine.here import offline_log
from strongroom.deploy.first_start import URL, make_keys
from strongroom.deploy.settings import Settings, load
from tests.deploy.running import PATIENCE, spawn
from tests.deploy_units.programs import program
from tests.deploy_units.unit_files import SERVICES, SYSTEMD, UNITS, environment, settings
from tests.etcd_server import free_port

STAND_IN = Path(sys.executable)  # any program that exists
KEYLESS = {"STRONGROOM_HOME": "/nonexistent"}


@pytest.fixture
def units(tmp_path: Path) -> dict[str, Path]:
    """Return copies of the units that start the command of this tree, since the units' own may not be installed."""
    copies = {}
    for name in UNITS:
        copies[name] = tmp_path / name
        text = (SYSTEMD / name).read_text()
        copies[name].write_text(text.replace("/opt/strongroom/bin/strongroom", str(STAND_IN)))
    return copies


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Return a directory with the credentials that the units load."""
    place = tmp_path / "credentials"
    place.mkdir()
    make_keys(place)
    return place


def analyze(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``systemd-analyze`` as a user's own, which needs neither root nor a machine that systemd runs."""
    environ = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    command = [program("systemd-analyze"), "--user", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def resolved(service: str, credentials: Path) -> Settings:
    role = service.removeprefix("strongroom-").removesuffix(".service")
    return load(environ=environment(service, credentials), config=SYSTEMD / "strongroom.toml", role=role)


def test_systemd_finds_nothing_wrong(units: dict[str, Path], tmp_path: Path) -> None:
    """`systemd-analyze verify` accepts every unit and warns of nothing."""
    done = analyze(tmp_path, "verify", "--man=no", "--recursive-errors=no", *units.values())

    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_find_something_wrong(units: dict[str, Path], tmp_path: Path) -> None:
    """The check before this one can fail: a setting that does not exist is told."""
    unit = units["strongroom-proxy.service"]
    unit.write_text(unit.read_text().replace("ProtectClock=", "ProtectClocks="))

    assert "ProtectClocks" in analyze(tmp_path, "verify", "--man=no", "--recursive-errors=no", unit).stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_hardened(units: dict[str, Path], tmp_path: Path, service: str) -> None:
    """`systemd-analyze security` rates each service at 1.5 of 10 or better; a unit without hardening gets 9.6."""
    done = analyze(tmp_path, "security", "--offline=true", "--threshold=15", "--no-pager", units[service])

    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.parametrize("service", SERVICES)
def test_what_no_rating_counts(service: str) -> None:
    """Memory that held keys is neither dumped nor swapped, and files are made for the service's user alone."""
    said = settings(service)

    assert {"LimitCORE": ["0"], "MemorySwapMax": ["0"], "UMask": ["0077"]}.items() <= said.items()
    assert {"LimitNOFILE": ["65536"], "TasksMax": ["256"], "MemoryMax": ["1G"]}.items() <= said.items()


def test_the_root_key_can_be_kept_in_memory() -> None:
    """The service may lock the one page that it locks, and none of the calls that this takes is filtered away."""
    said = settings("strongroom-storage.service")
    allowed = subprocess.run(
        [program("systemd-analyze"), "syscall-filter", "@system-service"], capture_output=True, text=True, check=True
    ).stdout

    assert said["LimitMEMLOCK"] == ["64K"]
    assert resource.getpagesize() <= 64 * 1024
    assert said["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert {"@memlock", "@ipc", "@process", "madvise"} <= set(allowed.split())  # mlock, memfd_create, prctl


@pytest.mark.parametrize("service", SERVICES)
def test_the_command_knows_what_a_unit_starts(service: str) -> None:
    """`ExecStart` is a command of ours with options that it has."""
    _, *arguments = shlex.split(settings(service)["ExecStart"][0])

    context = click.Context(strongroom, info_name="strongroom")
    name, command, rest = strongroom.resolve_command(context, arguments)

    assert name == "serve"
    assert command is not None
    assert service == f"strongroom-{command.make_context(name, rest).params['role']}.service"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_finish_what_it_began(service: str, credentials: Path) -> None:
    """Systemd waits longer for the end than the service itself does for requests under way."""
    assert int(settings(service)["TimeoutStopSec"][0]) > resolved(service, credentials).grace


def test_the_service_keeps_its_files_where_its_unit_makes_room(credentials: Path) -> None:
    """Store, audit log and keys lie in the directories that systemd makes for the unit and nowhere else."""
    service = resolved("strongroom-storage.service", credentials).service
    said = settings("strongroom-storage.service")

    assert service.store == f"sqlite:/var/lib/{said['StateDirectory'][0]}/strongroom.db"
    assert service.audit_log.parent == Path("/var/log") / said["LogsDirectory"][0]
    assert service.root_key == credentials / "secrets.key"
    assert service.autogen_root_key is False


def test_both_services_and_their_sockets_agree(credentials: Path) -> None:
    """The paths and ports that systemd binds are those that the service, the proxy and the command think of."""
    storage = resolved("strongroom-storage.service", credentials).service
    proxy = resolved("strongroom-proxy.service", credentials).proxy

    assert [str(storage.socket)] == settings("strongroom-storage.socket")["ListenStream"]
    assert proxy.socket == storage.socket
    assert [proxy.listen] == settings("strongroom-proxy.socket")["ListenStream"]
    assert f"http://{proxy.listen}" == URL


def test_only_those_who_may_reach_the_socket(credentials: Path) -> None:
    """The socket is open to its group, the proxy is in that group, and it is no user of the store's."""
    socket, proxy = settings("strongroom-storage.socket"), settings("strongroom-proxy.service")

    assert socket["SocketMode"] == ["0660"]
    assert proxy["Group"] == socket["SocketGroup"]
    assert proxy["User"] != settings("strongroom-storage.service")["User"]
    assert [line.partition(":")[0] for line in proxy["LoadCredential"]] == ["proxy.json"]


def test_every_user_and_group_is_made() -> None:
    """Whoever the units name, sysusers makes."""
    made = {line.split()[1] for line in (SYSTEMD / "strongroom.sysusers").read_text().splitlines() if line[:1] in "ug"}

    named = {
        name
        for unit in UNITS
        for setting in ("User", "Group", "SocketUser", "SocketGroup")
        for name in settings(unit).get(setting, [])
    }
    assert named == made


def test_the_installer_is_a_script_and_installs_what_is_there() -> None:
    """A shell can read install.sh, root can run it, and every file of the tree that it names exists."""
    script = SYSTEMD / "install.sh"
    tree = SYSTEMD.parents[1]

    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK)
    named = [
        word for word in shlex.split(script.read_text(), comments=True) if word.startswith(("deploy/", "requirements/"))
    ]
    assert named
    assert all(list(tree.glob(word)) for word in named)
    # What it runs is what it has installed: with -P, Python does not look into the tree that it stands in.
    steps = (SYSTEMD / "steps.sh").read_text()
    assert re.findall(r'bin/python"(?! -P -m strongroom\.).*', script.read_text() + steps) == []
    assert subprocess.run(["sh", "-n", SYSTEMD / "steps.sh"], check=False).returncode == 0


@pytest.mark.parametrize("role", ["storage", "proxy"])
def test_a_stop_is_a_stop(role: str) -> None:
    """A stopped service is not started by the next connection, and a crashed one is not held back by its socket."""
    said = settings(f"strongroom-{role}.service")

    assert said["PropagatesStopTo"] == [f"strongroom-{role}.socket"]
    assert f"strongroom-{role}.socket" in said["Wants"]
    assert "Requires" not in said
    assert f"strongroom-{role}.socket" in said["After"][0].split()


@pytest.mark.parametrize("role", ["storage", "proxy"])
@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("wrokers = 3", "did you mean 'workers'"),
        ("workers = 0", "workers"),
        ('proxy_authenticators = [{ name = "none" }]', "none"),
    ],
)
def test_wrong_settings_end_the_start_for_good(tmp_path: Path, role: str, mistake: str, says: str) -> None:
    """A process with wrong settings says what is wrong and ends with a code after which its unit is not restarted."""
    make_keys(tmp_path)
    (tmp_path / "strongroom.toml").write_text(mistake)
    final = settings(f"strongroom-{role}.service")["RestartPreventExitStatus"][0].split()
    process = spawn("serve", role, "--home", tmp_path)

    _, said = process.communicate(timeout=PATIENCE)

    assert str(process.returncode) in final
    assert says in said
    assert len(said.splitlines()) == 1


def test_a_lost_store_ends_the_start_for_good(tmp_path: Path) -> None:
    """What a person has to mend, found when the store is opened, is not tried for ever, and the reason is told."""
    make_keys(tmp_path)
    for name in ("log", "run", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "store.json").write_text('{"store": "sqlite:data/strongroom.db"}')
    process = spawn("serve", "storage", "--home", tmp_path)

    _, said = process.communicate(timeout=PATIENCE)

    assert str(process.returncode) in settings("strongroom-storage.service")["RestartPreventExitStatus"][0].split()
    assert "the store holds no records of ours, and this home's records are in" in said


def test_what_may_mend_itself_is_tried_again(tmp_path: Path) -> None:
    """A store that does not answer yet ends the service with another code, so that its unit starts it again."""
    make_keys(tmp_path)
    (tmp_path / "log").mkdir()
    (tmp_path / "run").mkdir()
    port = free_port()
    said = settings("strongroom-storage.service")
    process = spawn("serve", "storage", "--home", tmp_path, "--store", f"etcd://127.0.0.1:{port}/strongroom")

    process.communicate(timeout=PATIENCE)

    assert process.returncode != 0
    assert str(process.returncode) not in said["RestartPreventExitStatus"][0].split()
    assert said["Restart"] == ["on-failure"]


def test_the_installer_lets_everything_start_at_boot() -> None:
    """Every unit is enabled, and the keyring is made once the services have started."""
    script = (SYSTEMD / "install.sh").read_text()
    steps = (SYSTEMD / "steps.sh").read_text()
    [units] = [line.partition("=")[2].strip('"') for line in steps.splitlines() if line.startswith("units=")]

    assert sorted(units.split()) == sorted(UNITS)
    assert all("multi-user.target" in settings(unit)["WantedBy"][0] for unit in SERVICES)
    acts = [
        "systemctl enable $units",
        "systemctl restart strongroom-storage.service",
        'keyring "$now"',
    ]
    assert "strongroom.deploy.first_start keyring" in steps
    assert sorted(map(script.index, acts)) == list(map(script.index, acts))


def test_an_older_installation_has_what_the_units_want_before_they_start(tmp_path: Path) -> None:
    """The installer makes keys that units load and an older installation has not, and keeps those that it has."""
    make_keys(tmp_path)
    (tmp_path / "proxy.json").unlink()  # of before there was one
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    make_keys(tmp_path)

    wanted = {
        Path(loaded.partition(":")[2]) for unit in SERVICES for loaded in settings(unit).get("LoadCredential", [])
    }
    assert wanted == {Path("/etc/strongroom") / path.name for path in tmp_path.iterdir()}
    assert kept == {name: (tmp_path / name).read_bytes() for name in kept}
    script = (SYSTEMD / "install.sh").read_text()
    acts = [
        'keys "$now"',
        "install -m 0644 deploy/systemd/*.service",
        "systemctl restart strongroom",
    ]
    assert sorted(map(script.index, acts)) == list(map(script.index, acts))


def test_the_audit_log_is_rotated_as_it_can_bear() -> None:
    """Logrotate renames the file of the settings and that of commands: none is made for it, none is copied and cut."""
    text = (SYSTEMD / "strongroom.logrotate").read_text()
    [names] = [line.removesuffix(" {").split() for line in text.splitlines() if line.endswith("{")]
    words = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("    ")}

    log = load(environ=KEYLESS, config=SYSTEMD / "strongroom.toml", without_key=True).service.audit_log
    assert list(map(Path, names)) == [log, offline_log(log)]
    assert words["su"] == [settings("strongroom-storage.service")["User"][0]] * 2
    assert words.keys() >= {"nocreate", "delaycompress", "missingok"}
    assert not words.keys() & {"create", "copytruncate", "postrotate", "nodelaycompress"}
