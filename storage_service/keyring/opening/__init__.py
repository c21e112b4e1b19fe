"""Who opens the keyring: the root key's wraps, key files, unlock keys and shares."""
