"""The guarded room: root key, data keys, and what is done with them. Few may import it.

What keys are, and what they do (no I/O)
    ring                all data keys, and which of them is used for what
    document            the keyring document: keysets, versions, places, and what is under way

Who opens the keyring
    wraps               the root key, encrypted for a recipient
    rootkey, next_file  the root key file, and the one about to take its place
    unlock              unlock keys and shares, as people type them
    machine_key, machines, machine_documents, machine_wraps, enrolment, succession
                        machines: key pairs, documents, who authorizes whom, and which root key one accepts
    private_file        how a file that holds a key is made and checked
    unattended          opening with nobody at hand

The keyring in the store
    vault               the document, read and replaced at once or not at all
    rotation, recipients, key_files
                        the first root key, and the next
    census, records, sweep, turns
                        what is under which key; re-encryption; the end of keys
    export, restore     the keyring as a file, and brought back

The keyring in memory
    page                what all workers of a service share
    keeper              what one worker holds
"""
