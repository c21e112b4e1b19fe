#!/bin/sh
# Install Strongroom from this source tree on a machine that systemd runs, and start it. Run it as root; run it again to
# install a newer tree. Keys, settings and the store stay as they are. Each installation is a directory of its own beside
# the link /opt/strongroom; the one before is kept, to go back to.
set -eu
umask 022
cd "$(dirname "$0")/../.."
[ "$(id -u)" -eq 0 ] || { echo "install.sh: only root can do this" >&2; exit 1; }
[ ! -e /opt/strongroom/share/steps.sh ] || {
    echo "install.sh: the Debian package is installed here, and would lose its files. Install a newer package, or first:" >&2
    echo "    apt remove strongroom    # keys, settings and the store stay" >&2
    exit 1
}
unset DPKG_ROOT
. deploy/systemd/steps.sh

before=$(readlink /opt/strongroom || :)
now=/opt/strongroom-$(date +%Y%m%d-%H%M%S)

echo "Installing into $now; this takes about a minute."
python3 -m deploy.tools.make_venv "$now" requirements/build.txt requirements/run.txt --project .

install -D -m 0644 deploy/systemd/strongroom.sysusers /etc/sysusers.d/strongroom.conf
users
[ -e "$etc/strongroom.toml" ] || install -m 0644 deploy/systemd/strongroom.toml "$etc/"
keys "$now"

install -m 0644 deploy/systemd/*.service deploy/systemd/*.socket /etc/systemd/system/
install -D -m 0644 deploy/systemd/strongroom.logrotate /etc/logrotate.d/strongroom

[ -L /opt/strongroom ] || rm -rf /opt/strongroom # an older installation, which was no link
ln -sfn "$now" /opt/strongroom.new
mv -T /opt/strongroom.new /opt/strongroom
ln -sf /opt/strongroom/bin/strongroom /usr/local/bin/strongroom

failed() {
    {
        echo "install.sh: $1"
        [ -z "$before" ] || [ ! -d "$before" ] ||
            echo "To go back: ln -sfn $before /opt/strongroom && systemctl restart strongroom-storage strongroom-proxy"
    } >&2
    exit 1
}

systemctl daemon-reload
# shellcheck disable=SC2086 # four words
systemctl enable $units
systemctl restart strongroom-storage.service strongroom-proxy.service || {
    why
    failed "a service does not start; the lines above say why"
}
keyring "$now" || failed "the service runs, and has no keys"

for old in /opt/strongroom-[0-9]*; do
    [ "$old" = "$now" ] || [ "$old" = "$before" ] || rm -rf "$old"
done

echo "Strongroom runs, now and after each boot. Root can use it with: strongroom --home $etc status"
echo "What comes next (TLS, backups, logs, upgrades): docs/operating.md"
