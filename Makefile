PYTHON ?= python3
VENV := .venv/bin

.PHONY: help run test test-postgresql check bench screenshots clean
.DEFAULT_GOAL := help

help: ## Show these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: ## Set everything up and start the server (Ctrl-C ends it)
	@$(PYTHON) -m bootstrap && exec $(VENV)/python manage.py up

test: ## Run the tests; ARGS="tests/site -k lock" picks some
	@$(PYTHON) -m bootstrap run dev && $(VENV)/python -m pytest $(ARGS)

test-postgresql: ## Run the tests that touch the database on PostgreSQL, started for them
	@$(PYTHON) -m bootstrap run dev && $(VENV)/python -m tests.on_postgresql $(ARGS)

check: ## Lint, types, import rules, missing migrations, templates
	@$(PYTHON) -m bootstrap run dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports
	$(VENV)/python manage.py makemigrations --check --dry-run
	git ls-files -z 'templates/*.html' | xargs -0 -r $(VENV)/djade --target-version 5.2 --check

bench: ## Measure engine and gateway; rows go to benchmarks/results/
	@$(PYTHON) -m bootstrap run dev bench && $(VENV)/python -m benchmarks $(ARGS)

screenshots: ## Take the pictures of the dashboard for docs/ anew
	@$(PYTHON) -m bootstrap run dev && $(VENV)/python -m tests.browser.chromium && $(VENV)/python -m tests.browser.screenshots

clean: ## Remove the environment and caches; the data folder stays
	rm -rf .venv .cache build dist .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
