# Everything a person or CI does with this repository. `make` alone prints the targets.

.DEFAULT_GOAL := help
.PHONY: help install demo screenshots animation docs test test-unit test-slow test-services check audit env bench clean

# Any Python 3.11 or 3.12 will do: make test PYTHON=/path/to/python3.12
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
# On a machine without a GPU the CPU build is far smaller: make install TORCH="torch==2.13.0 --index-url URL_OF_THE_CPU_BUILDS"
TORCH ?= torch==2.13.0
# A detector test on a shared machine is fastest with one thread; two beside another job are far slower than one.
export OMP_NUM_THREADS ?= 1

VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALLED := $(VENV)/.groundcrew-installed

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv with everything in it (once; again when setup.cfg changes)

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.11 or 3.12 with its venv module is needed (Debian: apt-get install python3-venv); '$(PYTHON)' is not one."; exit 1; }
	@echo "Installing Groundcrew into $(VENV) (once; two to six minutes, most of it the download of torch) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) pip install --quiet $(TORCH)
	@$(RUN) pip install --quiet --editable '.[api,worker,cli,dev]'
	@touch $@
	@echo "Installed. 'make demo' shows it at work."

demo: install ## a real Label Studio whose images get their boxes; ONCE=1 checks them and ends
	@$(VENV)/bin/groundcrew demo $(if $(ONCE),--once)

screenshots: install ## the documentation's pictures, into docs/images: the status page; Label Studio, demo and a training (needs chromium)
	$(RUN) docs.screenshots
	$(RUN) docs.screenshots_real

animation: install ## the loop as a film of 20 seconds, from a real Label Studio, into docs/images/loop.webp (needs chromium)
	$(RUN) docs.animation

docs: install ## the documentation as a site in build/docs; a dead link or a page that nothing leads to ends it
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict
	@echo "Open build/docs/index.html"

test: test-unit test-slow test-services ## all tests, the quick ones first

test-unit: install ## the quick tests, which need no service (tests/unit, tests/flow)
	$(RUN) pytest tests/unit tests/flow -m "not slow"

test-slow: install ## tests that need no service but a minute, such as those of the full-size models
	$(RUN) pytest tests/unit tests/flow -m slow

test-services: install ## tests with a real Redis, Celery, Label Studio and browser (tests/services)
	$(RUN) pytest tests/services

check: install ## lint, types, import rules, lengths of files, Dockerfiles and manifests, and a look for insecure code
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict
	$(RUN) pytest --quiet tests/unit/test_deploy.py tests/unit/test_sizes.py
	$(RUN) bandit --quiet --recursive --configfile bandit.yaml contract backend worker groundcrew deploy

audit: install ## known vulnerabilities of the installed packages (needs pypi.org; apart from check, which works offline)
	$(VENV)/bin/pip-audit --local --progress-spinner off --strict

env: ## write .env with random passwords, for docker-compose (once)
	@python3 deploy/make_env.py .env.example .env secrets

bench: install ## measure the tiny model on this machine: quality on fresh scenes, time an image
	@$(RUN) groundcrew.zoo.evaluate_tiny

clean: ## remove what runs leave behind, not the virtual environments
	rm -rf demo/out tests/out build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
