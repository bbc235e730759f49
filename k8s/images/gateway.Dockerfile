# The gateway: Python and its packages, no TensorFlow, no shell, no package manager. Context: the checkout.
#   docker build -f k8s/images/gateway.Dockerfile -t dermserve/gateway:0.1.0 .
# Both bases have the same Debian Python at the same place, so the environment built on one runs on the other.
ARG BUILD_BASE=debian:12-slim
ARG BASE=gcr.io/distroless/python3-debian12:nonroot

FROM ${BUILD_BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
WORKDIR /src
COPY . .
RUN python3 -m venv /tmp/tools \
    && /tmp/tools/bin/pip install --no-cache-dir --disable-pip-version-check cyclonedx-bom==7.5.0 \
    && python3 -m venv --without-pip /opt/dermserve \
    && /tmp/tools/bin/pip --python /opt/dermserve/bin/python install --no-cache-dir --no-compile \
        --disable-pip-version-check -c constraints.txt '.[tracing]' \
    && /tmp/tools/bin/cyclonedx-py environment /opt/dermserve/bin/python --of JSON -o /opt/dermserve/sbom.cdx.json
# What runs needs neither the packages' tests nor headers. Byte code is made here, as the root is read-only later.
RUN find /opt/dermserve/lib -depth -type d \( -name tests -o -name include \) -exec rm -rf {} + \
    && find /opt/dermserve/lib \( -name '*.a' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -delete \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/dermserve/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dermserve gateway" \
      org.opencontainers.image.description="gRPC gateway in front of TensorFlow Serving: a screening aid, never a diagnosis" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/dermserve /opt/dermserve
ENV PATH=/opt/dermserve/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051 50052 9090
# The program itself, not a shell that starts it: it is PID 1 and gets SIGTERM.
ENTRYPOINT ["/opt/dermserve/bin/dermserve"]
CMD ["gateway"]
