# make quickstart | test | test-all | test-ray | check | docs | dist | clean. Each installs what it needs into .venv, once.

# The newest Python for which RecBole's latest release installs; any from 3.10 on will do: make test PYTHON=python3.12
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
# Versions are pinned, so pip's hint to upgrade itself is noise here. Its warnings and errors still show.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
NEEDS := setup.cfg pyproject.toml constraints.txt

# The Pythons of `make test-all`; those of pyenv are found, too.
PYTHONS ?= python3.11 python3.10 python3.12 python3.13

.PHONY: quickstart test test-all test-ray check docs dist clean
.DELETE_ON_ERROR:

quickstart: .venv/.quickstart
	$(BIN)/blair-rec compare configs/quickstart.yaml -o runs/quickstart

test: .venv/.test
	$(BIN)/python -m pytest --numprocesses auto --junitxml .venv/tests.xml

# The built package on each Python: its first run in an empty environment, and the fast half of the tests; on the Python
# of .venv the whole suite counts, as `make test` ran it. Results: benchmarks/results/pythons.md. Options of the script:
# make test-all OPTIONS="--skip-missing --no-record"
test-all: .venv-tools/.done
	.venv-tools/bin/python benchmarks/pythons.py $(OPTIONS) $(PYTHONS)

# The wheel and the source archive, as they go to PyPI.
dist: .venv-tools/.done
	rm -rf dist
	.venv-tools/bin/python -m build
	.venv-tools/bin/python -m twine check --strict dist/*

# Encoding with a current Ray, which RecBole 1.2.1 does not allow: in an environment with RecBole 1.2.0.
test-ray: .venv-ray/.test
	.venv-ray/bin/python -m pytest tests/text/test_ray_encode.py

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site in site/. A broken link is an error.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-* build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra: the quick start installs no test tools. A change of what is needed makes them stale.
.venv/.quickstart .venv/.test .venv/.dev .venv/.docs: .venv/.%: $(NEEDS) | $(BIN)/python
	@echo "Installing blair_rec[$*] into .venv (the first time takes minutes: PyTorch is large) ..."
	@$(INSTALL) ".[$*]"
	@touch $@

.venv-ray/.test: $(NEEDS) constraints-ray.txt | .venv-ray/bin/python
	@echo "Installing blair_rec[ray] into .venv-ray (the first time takes minutes) ..."
	@grep -vE '^(ray|recbole)==' constraints.txt | cat - constraints-ray.txt > .venv-ray/constraints.txt
	@.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint .venv-ray/constraints.txt --editable ".[ray]" pytest hypothesis
	@touch $@

.venv-tools/.done: | $(BIN)/python
	@$(BIN)/python -m venv .venv-tools
	@.venv-tools/bin/python -m pip install --quiet --disable-pip-version-check build twine
	@touch $@

.venv-ray/bin/python: | $(BIN)/python
	@$(BIN)/python -m venv .venv-ray

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11, or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "$(PYTHON) is no Python 3.10 or later, which blair_rec needs; name one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) can't make virtual environments: install its venv package (Debian, Ubuntu: python3.11-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
