"""OpenBao and Vault: the KV engine, version 1 and 2."""
