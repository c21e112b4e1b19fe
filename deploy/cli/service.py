"""``strongroom service``: programs, and how they prove themselves."""

from strongroom.deploy.cli.principals import noun

service = noun("service", "Add, set up, disable and remove programs.")
