# Every step is a plain command; README.md lists them for users without make.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
RUST_SOURCES = Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name 'Cargo.toml')

.DEFAULT_GOAL := help
.PHONY: help setup build fmt lint test test-all bench docs demo clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.built: pyproject.toml constraints.txt $(RUST_SOURCES)
	@command -v cargo >/dev/null || { echo "error: cargo not found; install Rust 1.85 or later"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: $(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "== virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@test -d $(VENV)/lib*/python*/site-packages/torch \
	    || echo "== PyTorch is large: this loads about 3 GB once and takes some minutes"
	@echo "== Python packages, and the Rust extension in release mode"
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.built  ## Virtual environment, dependencies, Rust extension (again only when they change)

build: setup  ## The same as setup

