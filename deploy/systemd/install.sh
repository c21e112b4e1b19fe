#!/bin/sh
# Install Strongroom from this source tree on a machine that systemd runs, and start it. Run it as root; run it again to
# install a newer tree. Keys and settings that are there stay as they are.
set -eu
umask 022
cd "$(dirname "$0")/../.."
[ "$(id -u)" -eq 0 ] || { echo "install.sh: only root can do this" >&2; exit 1; }

python3 -m deploy.tools.make_venv /opt/strongroom requirements/build.txt requirements/run.txt --project .
ln -sf /opt/strongroom/bin/strongroom /usr/local/bin/strongroom

install -D -m 0644 deploy/systemd/strongroom.sysusers /etc/sysusers.d/strongroom.conf
systemd-sysusers strongroom.conf

mkdir -p /etc/strongroom
[ -e /etc/strongroom/strongroom.toml ] || install -m 0644 deploy/systemd/strongroom.toml /etc/strongroom/
/opt/strongroom/bin/python deploy/systemd/make_keys.py /etc/strongroom

install -m 0644 deploy/systemd/*.service deploy/systemd/*.socket /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now strongroom-storage.socket strongroom-proxy.socket
systemctl restart strongroom-storage.service strongroom-proxy.service

echo "Strongroom runs. Root can use it with: strongroom --home /etc/strongroom status"
echo "Keep a copy of /etc/strongroom/secrets.key where the store's backups are not: without it they cannot be read."
