#!/usr/bin/env bash
# Run the program beside real Apache Kafka brokers: of the jars below $TAKHIN_TEST_KAFKA/<version>/lib, or of
# those that Maven fetches once into .make/kafka. Without Java, or Maven where jars are missing, it says so and is done.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
shift
export TAKHIN_TEST_KAFKA_VERSIONS=${TAKHIN_TEST_KAFKA_VERSIONS:-3.9.1,4.1.0}

skip() {
  printf '\n*** SKIPPED: make test-kafka ran NO test. %s ***\n\n' "$1" >&2
  exit 0
}

command -v java >/dev/null || skip "There is no java: Kafka needs Java 17 or later."
if [ -z "${TAKHIN_TEST_KAFKA:-}" ]; then
  export TAKHIN_TEST_KAFKA=$PWD/.make/kafka
  for version in ${TAKHIN_TEST_KAFKA_VERSIONS//,/ }; do
    lib=$TAKHIN_TEST_KAFKA/$version/lib
    if [ -e "$lib/.done" ]; then continue; fi
    command -v mvn >/dev/null || skip "There are no jars of Kafka $version, and no mvn to fetch them."
    echo "Fetching Kafka $version into .make/kafka ..."
    mvn -q -B -f tests/kafka/pom.xml "-Dkafka.version=$version" dependency:copy-dependencies "-DoutputDirectory=$lib" \
      || skip "Maven could not fetch Kafka $version."
    touch "$lib/.done"
  done
fi
for version in ${TAKHIN_TEST_KAFKA_VERSIONS//,/ }; do
  ls "$TAKHIN_TEST_KAFKA/$version/lib/"kafka_*.jar >/dev/null 2>&1 || skip "$TAKHIN_TEST_KAFKA has no jars of Kafka $version."
done
exec "$bin/pytest" tests/kafka --durations=5 "$@"
