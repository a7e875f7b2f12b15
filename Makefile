# Everything a newcomer, a developer and CI need. `make help` lists the verbs.
# Overridable: PYTHON (a Python >= 3.10), CONSTRAINTS (a file of pinned versions), PIP_FLAGS, ARGS (extra words for
# the program that the verb runs, for example `make test ARGS=tests/test_tidy.py`), COMPILED (`make test COMPILED=1`
# tests the compiled installation: what of the tests is about compiled modules).

PYTHON      ?= python3
CONSTRAINTS ?= constraints.txt
PIP_FLAGS   ?= --quiet
ARGS        ?=
COMPILED    ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install $(PIP_FLAGS) --disable-pip-version-check --constraint $(CONSTRAINTS)

# The tests of what is compiled, and two of real runs with it. They import what is installed, not the sources beside
# them: by -I and by appending.
COMPILED_TESTS = $(addprefix tests/test_,$(addsuffix .py,compiled core_controller core_worker policies backpressure \
  buffered over_channel learned prices paper property queueing scenarios simulate shaping links journal wire tally quick)) \
  $(addprefix tests/test_runtime.py::test_,every_worker_of_a_mesh_takes_part a_killed_worker_loses_nothing_and_comes_back)
TEST_COMPILED = .venv-compiled/bin/python -I -m pytest --import-mode=append

.DEFAULT_GOAL := help
.NOTPARALLEL:  # the demo and the tests each want the machine for themselves
.PHONY: help demo test lint fmt benchmark compiled clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: .venv/ready  ## install, then run MDI-Exit on a three-worker mesh on this machine (a minute or two)
	@$(BIN)/mdi-exit demo $(ARGS)

test: $(if $(COMPILED),compiled,.venv/ready-to-test)  ## install what the tests need and run them; COMPILED=1: against `make compiled`
	@$(if $(COMPILED),$(TEST_COMPILED),$(BIN)/python -m pytest) -n 2 --dist loadgroup $(or $(ARGS),$(if $(COMPILED),$(COMPILED_TESTS)))

lint: .venv/ready-to-test  ## check style, format and types
	@failed=0; for check in "ruff check ." "ruff format --check ." "mypy mdi_exit tests $(wildcard benchmarks/*.py)"; do \
	  $(BIN)/$$check || failed=1; done; exit $$failed

fmt: .venv/ready-to-test  ## format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

benchmark: .venv/ready  ## run the short form of every benchmark; ARGS=--repetitions=3 for the whole
	@for file in $$(grep -l '^if __name__' benchmarks/*.py); do \
	  $(BIN)/python $$file $(or $(ARGS),--quick) || exit 1; done

compiled: .venv/ready-to-test  ## install once more into .venv-compiled, with what is hot compiled (a minute or two, a C compiler)
	@echo "Compiling mdi-exit into .venv-compiled ..."
	@[ -x .venv-compiled/bin/hatchling ] || { $(BIN)/python -m venv .venv-compiled && \
	  $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    >"$$(.venv-compiled/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth" && \
	  .venv-compiled/bin/python -m pip install $(PIP_FLAGS) --disable-pip-version-check hatchling; }
	@.venv-compiled/bin/python hatch_build.py
	@HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 .venv-compiled/bin/python -m pip install $(PIP_FLAGS) --disable-pip-version-check \
	  --force-reinstall --no-deps --no-build-isolation .

clean:  ## remove the virtual environments and every cache; results in runs/ stay
	rm -rf .venv .venv-compiled .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find mdi_exit tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The installed package is a link to this folder, so only a change of what it needs calls for a new installation.
.venv/ready: .venv/made pyproject.toml $(CONSTRAINTS)
	@echo "Installing mdi-exit and what it needs into .venv (a minute or two; the first time some hundred MB are fetched) ..."
	@$(PIP) --editable .
	@touch $@

.venv/ready-to-test: .venv/ready
	@echo "Installing what the tests need into .venv ..."
	@$(PIP) --editable '.[test]'
	@touch $@

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: '$(PYTHON)' is missing or older than Python 3.10; name another one: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Making a virtual environment in .venv ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "make: '$(PYTHON) -m venv' failed. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@touch $@
