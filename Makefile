# make quickstart [AUDIO_DIR=your/folder]   set up and run the main job
# make test                                 set up and run the tests
# make prism | flink                        the Beam jobs on these engines, which are fetched into build/engines
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

ENGINES = build/engines
FLINK_VERSION ?= 2.2
BEAM_VERSION = $(shell $(BIN)/python -c 'from importlib import metadata; print(metadata.version("apache-beam"))')
FLINK_JOB_SERVER ?= $(ENGINES)/beam-runners-flink-$(FLINK_VERSION)-job-server-$(BEAM_VERSION).jar

.PHONY: quickstart test lint bench prism flink flink-job-server triplets-scale job-costs conformance same-embedding esc10 clean

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

job-costs: $(VENV)/.test
	TF_CPP_MIN_LOG_LEVEL=3 TQDM_DISABLE=1 $(BIN)/python -m tests.benchmarks.job_costs

conformance: $(VENV)/.test $(LEGACY_VENV)/.requirements
	$(LEGACY_VENV)/bin/python tests/conformance/semi_hard_triplet_loss.py
	$(BIN)/python -m pytest tests/test_losses.py
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(BIN)/python tests/conformance/write_export.py "$$folder" \
		&& $(LEGACY_VENV)/bin/python tests/conformance/load_export.py "$$folder"

same-embedding: $(VENV)/.test
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m tests.conformance.same_embedding "$(RUN)" "$(MANIFEST)"

# The tests start and stop what they need of an engine, on ports that are free.
prism: $(VENV)/.test
	@command -v go >/dev/null || { echo "make prism builds Prism with Go; install it (on Debian: apt-get install golang)." >&2; exit 1; }
	test -x $(ENGINES)/prism || GOBIN=$(abspath $(ENGINES)) \
		go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM_VERSION)
	TFSOUND_PRISM=$(abspath $(ENGINES))/prism $(BIN)/python -m pytest tests/test_beam_engines.py -k "not flink and not manager and not spark"

flink: $(VENV)/.test flink-job-server $(ENGINES)/flink-$(FLINK_VERSION)/.lib
	TFSOUND_FLINK_JOB_SERVER=$(abspath $(FLINK_JOB_SERVER)) TFSOUND_FLINK_LIB=$(abspath $(ENGINES))/flink-$(FLINK_VERSION)/lib \
		$(BIN)/python -m pytest tests/test_beam_engines.py -k "flink or manager"

flink-job-server: $(VENV)/.package
	@command -v java >/dev/null || { echo "make flink needs Java 17 (on Debian: apt-get install openjdk-17-jre-headless)." >&2; exit 1; }
	test -f $(FLINK_JOB_SERVER) || mvn --batch-mode dependency:copy -DoutputDirectory=$(ENGINES) \
		-Dartifact=org.apache.beam:beam-runners-flink-$(FLINK_VERSION)-job-server:$(BEAM_VERSION) \
		|| { echo "No job server of Beam $(BEAM_VERSION) for Flink $(FLINK_VERSION); name a jar: make flink FLINK_JOB_SERVER=..." >&2; exit 1; }

# Flink itself, for a cluster: one jar of its Python distribution, and those of its logging.
$(ENGINES)/flink-$(FLINK_VERSION)/.lib: | $(VENV)/.package
	rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/pip download --quiet --no-deps --only-binary :all: --dest $(@D) 'apache-flink-libraries==$(FLINK_VERSION).*'
	$(BIN)/python -m zipfile -e $(@D)/*.whl $(@D)/wheel
	mkdir $(@D)/lib && mv $(@D)/wheel/pyflink/lib/flink-dist-*.jar $(@D)/wheel/pyflink/lib/log4j-*.jar $(@D)/lib
	rm -rf $(@D)/*.whl $(@D)/wheel
	@touch $@

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
