#!/bin/sh
# Makes a tarball of a program that is there, and a file of checksums:  packaging/tarball.sh target/release/connmix [FOLDER]
# Prints the tarball's path; LEVEL=1 makes it quickly. In its folder, `bin/connmix dev` runs as it is. Check it with `sha256sum -c SHA256SUMS`.
set -eu
umask 022
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=packaging/common.sh
. "$root/packaging/common.sh"

[ $# -ge 1 ] || die "usage: $0 PROGRAM [FOLDER]"
binary=$1
target=${2:-.}
epoch=${SOURCE_DATE_EPOCH:-$(epoch)}
name=connmix-$(version)-linux-$(architecture "$binary")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/$name
program "$binary" "$tree/bin/connmix"
install -m 644 "$root/connmix.yaml" "$tree/"
cp -R "$root/lua" "$root/.luarc.json" "$tree/"
documentation "$tree"
install -D -m 644 "$root/packaging/systemd/connmix.service" "$root/packaging/systemd/sysctl.conf" -t "$tree/systemd"
notices "$tree/THIRD-PARTY.txt"

mkdir -p "$target"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -c "$name" | gzip -n -"${LEVEL:-9}" >"$target/$name.tar.gz"
(cd "$target" && for file in connmix-*.tar.gz connmix_*.deb connmix-*.oci.tar; do
    [ ! -f "$file" ] || sha256sum "$file"
done >SHA256SUMS)
echo "$target/$name.tar.gz"
