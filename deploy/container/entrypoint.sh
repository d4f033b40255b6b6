#!/bin/sh
# Starts tritonserver with the flags it should face a network with; further flags come last and win:
#   docker run rt4ksr --model-config-name=gpu
# The reason for each flag is in docs/deploy.md.
set -eu

fail() {
    echo "entrypoint: $1" >&2
    exit 64
}

default_key_file=/etc/rt4ksr/admin-key
if [ -n "${RT4KSR_ADMIN_KEY_FILE:-}" ] || [ -e "$default_key_file" ]; then
    key=$(cat "${RT4KSR_ADMIN_KEY_FILE:-$default_key_file}") || fail "cannot read the admin key"
else
    # Nobody knows this one, so nobody gets in.
    key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
fi
case $key in
    *[!A-Za-z0-9_-]*) fail "the admin key may have letters, digits, - and _ only" ;;
esac
[ "${#key}" -ge 32 ] || fail "the admin key has fewer than 32 characters"

restricted=model-repository,trace,logging
case ${RT4KSR_CLIENT_SHM:=false} in
    true) ;;
    false) restricted=$restricted,shared-memory ;;
    *) fail "RT4KSR_CLIENT_SHM must be true or false" ;;
esac

if [ -n "${RT4KSR_OTLP_URL:-}" ]; then
    set -- --trace-config=mode=opentelemetry \
        --trace-config="opentelemetry,url=$RT4KSR_OTLP_URL" \
        --trace-config=opentelemetry,resource=service.name=rt4ksr \
        --trace-config=level=TIMESTAMPS \
        --trace-config="rate=${RT4KSR_TRACE_RATE:-100}" "$@"
fi

exec tritonserver \
    --model-repository=/models \
    --model-control-mode=none \
    --exit-timeout-secs=30 \
    --log-format=ISO8601 \
    --grpc-address=0.0.0.0 \
    --grpc-port=8001 \
    --grpc-max-connection-age=300000 \
    --grpc-max-connection-age-grace=60000 \
    --grpc-infer-allocation-pool-size=0 \
    --grpc-restricted-protocol="$restricted:admin-key=$key" \
    --http-address=127.0.0.1 \
    --http-port=8000 \
    --http-max-input-size=67108864 \
    --http-header-forward-pattern='(?i)^(format|quality)$' \
    --backend-config=python,shm-growth-byte-size=33550336 \
    --http-restricted-api="$restricted:admin-key=$key" \
    --allow-client-shm="$RT4KSR_CLIENT_SHM" \
    --metrics-address=0.0.0.0 \
    --metrics-port=8002 \
    --metrics-config=histogram_latencies=true \
    --metrics-config=summary_latencies=true \
    "$@"
