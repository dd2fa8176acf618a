# make quickstart [AUDIO_DIR=your/folder]   set up and run the main job
# make test                                 set up and run the tests
# make lint | bench | conformance | esc10 ESC50_DIR=... | same-embedding RUN=... MANIFEST=...   what else there is
# PYTHON=... chooses the interpreter (3.11 to 3.13), VENV=... the environment.

VENV ?= .venv
OUTPUT ?= quickstart_output
AUDIO_DIR ?=
QUICKSTART_FLAGS ?=
ESC50_DIR ?= ../shared/data/esc50
RUN ?=
MANIFEST ?=
IS_SUITABLE = -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p $(IS_SUITABLE) 2>/dev/null && echo $$p && break; done)
BIN = $(VENV)/bin
# setuptools warns at length of what every editable installation is.
INSTALL = PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable
# tensorflow-addons has no wheels past Python 3.11, and needs a TensorFlow of its time.
LEGACY_PYTHON ?= $(shell for p in python3.11 python3.10 python3.9; do \
	$$p -c pass 2>/dev/null && echo $$p && break; done)
LEGACY_VENV ?= .venv-legacy

.PHONY: quickstart test lint bench triplets-scale conformance same-embedding esc10 clean

quickstart: $(VENV)/.package
	$(BIN)/tfsound quickstart --output "$(OUTPUT)" $(if $(AUDIO_DIR),--audio-dir "$(AUDIO_DIR)") $(QUICKSTART_FLAGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# The contract is about the package as users get it, so it is read from an installed copy.
	rm -rf $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/installed .
	cd $(VENV)/installed && PYTHONPATH=. $(abspath $(BIN))/lint-imports --no-cache --config $(CURDIR)/pyproject.toml

bench: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks

triplets-scale: $(VENV)/.test
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m tests.benchmarks.triplets_scale

conformance: $(VENV)/.test $(LEGACY_VENV)/.requirements
	$(LEGACY_VENV)/bin/python tests/conformance/semi_hard_triplet_loss.py
	$(BIN)/python -m pytest tests/test_losses.py
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(BIN)/python tests/conformance/write_export.py "$$folder" \
		&& $(LEGACY_VENV)/bin/python tests/conformance/load_export.py "$$folder"

same-embedding: $(VENV)/.test
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m tests.conformance.same_embedding "$(RUN)" "$(MANIFEST)"

esc10: $(VENV)/.package
	$(BIN)/tfsound quickstart --output results/esc10 --dataset esc10 --audio-dir "$(ESC50_DIR)" \
		--folds 1 2 3 4 5 $(QUICKSTART_FLAGS)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "tfsound needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.package: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "Installing tfsound and TensorFlow into $(VENV): one to three minutes, 2.5 GB."
	$(INSTALL) .
	@touch $@

$(VENV)/.test: $(VENV)/.package
	$(INSTALL) '.[test]'
	@touch $@

$(LEGACY_VENV)/.requirements: tests/conformance/requirements.txt
	@test -n "$(LEGACY_PYTHON)" || { echo "conformance needs Python 3.9, 3.10 or 3.11; name one: make LEGACY_PYTHON=..." >&2; exit 1; }
	$(LEGACY_PYTHON) -m venv $(LEGACY_VENV)
	$(LEGACY_VENV)/bin/pip install --quiet --requirement $<
	@touch $@

clean:
	rm -rf $(VENV) $(LEGACY_VENV) build dist *.egg-info
