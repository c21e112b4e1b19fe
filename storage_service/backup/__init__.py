"""A store as one file, and back: copied as of one moment while it is written to, restored into an empty store.

    form        the file: a head, rows in order, an end with checksums
    taking      a moment of a store becomes a file
    checking    what a file holds, and whether all of it opens
    restoring   a file becomes a store
    marker      what a store says of itself while that is not finished

Nothing is ever decrypted to be copied: rows go into the file as the store has them.
"""
