# Commands for people; CI runs the same ones (.ci/run). `make` alone lists them.
PYTHON ?= python3
export PYTHON
VENV := .venv
# libraries call ninja by its name; set-up must not see this PATH, or `python3` would be the environment's own
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python

PYTEST_ARGS ?=
ADDRESS ?= http://127.0.0.1:8265
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
# Test processes, each with a Ray of its own; a whole file runs in one of them. For one file one is enough.
JOBS ?= $(if $(findstring .py,$(PYTEST_ARGS)),1,2)
SHARED := $(if $(filter-out 0 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder)
# `make test` leaves out whole runs and kills of half a minute and more each; ALL=1, as CI has it, does not
MARKERS ?= $(if $(ALL),(slow or not slow),not slow)$(if $(BROWSER),, and not browser)
SWEEP_ARGS ?=
# runs/demo, or the first free of runs/demo-2, runs/demo-3 ...: no run is ever overwritten
DEMO = $(shell name=demo; n=2; while [ -e runs/$$name ]; do name=demo-$$n; n=$$((n + 1)); done; echo $$name)

.PHONY: help setup demo sweep dashboard test test-fast lint submit bench prove fuzz chaos clean

help: ## list the targets
	@echo "discovr-ray: make TARGET"
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.ready-test ## make .venv with everything that the demo and the tests need (once; 2 to 5 minutes, 6 GB)

$(VENV)/.ready-test: pyproject.toml
	@.ci/setup test
	@touch $@

$(VENV)/.ready-dev: pyproject.toml
	@.ci/setup dev
	@touch $(VENV)/.ready-test $@

demo: setup ## pretrain on synthetic echo with two CPU workers (about 10 minutes), then say where the results are
	@name=$(DEMO); \
	echo "demo: making synthetic echo videos, then pretraining a tiny model on two CPU workers: about 10 minutes"; \
	$(RUN) jobs/pretrain.py --config demo run.name=$$name && \
	echo "demo: the encoder is in  runs/$$name/encoder.safetensors  (README.md shows how to load it)" && \
	echo "demo: open the report in a browser:  runs/$$name/report.html"

sweep: setup ## search K, EMA momentum and w_scd on synthetic echo, 8 trials (under 10 minutes on 2 idle cores)
	$(RUN) jobs/sweep.py sweeps/demo.yaml $(SWEEP_ARGS)

dashboard: setup ## look at a sweep in a browser: SWEEP=runs/sweeps/demo (optuna-dashboard and TensorBoard, Ctrl-C ends both)
	@$(if $(SWEEP),,$(error SWEEP is missing: make dashboard SWEEP=runs/sweeps/demo, the folder of a sweep))
	@$(RUN) jobs/dashboard.py "$(SWEEP)"

test: setup ## run the tests (a quarter of an hour on 2 cores); ALL=1: the long ones, too; PYTEST_ARGS="-k config" selects some
	@echo "test: $(if $(ALL),all tests: about 40 minutes,a quarter of an hour) on 2 cores$(if $(BROWSER),, (no Chromium here: the browser test is left out))"
	@$(RUN) -m pytest $(SHARED) -m "$(MARKERS)" $(PYTEST_ARGS)

test-fast: setup ## run the tests that start no cluster, server, browser or second process
	@$(RUN) -m pytest -m "not (ray or s3 or dist or chaos or browser or slow)" $(PYTEST_ARGS)

lint: $(VENV)/.ready-dev ## ruff (rules and format), mypy, secrets in files, known vulnerabilities where they can be looked up
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@.ci/audit

submit: ## run jobs/pretrain.py on a cluster: ARGS="--config cluster/pretrain.yaml run.name=first", ADDRESS=http://...
	@metadata=$$($(VENV)/bin/python cluster/job_metadata.py $(ARGS)) && \
		RAY_AUTH_MODE=$${RAY_AUTH_MODE:-token} $(VENV)/bin/ray job submit --address "$(ADDRESS)" --working-dir . \
		--runtime-env cluster/runtime_env.yaml --metadata-json "$$metadata" $(SUBMIT_ARGS) -- python jobs/pretrain.py $(ARGS)

bench: setup ## measure one training step and the reading of clips (about 10 minutes)
	@echo "bench: one full step of the paper's model, then clips per second of the reading path; the machine should be idle"
	$(RUN) benchmarks/step.py
	$(RUN) benchmarks/ingest.py

prove: setup ## pretrain on synthetic echo and hold the encoder against random weights and raw pixels (12 minutes on 2 idle cores)
	$(RUN) benchmarks/prove.py --output runs/prove $(PROVE_ARGS)

fuzz: setup ## spoil good files for ten minutes; each is read or refused, nothing crashes, hangs or eats the memory
	$(RUN) tests/fuzz.py --seconds 600

chaos: setup ## kill workers, nodes and the driver of a run and spoil its storage for ten minutes; nothing is lost (about 20 minutes)
	$(RUN) tests/chaos/run.py --seconds 600 --every 60 --seed 0

clean: ## delete caches and build output (not .venv, not runs/)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -path ./runs -prune -o -name __pycache__ -type d -exec rm -rf {} +
