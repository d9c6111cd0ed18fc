#!/usr/bin/env bash
# Write the constraints files anew: the newest versions that the bounds admit, as pip resolves them together in a fresh
# environment. They hold names and versions only, so that they are the same whoever writes them, and wherever.
#
# The interpreter in the first argument is to be the oldest that is supported: only there are the backports needed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1

# lock FILE ARGUMENT...: FILE gets what `pip install ARGUMENT...` brings.
lock() {
  local file=$1 environment=.make/lock
  shift
  echo "Resolving $file ..."
  rm -rf "$environment"
  "$python" -m venv "$environment"
  "$environment/bin/pip" install --quiet --upgrade pip
  "$environment/bin/pip" install --quiet "$@"
  "$environment/bin/pip" check
  .ci/freeze.sh "$environment" >"$file.new"
  mv "$file.new" "$file"
  rm -rf "$environment"
}

lock constraints.txt --editable '.[test,kafka,browser,bench]'
lock tests/servers-constraints.txt --requirement tests/servers.txt
lock benchmarks/peers-constraints.txt --requirement benchmarks/peers.txt
git --no-pager diff --stat -- '*constraints.txt' || true
