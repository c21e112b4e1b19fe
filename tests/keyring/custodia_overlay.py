"""Custodia's real EncryptedOverlay, run by a Python that has it: acts from standard input, answers to standard output.

python custodia_overlay.py DATABASE MASTER_KEY PROTECTION < [["set", name, value], ["get", name], ["raw", name]]
"""

import configparser
import json
import sys

from custodia.plugin import CSStoreError
from custodia.store.encgen import EncryptedOverlay
from custodia.store.sqlite import SqliteStore


def main() -> None:
    """Answer each act with its value, or with the error it ended in."""
    database, master_key, protection = sys.argv[1:]
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(
        {
            "store:below": {"dburi": database},
            "store:overlay": {"backing_store": "below", "master_key": master_key, "autogen_master_key": "true"}
            | ({"secret_protection": protection} if protection else {}),
        }
    )
    below = SqliteStore(parser, "store:below")
    overlay = EncryptedOverlay(parser, "store:overlay")
    overlay.finalize_init({"stores": {"below": below}}, parser)
    acts = {"get": overlay.get, "set": overlay.set, "list": overlay.list, "raw": below.get, "put": below.set}
    answers = []
    for verb, *arguments in json.load(sys.stdin):
        try:
            answers.append(acts[verb](*arguments))
        except CSStoreError as error:
            answers.append({"error": str(error)})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
