#!/usr/bin/env bash
# Print what is installed in an environment, with exact versions, a line each, as the constraints files have it: of a
# name there are several spellings, and packages themselves change theirs, so all are in lower case and with hyphens.
set -euo pipefail
"$1/bin/pip" freeze --exclude takhin-tiered | sed -E ':again; s/^([^=]*)[_.]/\1-/; t again; s/.*/\L&/' | LC_ALL=C sort
