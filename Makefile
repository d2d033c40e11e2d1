# `make tour` and `make test` need python3, make and a C++20 compiler; the rest comes from PyPI, into VENV.
PYTHON ?= python3
VENV ?= .venv
# A torch that VENV already has is used as it is, else this one. Where pip's index has only a CUDA build, and a CPU build is
# wanted, name its index in PIP_EXTRA_INDEX_URL or its folder in PIP_FIND_LINKS.
TORCH ?= torch==2.13.0

bin := $(abspath $(VENV))/bin
export PATH := $(bin):$(PATH)
pip := $(bin)/python -m pip --disable-pip-version-check -qq
# Stamps in VENV: what was done there, and when.
tools := $(VENV)/.gramian-tools
built := $(VENV)/.gramian-built
sources := pyproject.toml CMakeLists.txt $(wildcard cmake/*) $(shell find csrc -type f ! -name '*.md')

.PHONY: tour test fuzz drill sanitize wide lint bench docs wheel wheel-test install clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo "make tour    build gramian and see what it does, on real data"
	@echo "make test    build gramian and run its tests"
	@echo "make lint    ruff, mypy and clang-format"
	@echo "make docs    build the pages in build/docs, and run the gallery"
	@echo "make fuzz    fuzz every op for hours; FUZZ='--jobs 8 --seconds 600 neighbors_knn' spreads, bounds and chooses"
	@echo "make drill   plant faults, and see that the tests fail on each; DRILL='--seconds 600' bounds"
	@echo "make sanitize  tests under AddressSanitizer and UndefinedBehaviorSanitizer; SANITIZE=tests/test_ntk.py chooses"
	@echo "make wide    tests of the kernels' 64-byte vectors on a CPU without AVX-512; WIDE=tests/test_ntk.py chooses"
	@echo "make wheel   the source distribution and a wheel from it, in dist/; WHEEL_PYTHONS='python3.10 python3.13' for others"
	@echo "make wheel-test  try the wheel in an empty environment; WHEEL_TORCHES='torch==2.10.0 torch' chooses torches"
	@echo "make install  only build; EXTRAS='test docs' installs what those need"
	@echo "make bench   measure against the peers; BENCH='neighbors --quick' chooses"
	@echo "make clean   remove what was built (VENV stays)"

tour: $(built)-demo
	@$(bin)/gramian tour $(TOUR)

test: $(built)-demo $(built)-test
	@$(bin)/python -m pytest $(TEST)

# For hours: what they find is added to tests/results, and docs/trust.md is written from that.
fuzz: $(built)-demo $(built)-test
	@$(bin)/python -m tests.fuzz --inputs 1000000 --json tests/results/fuzz.json $(FUZZ)
	@$(bin)/python tools/trust.py

drill: $(built)-demo $(built)-test
	@$(bin)/python tools/mutate.py --json tests/results/mutants.json $(DRILL)
	@$(bin)/python tools/trust.py

sanitize: $(built)-demo $(built)-test
	@$(bin)/python tools/variant.py sanitize --json tests/results/sanitize.json $(SANITIZE)
	@$(bin)/python tools/trust.py

wide: $(built)-demo $(built)-test
	@$(bin)/python tools/variant.py wide --json tests/results/wide.json $(WIDE)
	@$(bin)/python tools/trust.py

docs: $(built)-demo $(built)-docs
	@$(bin)/python -m benchmarks page docs/performance benchmarks/results/*.json
	@$(bin)/python -m sphinx -q -W --keep-going -d build/docs-cache docs build/docs
	@echo "build/docs/index.html"

wheel: $(tools)
	@$(bin)/python tools/wheel.py build $(WHEEL) --pythons $(WHEEL_PYTHONS)

wheel-test: $(tools)
	@$(bin)/python tools/wheel.py test --pythons $(WHEEL_PYTHONS) --torches $(WHEEL_TORCHES)

bench: $(built)-bench
	@$(bin)/python -m benchmarks $(BENCH)

lint: $(built)-demo $(built)-lint
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(bin)/clang-format --dry-run --Werror

install: $(built) $(EXTRAS:%=$(built)-%)

clean:
	rm -rf build dist docs/gallery docs/performance tour-figures .pytest_cache .ruff_cache .mypy_cache .hypothesis $(built)

$(tools): pyproject.toml tools/preflight.py
	@command -v $(PYTHON) >/dev/null || { echo "gramian needs Python 3.10 or newer: install python3, or name one with PYTHON=" >&2; exit 1; }
	@test -x $(bin)/python || { $(PYTHON) tools/preflight.py && echo "making $(VENV)" && $(PYTHON) -m venv $(VENV); }
	@$(bin)/python tools/preflight.py
	@echo "installing the build tools and torch (unless $(VENV) has one)"
	@$(pip) install "pip>=22" "scikit-build-core>=0.11" "setuptools-scm>=8" "pybind11>=3.0" "cmake>=3.25" "ninja>=1.10" "numpy>=1.26"
	@$(bin)/python -c "import importlib.metadata as m; m.version('torch')" 2>/dev/null || $(pip) install $(TORCH)
	@touch $@

$(built): $(tools) $(sources)
	@echo "building gramian"
	@$(pip) install --no-build-isolation -e .
	@touch $@

# Python sources are used in place, so only pyproject.toml can change what an extra needs.
$(built)-%: extra = $*
$(built)-%: pyproject.toml | $(built)
	@echo "installing what gramian[$(extra)] needs"
	@$(pip) install "gramian[$(extra)]" "torch==$$($(bin)/python -c "import importlib.metadata as m; print(m.version('torch'))")"
	@touch $@
