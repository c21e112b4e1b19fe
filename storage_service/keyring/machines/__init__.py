"""Machines that open the keyring by themselves: key pairs, documents, wraps, and whom they believe."""
