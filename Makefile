# Everything a developer or CI runs. Each target installs what it lacks into .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Copies of the lock files that were installed, in the environments that they were installed into.
INSTALLED := $(VENV)/.lock $(VENV)-endpoint/.lock
TOOLS := $(VENV)-lock/.tools $(VENV)-audit/.tools
PIP := -m pip --disable-pip-version-check -qq
SEED ?= 1
MINUTES ?= 5
IMAGE ?=
AUDIO ?=
ARGS ?=
WORKERS ?= 3

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# An empty virtual environment in the target's folder.
define environment
python=; for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	if command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))'; then \
		python=$$name; break; fi; done; \
if [ -z "$$python" ]; then echo "Python 3.11, 3.12, 3.13 or 3.14 is needed: install one and run make again." >&2; exit 1; fi; \
if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	version=$$($$python -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing $$version-venv, which Debian ships apart from Python."; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$version-venv >/dev/null; \
	else \
		echo "Python's venv module is missing: run 'sudo apt-get install python3-venv' and run make again." >&2; exit 1; \
	fi; \
fi; \
$$python -m venv --clear $(@D)
endef

.PHONY: setup
setup: $(STAMP) ## Install everything into .venv (again only when the pins change)

$(VENV)/.lock: requirements-dev.lock
$(VENV)-endpoint/.lock: requirements-endpoint.lock
# A lock file is complete, so nothing is resolved (--no-deps): no later release can change an install.
$(INSTALLED):
	@if cmp -s $< $@ && $(@D)/bin/python -m pip --version >/dev/null 2>&1; then touch $@; exit 0; fi; \
	echo "Installing the pinned packages into $(@D) (once)."; \
	$(environment); \
	$(@D)/bin/python $(PIP) install --no-deps --require-hashes --only-binary=:all: -r $< \
		|| { echo "$< could not be installed. Its first lines say for which machines it is." >&2; exit 1; }; \
	cp $< $@

$(STAMP): $(INSTALLED) pyproject.toml
	@$(BIN)/python $(PIP) install --no-build-isolation --no-deps --editable .
	@for folder in $(VENV) $(VENV)-endpoint; do \
		report=$$($$folder/bin/python -m pip --disable-pip-version-check check 2>&1) \
		|| { echo "The packages in $$folder do not fit together:" >&2; echo "$$report" >&2; exit 1; }; done
	@touch $@

$(VENV)-lock/.tools: PACKAGES := packaging==26.3 uv==0.13.9
$(VENV)-audit/.tools: PACKAGES := pip-audit==2.10.1
$(TOOLS): Makefile
	@$(environment); $(@D)/bin/python $(PIP) install --only-binary=:all: $(PACKAGES); touch $@

.PHONY: lock
lock: $(VENV)-lock/.tools ## Resolve the pins anew after a change in pyproject.toml (ARGS=--upgrade takes newer versions)
	@$(<D)/bin/python -m tests.packaging.lock $(ARGS)

.PHONY: demo
demo: $(STAMP) ## One job from the row to the MP4 on this machine (IMAGE=... AUDIO=... for your own files)
	@$(BIN)/python -m devstack demo $(if $(IMAGE),--image "$(IMAGE)") $(if $(AUDIO),--audio "$(AUDIO)")

.PHONY: test
test: $(STAMP) ## Run all tests (ARGS=... goes to pytest)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

.PHONY: check
check: $(STAMP) ## Lint, format, types, import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy worker devstack tests $(wildcard benchmarks)
	@$(BIN)/lint-imports --no-logo

.PHONY: schema
schema: $(STAMP) ## Write sql/schema.sql anew after a change of the migrations
	@$(BIN)/python -m tests.sql.schema

.PHONY: docs
docs: $(STAMP) ## Write docs/settings.md and .env.example anew after a change of the settings
	@$(BIN)/python -m tests.docs.settings_page
	@$(BIN)/python -m tests.docs.env_example

# Prometheus' own tool for rules; only Debian's and Ubuntu's registry has it as a package.
.promtool/promtool:
	@mkdir -p $(@D); \
	if command -v promtool >/dev/null; then ln -sf "$$(command -v promtool)" $@; \
	elif command -v apt-get >/dev/null; then \
		cd $(@D); apt-get -o APT::Sandbox::User=root download -qq prometheus || { echo "Run apt-get update as root first." >&2; exit 1; }; \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool; rm prometheus_*.deb; \
	else echo "promtool is missing: install Prometheus." >&2; exit 1; fi

.PHONY: alerts
alerts: $(STAMP) .promtool/promtool ## Test the alert rules with Prometheus' promtool (fetched by apt where it is missing)
	@$(BIN)/python -m pytest -q tests/docs/test_promtool.py tests/docs/test_alerts.py $(ARGS)

.PHONY: e2e
e2e: $(STAMP) ## Only the tests that start the daemon and the local stack
	@$(BIN)/python -m pytest -m e2e $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## Kill and cut the parts at random while jobs run (SEED=1 MINUTES=5)
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

.PHONY: attack
attack: $(STAMP) ## Attack a daemon on the shipped machine, and time honest jobs beside it (ARGS="--only NAME ...")
	@$(BIN)/python -m tests.attack $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## Feed mutated files to header readers and decoders (SEED=1 MINUTES=5)
	@$(BIN)/python -m tests.fuzz --seed $(SEED) --minutes $(MINUTES) $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Run every benchmark
	@for file in benchmarks/[a-z]*.py; do name=$${file##*/}; $(BIN)/python -m benchmarks.$${name%.py}; done

.PHONY: audit
audit: $(VENV)-audit/.tools ## Look up known vulnerabilities of the pinned packages (asks PyPI)
	@for lock in requirements*.lock; do echo "$$lock"; \
		$(<D)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r $$lock \
		|| { echo "Either a package above is vulnerable, or PyPI's advisories cannot be reached from here: then nothing was audited." >&2; exit 1; }; done

.PHONY: docker
docker: ## Build the image
	docker build --tag talking-head-worker .
