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
    if [ "$lib/.done" -nt tests/kafka/pom.xml ]; then continue; fi
    command -v mvn >/dev/null || skip "There are no jars of Kafka $version, and no mvn to fetch them."
    echo "Fetching Kafka $version into .make/kafka ..."
    mvn -q -B -f tests/kafka/pom.xml "-Dkafka.version=$version" dependency:copy-dependencies "-DoutputDirectory=$lib" \
      || skip "Maven could not fetch Kafka $version."
    touch "$lib/.done"
  done
fi
# The oldest Java client that Kafka 4 serves. Without it the tests of the endpoint go by the other clients alone.
lib=$PWD/.make/kafka-clients/2.1.1/lib
if ! [ "$lib/.done" -nt tests/kafka/client-pom.xml ]; then
  if command -v mvn >/dev/null && mvn -q -B -f tests/kafka/client-pom.xml dependency:copy-dependencies "-DoutputDirectory=$lib"; then
    touch "$lib/.done"
  else
    printf '\n*** There are no jars of the Java client 2.1.1: it is NOT tested. ***\n\n' >&2
  fi
fi
for version in ${TAKHIN_TEST_KAFKA_VERSIONS//,/ }; do
  ls "$TAKHIN_TEST_KAFKA/$version/lib/"kafka_*.jar >/dev/null 2>&1 || skip "$TAKHIN_TEST_KAFKA has no jars of Kafka $version."
done
exec "$bin/pytest" tests/kafka --durations=5 "$@"
