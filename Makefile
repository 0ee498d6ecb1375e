# From a fresh machine to a running system, and from a change to a checked one.
# Needs make and python3 >= 3.11 with its venv module; everything else is fetched into .venv.

PYTHON ?= python3
# A folder of your own documents for `make up`; without it, made-up sample data.
export DATA ?=
# Twice as many as a small machine has cores: the tests wait for servers and processes as long as they compute.
PYTEST_ARGS ?= -n 4 -m "not alone"

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help up down test check bench lock docs system
help:
	@echo "make up               install, load sample data, start the service, print its link"
	@echo "make up DATA=folder   the same with your own documents"
	@echo "make photographs      the loop on real photographs, in a workspace of their own"
	@echo "make down             stop the service and its MongoDB"
	@echo "make test             install what the tests need and run them all, make check first"
	@echo "make check            lint, format, types and the direction of imports"
	@echo "make bench            run the benchmarks"
	@echo "make docs             write the generated pages of docs/ anew"
	@echo "make lock             write the lock files anew after a change of the dependencies"

up: .venv/installed system
	@# One document that was refused doesn't keep the others from being looked at: 1 is told at the end.
	@set -e; failed=0; \
	if [ -n "$$DATA" ]; then $(BIN)/truthloop load -- "$$DATA" || failed=$$?; \
	else $(BIN)/truthloop sample --if-empty || failed=$$?; fi; \
	[ $$failed -le 1 ] || exit $$failed; \
	echo; $(BIN)/truthloop status; \
	echo; $(BIN)/truthloop failures --summary --worst 3 --plot "$${TRUTHLOOP_HOME:-.truthloop}/failure.png"; \
	echo; { [ -z "$$DATA" ] && $(BIN)/truthloop dataset show 2>/dev/null; } || $(BIN)/truthloop dataset build; \
	if [ -z "$$DATA" ]; then echo; make --no-print-directory photographs; fi; \
	echo; $(BIN)/truthloop up --detach; \
	echo "The command is $(BIN)/truthloop; \`. $(BIN)/activate\` puts it on your path. Next: README.md."; \
	[ $$failed = 0 ] || echo "Not everything was loaded: see above, and mend it." >&2; exit $$failed

# The loop on real photographs, in a workspace beside the other: made-up and real documents don't stand in one.
.PHONY: photographs
photographs: export TRUTHLOOP_HOME := $(or $(TRUTHLOOP_HOME),.truthloop)-photographs
photographs: export TRUTHLOOP_DATABASE := $(or $(TRUTHLOOP_DATABASE),truthloop)-photographs
photographs: .venv/installed
	@echo "Real photographs, in the workspace $(TRUTHLOOP_HOME):"
	@$(BIN)/truthloop sample --photos
	@$(BIN)/truthloop predict --unprocessed --model opencv_faces
	@$(BIN)/truthloop dataset show 2>/dev/null || $(BIN)/truthloop dataset build
	@$(BIN)/truthloop down >/dev/null

down: .venv/installed
	$(BIN)/truthloop down

test: check system
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m alone

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed-dev system
	@# What they share stands beside them, and is none.
	@set -e; for benchmark in $$(grep -l __main__ bench/*.py); do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

docs: .venv/installed-dev
	$(BIN)/python docs/generate.py

# Each stamp is as new as the last install; a newer lock or pyproject.toml installs again.
.venv/installed: .venv/python requirements.lock pyproject.toml
	@echo "Installing Truthloop into .venv ..."
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	@echo "Installing what the tests need into .venv ..."
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@touch $@

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Truthloop needs Python 3.11 or newer as $(PYTHON): install it, or name another: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@

# The embedded MongoDB needs one library of the system that a minimal Debian lacks.
system: .venv/installed
	@$(BIN)/python -c 'import ctypes; ctypes.CDLL("libcurl.so.4")' 2>/dev/null || test -n "$$TRUTHLOOP_MONGODB_URI" || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing libcurl4, which the embedded MongoDB needs ..."; \
	    { apt-get update && apt-get install -y --no-install-recommends libcurl4; } >.venv/apt.log 2>&1 || { \
	      cat .venv/apt.log >&2; exit 1; }; \
	  else \
	    echo "The embedded MongoDB needs libcurl.so.4. On Debian or Ubuntu: sudo apt-get install libcurl4" >&2; exit 1; \
	  fi; }

# The locks name versions and hashes only, so that any mirror of the package index serves them.
LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" $(LOCK_ARGS)
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	$(LOCK) --group build --extra demo --output-file requirements.lock
	$(LOCK) --group build --extra demo --group dev --constraint requirements.lock --output-file requirements-dev.lock
