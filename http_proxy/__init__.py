"""How the service is reached over a network: the process that faces it, and never loads a key."""
