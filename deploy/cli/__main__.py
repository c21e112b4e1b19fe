"""``python -m strongroom.deploy.cli``: the command, for a tree that is not installed."""

from strongroom.deploy import extras

with extras.needed("; where a service is to run: '.[server]'"):
    from strongroom.deploy.cli import root

root.main()
