# The stand-in for TensorFlow Serving, for the local overlay alone (docs/modelserver.md). Context: the checkout.
#   docker build -f k8s/images/local.Dockerfile -t dermserve/local:0.1.0 .
ARG BUILD_BASE=docker.io/library/debian:12-slim

FROM ${BUILD_BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --disable-pip-version-check cyclonedx-bom==7.5.0
WORKDIR /src
# What it depends on first, which changes less often than it does: TensorFlow alone takes minutes.
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv --without-pip /opt/dermserve \
    && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
e = p["optional-dependencies"]; every = [*p["dependencies"], *e["gateway"], *e["store"], *e["models"]]; \
print(*(each for each in every if not each.startswith("dermserve[")), sep="\n")' >/tmp/requirements.txt \
    && /opt/tools/bin/pip --python /opt/dermserve/bin/python install --disable-pip-version-check -c constraints.txt \
        -r /tmp/requirements.txt
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/tools/bin/pip --python /opt/dermserve/bin/python install --disable-pip-version-check -c constraints.txt \
        '.[local]' \
    && /opt/tools/bin/cyclonedx-py environment /opt/dermserve/bin/python --pyproject pyproject.toml --of JSON \
        -o /opt/dermserve/sbom.cdx.json

FROM ${BUILD_BASE}
ARG BUILD_BASE
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="dermserve local model server" \
      org.opencontainers.image.description="Stand-in for TensorFlow Serving on a laptop; not for production" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BUILD_BASE}" \
      org.opencontainers.image.version="${VERSION}"
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/dermserve /opt/dermserve
ENV PATH=/opt/dermserve/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=1
USER 10001:10001
EXPOSE 8500
ENTRYPOINT ["/opt/dermserve/bin/python", "-m", "dermserve.modelserver"]
