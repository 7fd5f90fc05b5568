# lockgate. `make run` starts a proxy for this computer, and a WireGuard server; `make test` is what CI runs.
#
#   make run ARGS='-s addon.py'     flags of `lockgate run`
#   make test PYTEST='-k tls -x'    flags of pytest

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.PHONY: help run lab test test-all lint bench lock clean distclean system

PYTHON ?= $(firstword $(shell command -v python3 python3.13 python3.12 python3.11))
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
BENCH  ?= ../shared/bench/bench.py
BENCH_ARGS ?= run -p direct,mitmdump,squid,ours -o results-ours.json
# More flags of `lockgate run` under the benchmark, such as: --set store=false
BENCH_FLAGS ?=
ARGS   ?=
PYTEST ?=
# Tests wait more than they compute. A file stays in one process; JOBS=0: all in one, as for a debugger.
JOBS   ?= 2
SPREAD  = $(if $(filter 0,$(JOBS)),,-n $(JOBS) --dist loadfile --no-loadscope-reorder)
# As root the tests in network namespaces have to run; where that cannot be: make test LOCKGATE_REQUIRE_LAB=0
export LOCKGATE_REQUIRE_LAB ?= $(if $(filter 0,$(shell id -u)),1,0)

help:
	@sed -n '1,/^$$/p' $(firstword $(MAKEFILE_LIST)) | sed 's/^# \?//'
	@echo 'targets: run  lab  test  test-all  lint  bench  lock  clean  distclean'

# Without ARGS: a proxy for this computer and, where that can be, a WireGuard server; the first time with a peer's QR code.
run: $(VENV)/.installed
ifeq ($(strip $(ARGS)),)
	@wireguard=; $(BIN)/lockgate wireguard check >/dev/null && wireguard="-m wireguard" || echo 'So without WireGuard.'; \
	exec $(BIN)/lockgate run -m regular@127.0.0.1:8080 $$wireguard
else
	@exec $(BIN)/lockgate run $(ARGS)
endif

# Client, gateway and server in namespaces, for a person; as root. ARGS: flags of `lockgate run` (LAB_PLAIN=1: no tmux).
lab: system $(VENV)/.installed-dev
	@exec $(BIN)/python -m tests.lab.byhand $(ARGS)

test: system $(VENV)/.installed-dev lint
	LOCKGATE_MITMDUMP=$$(.ci/mitmdump $(VENV)) $(BIN)/python -m pytest -m "not slow and not vm" $(SPREAD) $(PYTEST)

test-all: export LOCKGATE_TEST_ALL = 1
test-all: system $(VENV)/.installed-dev lint
	LOCKGATE_MITMDUMP=$$(.ci/mitmdump $(VENV)) $(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict appliance modes

# Side by side with its peers; root, and about half an hour (BENCH_ARGS='run -w W1,W4 -p direct,ours -o results-ours.json' for less).
bench: export OURS_REGULAR     = $(abspath $(BIN))/lockgate run -q --mode regular@{port} --set confdir={dir} --set ssl_verify_upstream_trusted_ca={origin_ca} $(BENCH_FLAGS)
bench: export OURS_TRANSPARENT = $(abspath $(BIN))/lockgate run -q --mode transparent@{port} --set confdir={dir} --set ssl_verify_upstream_trusted_ca={origin_ca} $(BENCH_FLAGS)
bench: export OURS_PASSTHROUGH = $(OURS_TRANSPARENT) --ignore-hosts .*
bench: export OURS_DNS         = $(abspath $(BIN))/lockgate run -q --mode dns@{port} --set confdir={dir} --set dns_name_servers={origin} $(BENCH_FLAGS)
bench: export OURS_WIREGUARD   = $(abspath $(BIN))/lockgate run -q --mode wireguard@{port} --set confdir={dir} --set wireguard_backend=userspace --set ssl_verify_upstream_trusted_ca={origin_ca} $(BENCH_FLAGS)
bench: export OURS_CA          = {dir}/lockgate-ca-cert.pem
bench: export OURS_NOTE       ?= $(shell git describe --always --dirty 2>/dev/null)
bench: $(VENV)/.installed
	@[ -f $(BENCH) ] || { echo "No benchmark here: $(BENCH) is missing (BENCH=path/to/bench.py names another place)."; exit 1; }
	BENCH=$(BENCH) $(PYTHON) tests/bench/rows.py $(BENCH_ARGS)

# New constraints from pyproject.toml; LOCK_ARGS=--upgrade moves every version.
lock:
	.ci/lock $(LOCK_ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

# -- what is needed --------------------------------------------------------------------------------------------------

# Programs that tests use. Root: installed, and named. Not root: named, and the tests that need them are skipped.
system:
	@.ci/system-packages

# The stamps make this a matter of changed constraints only. Both kinds install into the same environment.
$(VENV)/.installed: constraints.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r constraints.txt
	$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

$(VENV)/.installed-dev: constraints-dev.txt constraints.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r constraints-dev.txt
	$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@[ -n '$(PYTHON)' ] || { echo 'Python 3.11 or newer is missing. Install it with: sudo apt install python3 python3-venv'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "lockgate needs Python 3.11 or newer (Debian 12 and 13, Ubuntu 24.04 have it); $(PYTHON) is" \
	         "$$($(PYTHON) -V). Name another one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'Python cannot make an environment here. Install what is missing with: sudo apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
