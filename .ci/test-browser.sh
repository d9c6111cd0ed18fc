#!/usr/bin/env bash
# Run the tests of the dashboard in the system's Chromium ($TAKHIN_TEST_CHROMIUM, or what is on the path). Where it is
# missing, root of a Debian gets it by apt; else it says so and is done. axe comes by npm, once, into .make/browser
# ($TAKHIN_TEST_AXE is another axe.min.js).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
shift
readonly axe=4.14.1

skip() {
  printf '\n*** SKIPPED: make test-browser ran NO test. %s ***\n\n' "$1" >&2
  exit 0
}

find_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

if [ -z "${TAKHIN_TEST_CHROMIUM:-}" ] && ! find_chromium >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    skip "There is no chromium, and it takes root and apt to install it."
  fi
  echo "Installing chromium ..."
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } \
    >/dev/null || skip "apt could not install chromium."
fi
export TAKHIN_TEST_CHROMIUM=${TAKHIN_TEST_CHROMIUM:-$(find_chromium)}
if [ -z "${TAKHIN_TEST_AXE:-}" ]; then
  folder=$PWD/.make/browser/axe-$axe
  export TAKHIN_TEST_AXE=$folder/package/axe.min.js
  if [ ! -f "$TAKHIN_TEST_AXE" ]; then
    command -v npm >/dev/null || skip "There is no npm, which fetches axe."
    mkdir -p "$folder"
    (cd "$folder" && npm pack --silent "axe-core@$axe" >/dev/null && tar -xzf "axe-core-$axe.tgz") \
      || skip "npm could not fetch axe-core $axe."
  fi
fi
exec "$bin/pytest" -n 2 tests/browser --durations=5 "$@"
