#!/bin/sh
# Generates gen/ from the protos that `dermserve proto` writes. PROTOC may name another compiler, for example that of
# `pip install grpcio-tools`: PROTOC="python3 -m grpc_tools.protoc".
set -eu
GOBIN=$PWD/gen/bin go install tool
dermserve proto --out gen/protos >/dev/null
PATH=$PWD/gen/bin:$PATH ${PROTOC:-protoc} -Igen/protos \
    --go_out=gen --go_opt=module=dermserve.dev/proto --go-grpc_out=gen --go-grpc_opt=module=dermserve.dev/proto \
    dermserve/v1/card.proto dermserve/v1/classifier.proto
