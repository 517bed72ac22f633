#!/bin/sh
# Builds the Debian package of a program that is there:  packaging/deb/build.sh target/release/connmix [FOLDER]
# It needs dpkg-deb and nothing of debhelper. The package is written to FOLDER (the current one unless told), and its path is printed.
# COMPRESSION=none makes it quickly (dpkg-deb -Z); THIRD_PARTY names a file with the licences, if they are gathered already; MAINTAINER says
# who builds it.
set -eu
umask 022
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/packaging
# shellcheck source=packaging/common.sh
. "$here/common.sh"

[ $# -ge 1 ] || die "usage: $0 PROGRAM [FOLDER]"
binary=$1
target=${2:-.}
version=$(version)
maintainer=${MAINTAINER:-The connmix contributors <packages@connmix.invalid>}
architecture=$(architecture "$binary")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(epoch)}
export SOURCE_DATE_EPOCH

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
doc=$tree/usr/share/doc/connmix

program "$binary" "$tree/usr/bin/connmix"
mkdir -p "$tree/etc/connmix"
configuration >"$tree/etc/connmix/connmix.yaml"
scripts "$tree/etc/connmix/lua"
# Where a configuration has its log unless it says otherwise: beside it. Nothing below /etc is written.
ln -s /var/log/connmix "$tree/etc/connmix/logs"
install -D -m 644 "$root/lua/library/mix.lua" "$tree/usr/share/connmix/lua/library/mix.lua"
install -D -m 644 "$here/deb/default" "$tree/etc/default/connmix"
install -D -m 644 "$here/systemd/connmix.service" "$tree/lib/systemd/system/connmix.service"

documentation "$doc"
cp -R "$root/lua" "$doc/lua"
install -m 644 "$here/systemd/sysctl.conf" "$here/systemd/logrotate" "$doc/docs/examples/"
ln -s docs/examples "$doc/examples"
install -m 644 "$here/deb/README.Debian" "$here/deb/copyright" "$doc/"
gzip -9n >"$doc/changelog.gz" <<END
connmix ($version) unstable; urgency=medium

  * CHANGELOG.md in this folder tells what has changed.

 -- $maintainer  $(date --utc --rfc-email --date "@$SOURCE_DATE_EPOCH")
END
notices "$doc/THIRD-PARTY.txt"
gzip -9n "$doc/THIRD-PARTY.txt"

# What the program itself prints, as far as this version does, and where it runs here.
tell() {
    "$binary" "$@" 2>/dev/null
}
if page=$(tell man) && [ -n "$page" ]; then
    mkdir -p "$tree/usr/share/man/man1"
    printf '%s\n' "$page" | gzip -9n >"$tree/usr/share/man/man1/connmix.1.gz"
fi
for shell in bash zsh fish; do
    words=$(tell completions "$shell") || continue
    [ -n "$words" ] || continue
    case $shell in
    bash) file=bash-completion/completions/connmix ;;
    zsh) file=zsh/vendor-completions/_connmix ;;
    fish) file=fish/vendor_completions.d/connmix.fish ;;
    esac
    mkdir -p "$(dirname "$tree/usr/share/$file")"
    printf '%s\n' "$words" >"$tree/usr/share/$file"
done

# The C library that the program needs is the newest whose symbols it names.
libc=$(grep -ao 'GLIBC_2\.[0-9]*' "$binary" | sort -uV | tail -n 1 | cut -d_ -f2)
find "$tree" -type d -exec chmod 755 {} +
find "$tree" -type f ! -path "$tree/usr/bin/*" -exec chmod 644 {} +
find "$doc" -name '*.sh' -exec chmod 755 {} +
mkdir "$tree/DEBIAN"
(cd "$tree" && find etc -type f | sort | sed 's|^|/|') >"$tree/DEBIAN/conffiles"
(cd "$tree" && find usr lib -type f -exec md5sum {} + | LC_ALL=C sort -k2) >"$tree/DEBIAN/md5sums"
cat >"$tree/DEBIAN/control" <<END
Package: connmix
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -sk --apparent-size "$tree" | cut -f1)
Depends: adduser, libc6 (>= ${libc:-2.36}), libgcc-s1 (>= 3.0)
Suggests: nginx, prometheus
Section: net
Priority: optional
Description: scriptable engine for long-lived connections
 Browsers connect by WebSocket and devices by TCP; a Lua file decides which
 channels each of them is in; any back end publishes to a channel with one HTTP
 request. Several processes are one cluster, with nothing else to install.
END
for script in postinst prerm postrm; do
    install -m 755 "$here/deb/$script" "$tree/DEBIAN/$script"
done

mkdir -p "$target"
package=$target/connmix_${version}_$architecture.deb
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$tree" "$package" >/dev/null
echo "$package"
