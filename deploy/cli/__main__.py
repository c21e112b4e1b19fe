"""``python -m deploy.cli``: the command, for a tree that is not installed."""

from deploy.cli import main

main()
