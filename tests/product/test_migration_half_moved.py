"""A platform goes on working while its estate moves: half of it is in the service, half is read where it still lies."""

from pathlib import Path

from strongroom.models import HostCreds
from strongroom.storage_service.client import StorageClient
from tests.deploy.running import Done, clean_environment, strongroom, up
from tests.etcd_server import running
from tests.migration.sources.commissaire import EstateV3, host
from tests.product.test_reading_through import configured
from tests.ssh_keys import in_base64


def key_of(address: str) -> str:
    """Return the key of a host, as Commissaire kept it."""
    return in_base64(f"the key of {address}")


def test_a_platform_works_all_the_while(tmp_path: Path) -> None:
    """A host's credentials are there before, while and after they move; `status` says when nothing waits any more."""
    with running(tmp_path) as store:
        estate = EstateV3(store)

        def add(*addresses: str) -> None:
            for address in addresses:
                estate.put_value(f"hosts/{address}", host(address, key_of(address)))

        add("h1", "h2", "h3")
        with (
            up(configured(tmp_path / "home", estate.place)) as service,
            StorageClient.from_home(service.home, retries=0) as platform,
        ):
            environ = clean_environment(STRONGROOM_HOME=str(service.home), COLUMNS="80")

            def migrate(*words: str, terminal: bool = False) -> Done:
                return strongroom("migrate", *words, environ=environ, terminal=terminal)

            def reaches(*addresses: str) -> None:
                found = platform.get_many(HostCreds, list(addresses))
                assert [each and each.model.ssh_priv_key.reveal() for each in found] == list(map(key_of, addresses))

            reaches("h1", "h2", "h3")
            applied = migrate("apply", estate.kind, estate.place, "--json").json
            run = applied["run"]
            assert applied["counts"]["created"] == 6
            add("h4", "h5", "h6")  # by who does not know yet that the estate moves
            reaches("h1", "h2", "h3", "h4", "h5", "h6")
            with platform.edit(HostCreds, "h4") as creds:
                creds.remote_user = "core"
            platform.delete(HostCreds, "h5")

            half = migrate("status", run, "--json")
            assert half.json["source"]["waiting"] == 1  # h4 is here since it was edited, and h5 is to be nowhere
            assert half.json["source"]["read_through"]
            shown = migrate("status", run, terminal=True).out
            assert "1 of 6 items at the source is not in the service yet" in shown
            assert "no longer needed" not in shown
            assert f"strongroom migrate apply {run}" in shown

            stopped = migrate("apply", run, "--json")
            assert stopped.code == 5
            assert sorted(each["item"][-2:] for each in stopped.json["problems"]) == ["h4", "h5"]
            kept = migrate("apply", run, "--on-conflict", "keep", "--json").json
            assert kept["complete"]
            reads = platform.status().reads_through
            reaches("h1", "h2", "h3", "h4", "h6")
            assert platform.get(HostCreds, "h4").model.remote_user == "core"
            assert platform.get_many(HostCreds, ["h5"]) == [None]
            assert platform.status().reads_through == reads

            done = migrate("status", run, "--json")
            assert (done.json["source"]["waiting"], done.json["source"]["read_through"]) == (0, False)
            shown = " ".join(migrate("status", run, terminal=True).out.split())
            assert "read_through is no longer needed: take it out of the configuration" in shown
