#!/usr/bin/env bash
# Builds dist/takhin-tiered_<version>_<architecture>.deb: the program with all that it needs in /opt/takhin-tiered.
#
# It is for the release of Debian or Ubuntu, and the Python of its, on which it is built: the package depends on exactly
# that minor version. It creates no user and no configuration, and starts nothing.
# PYTHON names the system's interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly python=${PYTHON:-/usr/bin/python3}
command -v dpkg-deb >/dev/null || { echo "SKIPPED: there is no dpkg-deb"; exit 0; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "SKIPPED: $python is older than 3.11"; exit 0; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
architecture=$(dpkg --print-architecture)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
readonly root=$scratch/root target=/opt/takhin-tiered

mkdir -p "$scratch/source"
cp -R pyproject.toml constraints.txt README.md LICENSE takhin_tiered "$scratch/source"
"$python" -m venv --without-pip "$root$target"
(
    cd "$scratch/source"
    # The pip of whatever Python is first on the path: none has to be in the package, or with the system's interpreter.
    python3 -m pip --python "$root$target/bin/python" install --quiet --disable-pip-version-check --no-compile \
        --constraint constraints.txt .
)
# It names the directory of the build, which is gone.
find "$root$target" -name direct_url.json -delete
sed -i '/direct_url\.json/d' "$root$target"/lib/python*/site-packages/takhin_tiered-*.dist-info/RECORD
# Programs begin with the path of their interpreter: it is another one once it is installed.
grep -rlI "^#!$root$target" "$root$target/bin" | xargs sed -i "1s#^\#!$root$target#\#!$target#"
sed -i "s#$root##g" "$root$target"/bin/[Aa]ctivate* "$root$target/pyvenv.cfg"
# By the path that the files have once they are installed; pip would have written none for that.
"$root$target/bin/python" -m compileall -q -s "$root" -p / "$root$target/lib" || true
if grep -rlI "$scratch" "$root" | grep .; then
    echo "FAILED: these files name the directory of the build" >&2
    exit 1
fi

install -D -m 0644 -t "$root/usr/share/doc/takhin-tiered/examples" configs/*.yaml configs/*.yml configs/*.json
install -D -m 0644 -t "$root/usr/share/doc/takhin-tiered" README.md CHANGELOG.md docs/*.md
install -D -m 0644 LICENSE "$root/usr/share/doc/takhin-tiered/copyright"
install -d "$root/usr/bin" "$root/lib/systemd/system"
ln -s "$target/bin/takhin-tiered" "$root/usr/bin/takhin-tiered"
sed 's#^ExecStart=/usr/local/bin/#ExecStart=/usr/bin/#' configs/takhin-tiered.service >"$root/lib/systemd/system/takhin-tiered.service"

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: takhin-tiered
Version: $version
Architecture: $architecture
Maintainer: Takhin Tiered <takhin-tiered@localhost>
Section: admin
Priority: optional
Depends: python3 (>= $minor), python3 (<< $next), libc6
Installed-Size: $(du -sk "$root" | cut -f 1)
Description: archives cold log segments of a broker to S3, MinIO or a directory
 Watches the segment directory of a broker such as Apache Kafka, moves cold
 segments to an object store, verifies every byte, and brings them back.
CONTROL
cat >"$root/DEBIAN/postinst" <<'SCRIPT'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
SCRIPT
# A daemon that runs goes on with the files that it has open until it is restarted: nothing is stopped by an upgrade.
cat >"$root/DEBIAN/prerm" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now takhin-tiered || true; fi
SCRIPT
cp "$root/DEBIAN/postinst" "$root/DEBIAN/postrm"
chmod 0755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"

mkdir -p dist
dpkg-deb --root-owner-group --build "$root" "dist/takhin-tiered_${version}_${architecture}.deb"
