"""``strongroom user``: people, and how they prove themselves."""

from strongroom.deploy.cli.principals import noun

user = noun("user", "Add, set up, disable and remove people.")
