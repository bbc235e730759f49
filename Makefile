# The contributor's whole interface. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGE ?=
DOCKER ?= docker
BUILD_ARGS ?=
# Labels, not build arguments, whose change podman 4's cache does not see.
BUILD = $(DOCKER) build --label org.opencontainers.image.revision=$$(git rev-parse HEAD) $(BUILD_ARGS)
PYTEST_ARGS ?=
# What `make breaking` compares the API with.
BASE ?= main
STORE := .dermserve/store
SCRATCH = "$(CURDIR)/build/tmp"
# Says what pip downloads, with its size, and how far it is with what is large (pip 24.1 and later tell).
# Pip compiles each package by itself, for half a minute of one core: it is done at the end, on all of them.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt \
	$$($(BIN)/python -m pip install --help | grep -q 'raw' && echo --progress-bar raw) -e '.[$(1)]' | awk ' \
	/^ *(Downloading|Using cached) .*\(/ { sub(/^ */, ""); print "  " substr($$0, 1, 110); said = 0; fflush() } \
	/^Progress/ && $$4 > 2e7 { tenth = int(10 * $$2 / $$4); \
	    if (tenth > said) { said = tenth; printf "    %d %% of %d MB\n", 10 * tenth, $$4 / 1e6; fflush() } } \
	/^Installing/ { print "  " substr($$0, 1, 76) " ..."; fflush() }' && \
	{ $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true; }  # some hold files of another Python

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all check format proto breaking bench regression loadtest comparison docs web examples images test-images test-k8s audit constraints clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/pip: 
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dermserve needs Python 3.11 or later: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/local: $(VENV)/pip pyproject.toml constraints.txt
	@echo "installing what serving needs: about 0.8 GB to download, most of it TensorFlow, and 2.5 GB on disk"
	@$(call INSTALL,local)
	@touch $@

$(VENV)/dev: $(VENV)/local
	@echo "installing what tests and checks need"
	@$(call INSTALL,dev)
	@touch $@

demo: $(VENV)/local  ## Serve the models on this machine and classify a picture (IMAGE=photo.jpg, MODEL=mobilenet_v3_small)
	@$(BIN)/dermserve demo --store "$(STORE)" $(if $(MODEL),--model "$(MODEL)") $(if $(IMAGE),"$(IMAGE)")

# Tests share the machine: at most four workers. tests/conftest.py says how many, what runs together, in which order.
# Bytecode is written, although an environment may forbid it: tests start hundreds of processes.
PYTEST = rm -rf $(SCRATCH) && mkdir -p $(SCRATCH) && { TMPDIR=$(SCRATCH) \
	PYTHONDONTWRITEBYTECODE= MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 $(BIN)/python -m pytest \
	--numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder --basetemp=$(SCRATCH)/pytest -m $(1) $(PYTEST_ARGS); \
	code=$$?; rm -rf $(SCRATCH); exit $$code; }

# A few tests in this process alone; their files stay in build/.
FEW = mkdir -p build && $(BIN)/python -m pytest --basetemp=build/pytest-$@

test: $(VENV)/dev  ## Run the tests but the slow ones (PYTEST_ARGS=... to choose)
	@$(call PYTEST,"not slow")

test-slow: $(VENV)/dev  ## Run the tests that train networks, run Locust or Chromium for long, soak or build
	@$(call PYTEST,slow)

test-all: $(VENV)/dev  ## Run both in one go, as CI does
	@$(call PYTEST,"slow or not slow")

check: $(VENV)/dev  ## Formatting, lint, types, import layers, fresh stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(FEW) -q tests/proto

format: $(VENV)/dev  ## Format the code and mend what lint can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/dev  ## Generate the stubs and dermserve.protoset in proto/gen, and the OpenAPI document
	$(BIN)/python scripts/stubs.py

breaking: $(VENV)/dev  ## Whether the API still fits BASE's on the wire and in JSON (BASE=main); for CI, once releases promise it
	$(BIN)/buf breaking --against "$$(git rev-parse --path-format=absolute --git-common-dir)#ref=$$(git rev-parse -q --verify $(BASE) || git rev-parse --verify origin/$(BASE))"

bench: $(VENV)/dev  ## Compare the gateway with a direct Predict and with a relay without features, and the edge with both
	$(BIN)/python -m benchmarks.gateway --edge --store "$(STORE)"

regression: $(VENV)/dev  ## Whether the gateway is slower beside a direct Predict or a relay than its bounds (one run, any machine)
	@$(FEW) -q tests/benchmarks/regression.py

loadtest: $(VENV)/dev  ## Load on the local stack: photos a second a core, then the thresholds of loadtest/slo.toml (a quarter of an hour)
	@$(BIN)/dermserve-loadtest capacity --local --store "$(STORE)" --slo p95=4s --callers 1,4 --probe 10s --probes 2 \
	    --precision 0.25 --mix resnet50:none --mix resnet50:full --mix mobilenet_v3_small:none --mix mobilenet_v3_small:full
	@$(BIN)/dermserve-loadtest run --local --store "$(STORE)" --users 4 --run-time 2m --warm-up 10s --slo loadtest/slo.toml

comparison: $(VENV)/dev  ## Compare with other ways to serve the same weights (an hour or more; COMPARISON_ARGS="--rounds 1")
	$(BIN)/python -m benchmarks.comparison $(COMPARISON_ARGS)

docs: $(VENV)/dev  ## Render the documentation as a site in build/docs; a broken link is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo "build/docs/docs/index.html"

web:  ## Build the page and fetch its on-device runtime (needs Node.js 20)
	cd client/web && npm ci --ignore-scripts --no-audit --no-fund && node build.mjs --runtime && npm run --silent check

examples: $(VENV)/dev  ## Build and run the examples of clients that this machine has tools for (PYTEST_ARGS="-k go")
	@$(FEW) tests/examples --verbose $(PYTEST_ARGS)

images: $(VENV)/local  ## Build the images for Kubernetes (DOCKER=podman, STORE=folder)
	@test -d "$(STORE)" || $(BIN)/dermserve export --store "$(STORE)"
	$(BUILD) -f k8s/images/gateway.Dockerfile --target gateway -t docker.io/dermserve/gateway:0.1.0 .
	$(BUILD) -f k8s/images/gateway.Dockerfile --target edge -t docker.io/dermserve/edge:0.1.0 .
	$(BUILD) -f k8s/images/gateway.Dockerfile --target loadtest -t docker.io/dermserve/loadtest:0.1.0 .
	$(BUILD) -f k8s/images/gateway.Dockerfile --target store -t docker.io/dermserve/store:0.1.0 .
	$(BUILD) -f k8s/images/local.Dockerfile -t docker.io/dermserve/local:0.1.0 .
	models=$$($(BIN)/python scripts/pack_store.py "$(STORE)") && \
	    $(BUILD) -f k8s/images/models.Dockerfile -t docker.io/dermserve/models:1 --label dev.dermserve.models="$$models" "$(STORE)"

test-images: $(VENV)/dev images  ## Build the images and run them as Kubernetes would (DOCKER=podman): ten minutes or more
	export DERMSERVE_TEST_IMAGES=$(DOCKER) DERMSERVE_STORE="$$(realpath "$(STORE)")"; $(FEW) tests/k8s/test_images.py -rP $(PYTEST_ARGS)

test-k8s: $(VENV)/dev  ## Apply the manifests to a real API server, built first: half an hour or more, once
	@assets=$$(scripts/kube_apiserver.sh) && export KUBEBUILDER_ASSETS=$$assets && $(FEW) tests/k8s $(PYTEST_ARGS)

audit: $(VENV)/dev  ## Bill of materials in build/sbom.cdx.json, and known vulnerabilities, where PyPI's advisories can be reached
	@$(PYTHON) -m venv build/audit && build/audit/bin/pip install -q --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
	build/audit/bin/cyclonedx-py environment $(BIN)/python --of JSON -o build/sbom.cdx.json
	build/audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip --progress-spinner off

web-tools:  ## Fetch what tests of the page need, and build nothing
	cd client/web && npm ci --ignore-scripts --no-audit --no-fund && node build.mjs --runtime-only

constraints: $(VENV)/dev  ## Write constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:  ## Remove the environment, the local store and caches
	rm -rf "$(VENV)" .dermserve build .mypy_cache .pytest_cache .ruff_cache .hypothesis
