#!/bin/sh
# The daemon with an S3 server and the segments of a broker that does not exist, until Ctrl-C. Everything is in trial/,
# which each start makes anew. Usage: .ci/trial.sh <bin of the program> <bin of the server> <port of the server>
set -eu
cd "$(dirname "$0")/.."
bin=$1 servers=$2 endpoint=http://127.0.0.1:$3

if [ -e trial ] && [ ! -e trial/takhin.yaml ]; then
    echo "trial/ is not an earlier trial's directory. Move it away." >&2
    exit 1
fi
if curl -s -o /dev/null "$endpoint"; then
    echo "Something answers at $endpoint already. Choose another port: make trial S3_PORT=4567" >&2
    exit 1
fi
rm -rf trial
mkdir trial
cat >trial/takhin.yaml <<YAML
storage:
  data:
    dir: $PWD/trial/data
  tiered:
    enabled: true
    s3:
      bucket: trial
      endpoint: $endpoint
logging:
  format: text
YAML
"$bin/takhin-tiered" demo --segments trial/data

# In a session of its own: Ctrl-C ends the daemon first, and then the server.
BIND_HOST=127.0.0.1 GATEWAY_PORT=$3 setsid "$servers/ministack" >trial/server.log 2>&1 &
server=$!
trap 'kill $server' EXIT
trap : INT
tries=0
until curl -sf -o /dev/null -X PUT "$endpoint/trial"; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ] || ! kill -0 $server; then
        echo "The S3 server does not start: see trial/server.log" >&2
        exit 1
    fi
    sleep 0.2
done
AWS_ACCESS_KEY_ID=trial AWS_SECRET_ACCESS_KEY=trial "$bin/takhin-tiered" --config trial/takhin.yaml run
