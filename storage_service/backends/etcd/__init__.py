"""The store for many machines: an etcd v3 cluster.

    target      where it is and who we are to it: the URL
    failures    what a failed call says about the request: one table
    messages    etcd's messages, compiled from messages.proto
    methods     the calls that take them
    reads       single keys, asked for together
    breaker     when a cluster that does not answer is left alone
    cluster     calls and streams, to whichever member answers, logged in
    keyspace    names as etcd's keys, changes as one transaction; no I/O
    receipts    how a write whose answer was lost is settled
    backend     the five verbs of a backend

Importing this loads gRPC, which must not happen before a fork: whoever forks imports it afterwards.
"""

from strongroom.storage_service.backends.etcd.backend import EtcdBackend

__all__ = ["EtcdBackend"]
