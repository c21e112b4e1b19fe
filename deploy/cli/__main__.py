"""``python -m strongroom.deploy.cli``: the command, for a tree that is not installed."""

from strongroom.deploy.command import main

main()
