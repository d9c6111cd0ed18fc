#!/usr/bin/env bash
# Run the tests with the newest versions that the bounds in pyproject.toml admit: what a plain `pip install .` gets
# today. With BEYOND=1 in the environment, with the newest of all: that tells which upper bounds may be raised.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
readonly environment=.make/latest

rm -rf "$environment"
"$python" -m venv "$environment"
"$environment/bin/pip" install --quiet --upgrade pip
if [ -n "${BEYOND:-}" ]; then
  "$environment/bin/python" - <<'END' >"$environment/requirements.txt"
import re
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
    print(re.sub(r",<[^,;]+", "", requirement))
END
  "$environment/bin/pip" install --quiet --upgrade --requirement "$environment/requirements.txt"
  # The project's own bounds would take them back.
  "$environment/bin/pip" install --quiet --no-deps --editable .
else
  "$environment/bin/pip" install --quiet --upgrade --editable '.[test]'
  "$environment/bin/pip" check
fi
echo "Versions other than those of constraints.txt:"
"$environment/bin/python" - <<'END'
import re
from importlib.metadata import distributions
from pathlib import Path

pinned = dict(line.split("==") for line in Path("constraints.txt").read_text().split())
for distribution in sorted(distributions(), key=lambda one: one.name.lower()):
    name = re.sub(r"[-_.]+", "-", distribution.name).lower()
    if name not in {"pip", "setuptools", "takhin-tiered"} and distribution.version != pinned.get(name):
        print(f"  {name} {pinned.get(name, '(not there)')} -> {distribution.version}")
END
# The one test that is about the constraints has nothing to say here.
exec "$environment/bin/pytest" "$@" \
  --deselect tests/packaging/test_dependencies.py::test_the_constraints_cover_whatever_is_installed_for_the_program_and_its_tests
