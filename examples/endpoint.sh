#!/usr/bin/env bash
# Upscale a file with curl: examples/endpoint.sh in.jpg out.webp [jpeg|png|webp] [HOST:PORT]
set -euo pipefail

source=$1 target=$2 format=${3:-jpeg} server=${4:-127.0.0.1:8000}
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# The file is the whole request; the header says that no JSON comes before it.
status=$(curl -sS -o "$answer" -w '%{http_code}' \
    -H 'Inference-Header-Content-Length: 0' -H "format: $format" --data-binary "@$source" \
    "http://$server/v2/models/rt4ksr_x2_image/infer")
if [ "$status" != 200 ]; then
    echo "error: $(cat "$answer")" >&2
    exit 1
fi
# Triton puts a JSON header and four bytes, the length of the file, before the file.
perl -0777pe 's/^.*?]}....//s' "$answer" > "$target"
