# A store of models, and a cp to copy it with. Context: the store's own folder, once `python scripts/pack_store.py` has
# written there what is in it and what stays out.
#   docker build -f k8s/images/models.Dockerfile -t dermserve/models:1 .dermserve/store
ARG MODELS_BASE=docker.io/library/busybox:1.37

FROM ${MODELS_BASE}
ARG MODELS_BASE
ARG VERSION=1
LABEL org.opencontainers.image.title="dermserve models" \
      org.opencontainers.image.description="Versioned SavedModels; the licences of the weights are in each card" \
      org.opencontainers.image.base.name="${MODELS_BASE}" \
      org.opencontainers.image.version="${VERSION}"
COPY . /store
USER 10001:10001
# For an init container; as an image volume nothing of it runs.
ENTRYPOINT ["cp", "-R", "/store/.", "/models/"]
