"""The guarded room: root key, data keys, and what is done with them. Few may import it.

What keys are for (no I/O)
    ring            which data key is used for what
    document        the keyring document: keysets, generations, places, and what is under way

In the store
    stored          the document, read and replaced at once or not at all
    overlay         encryption as a backend round a backend
    usage/          what is under which key; re-encryption; the end of keys

Who opens it
    rootkey         the root key file
    opening/        wraps of the root key: for a file, unlock keys, shares; and opening with nobody at hand
    machines/       machines: key pairs, documents, wraps, and which root key one accepts

In memory
    shared_root     what all workers of a service share
    holder          what one worker holds
    seen            which keyring this home has seen last

What is done to it as a whole
    ceremonies/     the first root key and the next, who opens it, machines let in, export, restore

Commands that hold a store or a key file without a service come in by ceremonies alone: files, typed, machines, offline,
sharing. A contract in pyproject.toml lists who else may import from here.
"""
