# Two commands do everything on a fresh machine: `make demo` and `make test`.
# All that is installed goes into .venv; a stamp file there says what is done.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := .venv-plugins
JOBS ?= 2
PYTEST ?= $(BIN)/pytest -q -n $(JOBS) --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check native plugins sanitize lint format docs bench clean

help:
	@echo "make demo    set up, train and prune two networks on real digits, measure every checkpoint"
	@echo "make test    set up, lint, type-check, build what there is to build, run every test"
	@echo "make lint    ruff and mypy      make format  let ruff format"
	@echo "make docs    run the examples of README.md and docs/"
	@echo "make bench   run the benchmarks make clean   remove .venv and everything built"
	@echo "make native  build and test the C++ kernels      make sanitize  the same under ASan and UBSan"
	@echo "make plugins install the plugins of plugins/ into .venv-plugins and run their tests"

demo: $(VENV)/base.stamp
	$(BIN)/deepstruct demo

# pytest comes last, so that its summary is what a log ends with.
test: $(VENV)/dev.stamp lint native plugins
	OMP_NUM_THREADS=1 $(PYTEST) tests

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

native: $(VENV)/dev.stamp
	@if [ ! -f CMakeLists.txt ]; then exit 0; \
	elif ! command -v $${CXX:-c++} >/dev/null; then \
		echo "No C++ compiler (c++): the native parts and their tests are left out."; \
	else \
		$(BIN)/cmake -S . -B build/cmake -G Ninja -DCMAKE_BUILD_TYPE=Release \
			-DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" && \
		$(BIN)/cmake --build build/cmake && \
		$(BIN)/ctest --test-dir build/cmake --output-on-failure -j $(JOBS); \
	fi

# The plugins of this repository, each with its own tests, in an environment of their own.
plugins: $(PLUGINS)/done.stamp
	@for tests in plugins/*/tests; do echo "== $$tests"; \
		OMP_NUM_THREADS=1 $(PLUGINS)/bin/python -m pytest -q -p no:cacheprovider -c /dev/null --rootdir $$tests $$tests \
		|| exit 1; done

sanitize: $(VENV)/dev.stamp
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_BUILD_TYPE=Debug -DDEEPSTRUCT_SANITIZE=ON \
		-DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja"
	$(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure -j $(JOBS)

docs: $(VENV)/dev.stamp
	$(BIN)/pytest -q tests/docs

bench: $(VENV)/dev.stamp
	@if ls benchmarks/*.py >/dev/null 2>&1; then \
		for f in benchmarks/bench_*.py benchmarks/*/bench_*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done; \
	else echo "There are no benchmarks yet."; fi

# python -m venv fails half-way on systems that ship Python without ensurepip: ask first.
check:
	@if [ -z "$(PYTHON)" ]; then \
		echo "deepstruct needs Python 3.10 or newer, found: $$(python3 --version 2>&1 || true)."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; fi
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: install its venv package"; \
		echo "(on Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }

$(VENV)/bin/python: | check
	$(PYTHON) -m venv $(VENV)

# The sources of the kernels are among them: a library that was built from others is refused, and all is slow.
$(VENV)/base.stamp: pyproject.toml setup.py requirements/base.txt $(shell find csrc -type f) | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -r requirements/base.txt
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp requirements/dev.txt requirements/zoo.txt
	$(BIN)/python -m pip install -q -r requirements/dev.txt
	$(BIN)/python -m pip install -q --no-deps -r requirements/zoo.txt
	@touch $@

$(PLUGINS)/done.stamp: $(VENV)/dev.stamp requirements/plugins.txt plugins/environment.py \
		$(wildcard plugins/*/pyproject.toml plugins/*/*/*.py)
	$(BIN)/python plugins/environment.py $(PLUGINS) build/plugin-packages
	@touch $@

clean:
	rm -rf $(VENV) $(PLUGINS) build dist demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
