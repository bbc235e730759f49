# The stand-in for TensorFlow Serving, for the local overlay alone (docs/modelserver.md). Context: the checkout.
#   docker build -f k8s/images/local.Dockerfile -t dermserve/local:0.1.0 .
ARG BASE=debian:12-slim

FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/dermserve \
    && /opt/dermserve/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[local]'

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dermserve local model server" \
      org.opencontainers.image.description="Stand-in for TensorFlow Serving on a laptop; not for production" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/dermserve /opt/dermserve
ENV PATH=/opt/dermserve/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=1
USER 10001:10001
EXPOSE 8500
ENTRYPOINT ["/opt/dermserve/bin/python", "-m", "dermserve.modelserver"]
