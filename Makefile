# `make demo` and `make test` set themselves up in .venv; the set-up is made again when a project file changes.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PROJECTS := core $(sort $(wildcard plugins/*))
FILES := constraints.txt requirements-dev.txt $(addsuffix /pyproject.toml,$(PROJECTS))

.PHONY: demo test lint clean

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
	touch $@

clean:
	rm -rf $(VENV)
