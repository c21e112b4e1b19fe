"""What can be done here, whoever asks and however: one module a service, behind one door.

    door         decide, record, act: every act of every service goes through it
    secrets      the tree of secrets: containers, values, batches
    records      records of models
    access       API keys: who may do what
    keys         the keyring, from its first day to its last; `keys_overview` is what can be told of it
    bulk         what is encrypted, many values and journals at once
    audit        what the proxy and the commands tell of what they refused or are about to do
    health       whether the service can do its work, and what it says of itself

A service is made of the door and of what it acts on. A method takes who asks first, and lets the door decide and record
before anything is read or written. What it takes and returns are values of the domain: how they are said on a wire is
the affair of the faces, which know nothing that lies behind a service.
"""
