#!/bin/sh
# Classify photos with curl and jq, over the edge's HTTP and JSON: an answer, an error by its reason, a retry. ../README.md
# usage: classify.sh PHOTO...; DERMSERVE_URL (http://127.0.0.1:8080), DERMSERVE_MODEL, and DERMSERVE_CA, a PEM file.
set -eu
: "${1:?usage: classify.sh PHOTO...}"
model=${DERMSERVE_URL:-http://127.0.0.1:8080}/v1/models/${DERMSERVE_MODEL:-mobilenet_v3_small}

# A photo on stdin, the answer on stdout. A deadline of 20 s, and as many retries as fit into it: curl waits as long as
# Retry-After says (429, 503). --fail-with-body: an error ends with exit code 22, and the body still says why. --http1.1:
# over HTTP/2, curl 7 loses an answer that comes before the whole photo was sent.
classify() {
    curl --silent --show-error --fail-with-body --http1.1 --noproxy '*' ${DERMSERVE_CA:+--cacert "$DERMSERVE_CA"} \
        --max-time 20 --retry 5 --retry-max-time 20 \
        --data-binary @- --header 'Content-Type: application/octet-stream' "$model:classify?tta=FULL"
}

for photo in "$@"; do # HTTP has no stream of photos: a request each
    answer=$(classify <"$photo") || { printf '%s\n' "$answer" >&2 && exit 1; }
    # In the order in which a person should read it (docs/answers.md); the notice has the disclaimer: always show it.
    printf '%s' "$answer" | jq -r '"\(.verdict) \(.malignancy.level // "")", (.reasons // [] | .[]), .notice'
done
if answer=$(printf 'this is no photo' | classify 2>/dev/null); then exit 1; fi
printf '%s' "$answer" | jq -r '"refused: \(.details[] | select(.reason) | .reason)"' # stable: docs/errors.md
