"""The guarded room: root key, data keys, and the one form in which values are encrypted. Few may import it."""
