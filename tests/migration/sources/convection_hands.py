"""Convection's own manager of stores, run by a Python that has it: without a server, so that much takes little time.

python convection_hands.py STORAGE < lines of [verb, argument, …] > a line each: what it returned

The first line is ["unlock", KEY].
"""

import json
import sys
from pathlib import Path
from typing import Any

from convection.secrets.server.manager import ConvectionSecretsManager
from convection.shared.config import ConvectionConfigCore
from convection.shared.specker_static import StaticSpecker


class Hands:
    """Each method is a verb."""

    def __init__(self, storage: Path) -> None:
        self._manager = ConvectionSecretsManager(ConvectionConfigCore("service.config", {"path": str(storage)}))

    def unlock(self, key: str) -> bool:
        """Unlock the directory."""
        return self._manager.unlock(key)

    def create_store(self, store: str, keyset: str) -> bool:
        """Make a generic store, if there is none of that name."""
        there = store in self._manager.list_stores()
        return there or self._manager.new_store(store, keyset, "generic", None)

    def set(self, store: str, secret: str, value: Any) -> bool:
        """Make a secret, or change it."""
        there = secret in self._manager.list_secrets(store, {})
        act = self._manager.update_secret if there else self._manager.new_secret
        return act(store, {"secret_name": secret, "secret_value": value})

    def fill(self, store: str, values: dict[str, Any]) -> None:
        """Make many secrets in one writing of the store."""
        opened = self._manager.load_store(store)
        opened._read()
        opened._Generic_Secret__store_data.update(values)
        opened._write()

    def get(self, store: str, secret: str) -> Any:
        """Return a secret."""
        return self._manager.get_secret(store, {"secret_name": secret})

    def remove(self, store: str, secret: str) -> bool:
        """Remove a secret."""
        return self._manager.remove_secret(store, {"secret_name": secret})

    def list(self, store: str) -> list[str]:
        """Return the names of secrets."""
        return self._manager.list_secrets(store, {})


def main() -> None:
    """Do what each line says."""
    StaticSpecker()
    hands = Hands(Path(sys.argv[1]))
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(getattr(hands, verb)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
