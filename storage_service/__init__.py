"""What keeps the records: the process behind the unix socket, and the only one that ever holds a key."""
