#!/usr/bin/env bash
# Run the store contract and the end-to-end tests on a real MinIO: $TAKHIN_TEST_MINIO, one on the path, or
# one built from its module, which takes some minutes and is kept in .make/bin for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1

minio=${TAKHIN_TEST_MINIO:-$(command -v minio || true)}
if [ -z "$minio" ] && [ -x .make/bin/minio ]; then
  minio=$PWD/.make/bin/minio
fi
if [ -z "$minio" ]; then
  if ! command -v go >/dev/null; then
    echo "There is no minio binary, and no Go to build one: install either, or set TAKHIN_TEST_MINIO." >&2
    exit 1
  fi
  echo "Building MinIO into .make/bin ..."
  mkdir -p .make/bin
  GOBIN=$PWD/.make/bin go install github.com/minio/minio@latest
  minio=$PWD/.make/bin/minio
fi
TAKHIN_TEST_MINIO=$minio TAKHIN_TEST_SERVER=minio exec "$bin/pytest" tests/contract tests/integration/test_archive.py tests/integration/test_restore.py \
  tests/integration/test_least_privilege.py tests/integration/test_quickstart.py
