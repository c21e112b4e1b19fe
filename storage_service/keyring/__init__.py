"""The guarded room: root key, data keys, and the one form in which values are encrypted. Few may import it.

ring       what a key is, and which of them is used for what; no I/O
envelope   a value under a data key, bound to its name
base64url  the strict spelling of bytes that the envelope and keys use
jwk        a key as JSON
rootkey    the root key file
vault      opening a store: root key file and wrapped data keys become a ring
"""
