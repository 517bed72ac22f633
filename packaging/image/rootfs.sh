#!/bin/sh
# Makes the root file system of the container image:  packaging/image/rootfs.sh target/release/connmix FOLDER
# It holds the program, the libraries that it needs (of the machine where this runs), a configuration, the scripts that ship, and one user;
# no shell, no package manager.
set -eu
umask 022
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=packaging/common.sh
. "$root/packaging/common.sh"

[ $# -eq 2 ] || die "usage: $0 PROGRAM FOLDER"
binary=$1
tree=$2
[ ! -e "$tree" ] || [ -z "$(ls -A "$tree")" ] || die "$tree is not empty"
mkdir -p "$tree/etc/connmix" "$tree/tmp"
chmod 1777 "$tree/tmp"

program "$binary" "$tree/usr/bin/connmix"
# Each library at the path where the program looks for it; names are looked up by the C library itself.
ldd "$binary" | sed -n 's|.*[[:space:]]\(/[^ ]*\) (0x.*|\1|p' | while read -r library; do
    install -D -m 755 "$(readlink -f "$library")" "$tree$library"
done
install -m 644 "$root/packaging/image/connmix.yaml" "$tree/etc/connmix/connmix.yaml"
scripts "$tree/etc/connmix/lua"
install -D -m 644 "$root/LICENSE-MIT" "$root/LICENSE-APACHE" -t "$tree/usr/share/doc/connmix"
notices "$tree/usr/share/doc/connmix/THIRD-PARTY.txt"
echo 'connmix:x:65532:65532:connmix:/:/usr/sbin/nologin' >"$tree/etc/passwd"
echo 'connmix:x:65532:' >"$tree/etc/group"
# Where processes of two containers find each other, if that is wanted (upgradeFolder). It belongs to that user in the image.
mkdir -p "$tree/run/connmix"
# Names of other machines: first the file, then the name server.
echo 'hosts: files dns' >"$tree/etc/nsswitch.conf"
# Whom scripts trust for https, where this machine has a list; without one the program's own counts.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
fi
