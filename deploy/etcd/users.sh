#!/bin/sh
# Close a new etcd cluster: a root user, a user "strongroom" who reaches its own prefix and nothing else, and
# authentication switched on. Run it once, where etcdctl reaches the cluster; the usual variables say how:
#     ETCDCTL_ENDPOINTS=https://etcd-1:2379 ETCDCTL_CACERT=/etc/etcd/ca.pem ROOT_PASSWORD_FILE=… \
#         STRONGROOM_PASSWORD_FILE=… deploy/etcd/users.sh
# The passwords come from files, each one line without spaces, so that they stand in no process list and no history.
set -eu
prefix=${PREFIX:-/strongroom/}
: "${ROOT_PASSWORD_FILE:?names the file with the password for etcd's root}"
: "${STRONGROOM_PASSWORD_FILE:?names the file with the password for Strongroom}"
export ETCDCTL_API=3

etcdctl user add root --interactive=false < "$ROOT_PASSWORD_FILE"
etcdctl user add strongroom --interactive=false < "$STRONGROOM_PASSWORD_FILE"
etcdctl role add strongroom
etcdctl role grant-permission strongroom --prefix=true readwrite "$prefix"
etcdctl user grant-role strongroom strongroom
etcdctl user grant-role root root
etcdctl auth enable
