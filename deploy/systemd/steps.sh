# shellcheck shell=sh
# What every installation does, whichever way its files came: sourced by install.sh, and by the scripts of the Debian
# package from where it puts this file. To be sourced does nothing. DPKG_ROOT is dpkg's: the root that it works in, if
# that is not this machine's own.
etc=${DPKG_ROOT:-}/etc/strongroom
# shellcheck disable=SC2034 # for those who source this
units="strongroom-storage.socket strongroom-proxy.socket strongroom-storage.service strongroom-proxy.service"

# Make the users and groups of the processes, and the directories of the settings.
users() {
    systemd-sysusers ${DPKG_ROOT:+"--root=$DPKG_ROOT"} strongroom.conf
    install -d -m 0755 "$etc" "$etc/tls"
}

# Make the keys that the units load, with the environment $1. None is replaced.
keys() {
    "$1/bin/python" -P -m strongroom.deploy.first_start keys "$etc"
}

# Give the store of the service that runs a keyring, with the environment $1, unless there is one.
keyring() {
    "$1/bin/python" -P -m strongroom.deploy.first_start keyring "$etc"
}

# Say why a service does not start.
why() {
    journalctl --no-pager --output=cat --lines=20 --unit=strongroom-storage --unit=strongroom-proxy >&2
}
