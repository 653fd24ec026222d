# Every step is a plain command; README.md lists them for users without make.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# Of a virtual environment, by system.
SCRIPTS = $(if $(filter Windows_NT,$(OS)),Scripts,bin)
# zig links against an old glibc, whatever this machine has. Elsewhere: make wheel WHEEL_ARGS=
WHEEL_ARGS ?= --zig --compatibility manylinux_2_28
RUST_SOURCES = Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name 'Cargo.toml')

.DEFAULT_GOAL := help
.PHONY: help setup build fmt lint test bench site docs demo wheel sdist test-wheel crate check-release clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.built: pyproject.toml constraints.txt $(RUST_SOURCES)
	@command -v cargo >/dev/null || { echo "error: cargo not found; install Rust 1.85 or later"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: $(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "== virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@ls -d $(VENV)/lib/python*/site-packages/torch >/dev/null 2>&1 \
	    || echo "== PyTorch is large: this loads about 3 GB once and takes some minutes"
	@echo "== Python packages, and the Rust extension in release mode"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.built  ## Virtual environment, dependencies, Rust extension (again only when they change)

build: setup  ## The same as setup


fmt: setup  ## Format Rust and Python
	cargo fmt
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: setup  ## Formatting, clippy, ruff, mypy: nothing may warn
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python -m mypy

test: setup  ## All tests, Rust and Python
	cargo test --workspace --locked -q
	$(BIN)/python -m pytest -q -n auto --dist loadfile

bench: setup  ## Speed: the core by itself (criterion), then against other tools (benches/README.md)
	cargo bench -p xmc-benches --locked
	$(BIN)/python benches/bench_peers.py --size $(or $(SIZE),small) $(BENCH_ARGS)
	$(BIN)/python benches/bench_files.py
	$(BIN)/python benches/bench_sampling.py
	$(BIN)/python benches/bench_statistics.py
	$(BIN)/python benches/losses.py
	$(BIN)/python benches/train_step.py --processes 2
	$(BIN)/python benches/search.py

site: target/tools/.built  ## The manual and the API of Python as a site, every link checked: target/site
	target/tools/$(SCRIPTS)/python docs/site/build.py

docs: setup site  ## The site, and the API pages of Rust (target/doc); run every example
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p xmc-core --locked
	$(BIN)/python -m pytest -q tests/test_docs.py python/dexml --doctest-modules

demo: setup  ## The whole job on real data: a light and a full run, scored beside baselines
	$(BIN)/python -m dexml.demo $(DEMO_ARGS)

# What builds the site and the wheel; none of it needs the package or PyTorch.
target/tools/.built: constraints.txt
	$(PYTHON) -m venv target/tools
	target/tools/$(SCRIPTS)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
	    maturin ziglang mkdocs-material 'mkdocstrings[python]' ruff
	@touch $@

wheel: target/tools/.built  ## One wheel for every Python from 3.11 on, in dist/
	rm -f dist/*.whl
	PATH="$(CURDIR)/target/tools/$(SCRIPTS):$$PATH" maturin build --release --locked $(WHEEL_ARGS) --out dist

sdist: target/tools/.built  ## The sources as an archive, in dist/
	rm -f dist/*.tar.gz
	target/tools/$(SCRIPTS)/maturin sdist --out dist

# Tests that need neither an extra nor PyTorch.
BASE_TESTS = $(addprefix tests/test_,$(addsuffix .py,data data_command entry label_matrices metrics \
    metrics_command metrics_sets rust sampling statistics topk tree_core writers))

test-wheel:  ## The wheel in a clean environment of PYTHON, without PyTorch: base tests
	rm -rf target/clean
	$(PYTHON) -m venv target/clean
	target/clean/$(SCRIPTS)/python -m pip install -q --disable-pip-version-check dist/*.whl hypothesis pytest pytest-timeout
	target/clean/$(SCRIPTS)/python -m pytest -q $(BASE_TESTS)

crate:  ## The Rust core as a crate, built from its archive: target/package
	cargo package -p xmc-core --locked

check-release:  ## Is anything missing that a release needs?
	$(PYTHON) docs/check_release.py

clean:  ## Remove what make has made, the virtual environment included
	rm -rf $(VENV) dist target runs python/dexml/_rust*.so
