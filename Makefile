# Python 3.11 or newer and make are enough: every target installs what it uses into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On a terminal pip shows its progress.
QUIET := $(shell [ -t 2 ] || echo --quiet)
PIP := $(BIN)/python -m pip install $(QUIET) --disable-pip-version-check --constraint constraints.txt
# Marks in the environment: make installs again only if what to install has changed.
SERVING := $(VENV)/.serving
INSTALLED := $(VENV)/.installed

CLIENTS := $(VENV)/clients
NPM_CLIENTS := $(addprefix $(VENV)/clients-,node promptfoo)
MORE_CLIENTS := $(addprefix $(VENV)/clients-,agents chat instructor llama proxy) $(NPM_CLIENTS)
MORE_INSTALLED := $(addsuffix /.installed,$(MORE_CLIENTS))

# Any of these will do.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable

.DEFAULT_GOAL := help
.PHONY: help install serve test test-quick test-clients gpu clients browser check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## install unmask and its development tools into .venv

$(INSTALLED): $(SERVING)
	@echo "installing the development tools into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@

$(SERVING): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("unmask needs Python 3.11 or newer, not %s; name one: make PYTHON=python3.11" % sys.version.split()[0])'
	@echo "installing into $(VENV), which takes some minutes the first time; 1 of 2: torch, by far the largest part"
	@$(PYTHON) -m venv $(VENV)
	@# First and alone, so that it is kept if a later part fails.
	@$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	@echo "2 of 2: unmask and its other dependencies"
	@$(PIP) --editable .
	@touch $@

serve: $(SERVING) ## serve the embedded model on 127.0.0.1:8000; ARGS="..." adds flags of `unmask serve`
	@$(BIN)/unmask serve $(ARGS)

# Two processes with a thread each are done in little more than half the time of one with two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Coverage is measured over the quick tests, which it makes a third slower. Subprocesses are not measured.
test: install ## run all that CI runs and measure coverage; ARGS="..." passes arguments to pytest instead
	@# Checks take one processor, installs mostly the network.
	@$(MAKE) --jobs 2 --no-print-directory check clients browser
ifdef ARGS
	$(PYTEST) $(ARGS)
else
	$(PYTEST) -m "not slow and not clients" --cov --cov-report=term:skip-covered
	$(PYTEST) -m slow
	$(if $(filter-out $(wildcard $(MORE_INSTALLED)),$(MORE_INSTALLED)),@echo "not tested: the clients that make test-clients installs",$(PYTEST) -m clients)
endif

test-quick: install ## run the quick tests, some minutes on two cores; ARGS="..." adds arguments for pytest
	$(PYTEST) -m "not slow and not clients" $(ARGS)

# Without its metadata unmask knows no scheduler, so it is installed, apart and alone.
GPU := build/gpu

gpu: ## run the tests that need a CUDA device and time LLaDA-8B's shape there, or name what is skipped; with PYTHON's packages
	@$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --upgrade --target $(GPU) .
	@PYTHONPATH=$(GPU) $(PYTHON) tests/gpu_packages.py
	PYTHONPATH=$(GPU) $(PYTHON) -m pytest -m gpu -o filterwarnings=default -rs $(ARGS) $$(grep -l 'mark\.gpu' tests/test_*.py)
	PYTHONPATH=$(GPU) $(PYTHON) -m unmask.evals.bench.gpu --json build/gpu.json

clients: install $(CLIENTS)/.installed ## install the clients of others that tests run, beside the development tools

# Their pins and ours exclude each other, so theirs are complete, and lie apart.
$(CLIENTS)/.installed: tests/clients.txt | $(INSTALLED)
	@echo "installing clients into $(CLIENTS)"
	@rm -rf $(CLIENTS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(CLIENTS) --requirement $<
	@touch $@

test-clients: install $(MORE_INSTALLED) ## install and run more clients of others: agents, chats, forms, a proxy, and with npm those of Node
	$(PYTEST) -m clients $(ARGS)

# Each has its own complete pins.
$(VENV)/clients-%/.installed: tests/%.txt | $(INSTALLED)
	@echo "installing clients into $(@D)"
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) --requirement $<
	@touch $@

# What is optional to promptfoo is a gigabyte. It needs one such package, of Linux on x86-64 here, which --force lets pass elsewhere.
$(addsuffix /.installed,$(NPM_CLIENTS)): $(VENV)/clients-%/.installed: tests/%/package.json | $(INSTALLED)
	@echo "installing clients into $(@D)"
	@rm -rf $(@D) && mkdir -p $(@D) && cp $< $(@D)
	@npm install --prefix $(@D) --silent --no-audit --no-fund --no-package-lock --omit=optional --force
	@touch $@

browser: ## install Chromium for the playground's tests, where there is none and Debian's apt-get may be used
	@for name in $(BROWSERS) $$CHROMIUM; do command -v $$name >/dev/null && exit; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Chromium"; apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
	fi || true  # then the tests say what to install

check: install ## run what needs no test run: lint, format, types, import contract, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.sizes

format: install ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## delete the environment, caches and build products
	rm -rf $(VENV) *.egg-info src/*.egg-info build dist .coverage* .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
