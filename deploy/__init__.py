"""How Strongroom is run: the ``strongroom`` command, and what an installation needs beside it."""
