#!/bin/sh
# Classify photos with grpcurl and jq: one photo, an error by its reason, a stream, and a retry. See ../README.md.
# usage: classify.sh PHOTO...; DERMSERVE_SERVER (127.0.0.1:50051), DERMSERVE_MODEL, and DERMSERVE_CA, a PEM file, for TLS;
# DERMSERVE_PROTOSET, a file that `dermserve proto` wrote, where the gateway has no reflection.
set -eu
: "${1:?usage: classify.sh PHOTO...}"
name=${DERMSERVE_MODEL:-mobilenet_v3_small}

# Requests on stdin, answers on stdout, an error as JSON on stderr. 20 s are the deadline.
call() {
    if [ -n "${DERMSERVE_CA:-}" ]; then set -- "$1" -cacert "$DERMSERVE_CA"; else set -- "$1" -plaintext; fi
    method=$1 && shift
    grpcurl "$@" ${DERMSERVE_PROTOSET:+-protoset "$DERMSERVE_PROTOSET"} -max-time 20 -format-error -d @ \
        "${DERMSERVE_SERVER:-127.0.0.1:50051}" "dermserve.v1.Classifier/$method"
}
request() { printf '{"model": {"name": "%s"}, "tta": "TTA_MODE_FULL", "image": "%s"}' "$name" "$(base64 | tr -d '\n')"; }
# The field of an error's details: `reason` is stable (docs/errors.md), `retryDelay` is there where trying again helps.
detail() { printf '%s' "$answer" | jq -r ".details[]? | .$1 // empty" 2>/dev/null; }

# Leave an answer or an error in $answer, and try again as long as the gateway says when (RetryInfo).
classify() {
    input=$(request)
    until answer=$(printf '%s' "$input" | call Classify 2>&1); do
        delay=$(detail retryDelay)
        if [ -z "$delay" ]; then return 1; fi
        echo "$(detail reason): trying again in $delay" >&2
        sleep "${delay%s}"
    done
}

if ! classify <"$1"; then
    echo "$answer" >&2
    exit 1
fi
# In the order in which a person should read it (docs/answers.md); the notice has the disclaimer: always show it.
printf '%s' "$answer" | jq -r '"\(.verdict) \(.malignancy.level // "")", (.reasons // [] | .[]), .notice'
if classify <<END; then exit 1; fi
this is no photo
END
echo "refused: $(detail reason)"
{
    for photo in "$@"; do printf '{"id": "%s", "request": %s}' "$photo" "$(request <"$photo")"; done
    printf '{"id": "no photo", "request": %s}' "$(printf 'this is no photo' | request)"
} | call ClassifyStream | jq -r '"stream: \(.id) \(.response.verdict // (.error.details[] | .reason // empty))"'
