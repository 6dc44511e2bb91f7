# One door to everything that can be done here. `make` alone lists it.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# A venv that lost its pyvenv.cfg is the machine's own Python: pip must refuse to write there.
PIP := $(BIN)/python -m pip install --require-virtualenv --disable-pip-version-check --progress-bar off
STORE ?= .holdfast/models
PACKAGES := serving models fallbacks loadtests
ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.PHONY: help env models serve test page lint lint-style lint-types lint-imports check bench resilience rollouts
.PHONY: bad-canary chaos chaos-broken soak alerts docs lock clean

help: ## list what can be done (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  ARGS=... is handed on by serve, test, page, bench, resilience, rollouts, bad-canary, chaos, chaos-broken, soak and alerts:"
	@echo "  make test ARGS='-k frames'"

# Two stamps: a changed lock installs packages again, a changed pyproject.toml only the project itself.
env: $(VENV)/.project ## create .venv from requirements.lock and install the project into it

# Whatever was interrupted while making or removing it: a venv is whole only if its python says that it is in one
# and has a pip there. pip's own words go to a file: people see a line now and then, and the reason if it fails.
WHOLE := import sys, pip; sys.exit(sys.prefix == sys.base_prefix)
$(VENV)/.packages: requirements.lock
	@$(BIN)/python -c '$(WHOLE)' 2>/dev/null \
	    || { echo "env: creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@total=$$(grep -c '==' $<); echo "env: installing $$total pinned packages (some minutes the first time)"; \
	$(PIP) --requirement $< 2>$(VENV)/pip.log \
	    | awk -v total=$$total '/^Collecting/ && ++n % 25 == 0 { print "env: found " n " of " total; fflush() } \
	        /^Installing collected/ { print "env: unpacking"; fflush() }' \
	    || { tail -n 20 $(VENV)/pip.log >&2; exit 1; }
	@touch $@

$(VENV)/.project: $(VENV)/.packages pyproject.toml
	@echo "env: installing holdfast itself, editable"
	@$(PIP) --no-deps --no-build-isolation --editable . >$(VENV)/pip.log 2>&1 \
	    || { tail -n 20 $(VENV)/pip.log >&2; exit 1; }
	@touch $@
	@echo "env: ready"

models: env ## make the example models and publish them to the local store
	@$(BIN)/python -m models.zoo --store $(STORE)

# exec: no shell stays between make and the gateway, so that signals reach it.
serve: env models ## run the gateway on this machine until Ctrl-C
	@exec $(BIN)/holdfast up $(ARGS)

# Two workers: one for all tests that start whole systems, one for the others.
test: env ## run all tests
	@$(BIN)/python -m pytest -q -n 2 $(ARGS)

# Not part of `test`: it needs Debian's chromium (apt-get install chromium), which not every machine has.
page: env ## test the live page in a real Chromium (ARGS='-k keyboard')
	@$(BIN)/python -m pytest -q tests/page/live_page.py tests/page/bad_canary.py $(ARGS)

lint: lint-style lint-types lint-imports ## ruff, mypy --strict and the import rules

lint-style: env
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@echo "lint: style ok"

lint-types: env
	@$(BIN)/mypy --strict --no-error-summary $(PACKAGES) deploy tests
	@echo "lint: types ok"

lint-imports: env
	@$(BIN)/lint-imports --no-cache
	@echo "lint: imports ok"

check: env ## lint, then test: what CI runs
	@$(MAKE) lint
	@$(MAKE) test

bench: env ## measure speed and cost beside other systems (needs wrk, takes half an hour; ARGS go to `run`)
	@$(BIN)/python -m loadtests.bench setup
	@$(BIN)/python -m loadtests.bench run $(ARGS)
	@$(BIN)/python -m loadtests.bench report

resilience: env models ## hurt a whole system under load and print what held (ARGS='--only all_primary_killed')
	@$(BIN)/python -m loadtests.resilience --store $(STORE) $(ARGS)

rollouts: env models ## roll good and bad versions out under load and print what was promised and held
	@$(BIN)/python -m loadtests.rollouts --store $(STORE) $(ARGS)

bad-canary: env ## publish a bad version beside a running Holdfast's and send it requests, to watch it being taken back
	@exec $(BIN)/python -m loadtests.rollouts.watched --store $(STORE) $(ARGS)

chaos: env models ## run all chaos scenarios and print which held (half an hour; ARGS='--only haproxy_killed --seed 7')
	@$(BIN)/python -m loadtests.chaos all --store $(STORE) $(ARGS)

soak: env models ## half an hour of steady load and random faults: nothing may fail, nothing may grow (ARGS='--minutes 5')
	@$(BIN)/python -m loadtests.chaos run soak --store $(STORE) $(ARGS)

chaos-broken: env models ## switch each protection off and see whether its chaos scenario notices (some 10 minutes)
	@$(BIN)/python -m loadtests.chaos broken --store $(STORE) $(ARGS)

alerts: env models ## test alert rules and dashboards with a real Prometheus (needs Debian's; ARGS=chaos: by scenarios)
	@$(BIN)/python -m loadtests.alerts --store $(STORE) $(ARGS)

# Written beside and moved: a generator that fails leaves the page as it was.
docs: env ## write docs/settings.md, rollouts.md, scenarios.md, JSON Schemas and dashboards from their sources
	@$(BIN)/python -m serving.settings_doc >docs/settings.md.new && mv docs/settings.md.new docs/settings.md
	@$(BIN)/python -m serving.settings_doc --schema >docs/settings.schema.json.new \
	    && mv docs/settings.schema.json.new docs/settings.schema.json
	@$(BIN)/python -m serving.rollout_doc >docs/rollouts.md.new && mv docs/rollouts.md.new docs/rollouts.md
	@$(BIN)/python -m serving.rollout_doc --schema >docs/rollout.schema.json.new \
	    && mv docs/rollout.schema.json.new docs/rollout.schema.json
	@$(BIN)/python -m loadtests.chaos.doc >docs/scenarios.md.new && mv docs/scenarios.md.new docs/scenarios.md
	@$(BIN)/python -m deploy.grafana

# Written beside the lock and moved over it only when it is fit for every machine: no local build of torch,
# no CUDA packages. pip must be able to find a CPU build of torch here.
lock: env ## pin everything in requirements.lock again (ARGS=--upgrade for newer versions)
	@cp requirements.lock requirements.lock.new
	@CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet --allow-unsafe --strip-extras \
	    --extra zoo --extra loadtests --extra dev --no-emit-options \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --output-file requirements.lock.new $(ARGS) pyproject.toml
	@sed -i 's/^\(torch==[0-9.]*\)+[A-Za-z0-9.]*/\1/' requirements.lock.new
	@! grep -n -i -E '^(nvidia-|cuda-|triton==)' requirements.lock.new || \
	    { echo "lock: CUDA packages came in; let pip find a CPU build of torch, then try again" >&2; exit 1; }
	@mv requirements.lock.new requirements.lock
	@echo "lock: $$(grep -c '==' requirements.lock) packages pinned"

clean: ## remove .venv and caches; models in .holdfast and results in .bench stay
	@rm -f $(VENV)/.packages $(VENV)/.project # first: an interrupted clean must not look like a whole venv
	@rm -rf $(VENV) build dist *.egg-info requirements.lock.new \
	    .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	@find $(PACKAGES) deploy tests -name __pycache__ -type d -prune -exec rm -rf {} +
