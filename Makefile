# `make` lists the targets. Each of them makes .venv first, where it is missing or older than the locks.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# Three for two cores: tests wait for servers about as long as they compute.
TEST_PROCESSES := $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))
PYTHON_SOURCES := $(wildcard src tests bench scripts)

# A virtual environment works only where it was made, and with the interpreter that made it: check both.
ifneq ($(shell $(BIN)/python -c '' 2>/dev/null && cat .venv/.stamp 2>/dev/null),$(CURDIR))
.PHONY: .venv/.stamp
endif
.venv/.stamp: requirements/build.txt requirements/dev.txt pyproject.toml scripts/setup.sh
	@PYTHON='$(PYTHON)' sh scripts/setup.sh

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: .venv/.stamp ## Make .venv with the command pg-analytics in it (PYTHON=… chooses the interpreter)
	@:

.PHONY: demo
demo: .venv/.stamp ## Serve demo data on servers of its own, until Ctrl-C (ARGS=--fresh starts over)
	@$(BIN)/pg-analytics demo $(ARGS)

.PHONY: test
test: .venv/.stamp ## Run every test, on DATABASE_URL and REDIS_URL or on servers of their own (ARGS='-k cache')
	@$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadgroup $(ARGS)

.PHONY: test-wheel
test-wheel: .venv/.stamp ## Run the tests that start servers again, on those that come as wheels
	@PG_ANALYTICS_SERVERS=wheel $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadgroup -m servers $(ARGS)

.PHONY: stories
stories: .venv/.stamp ## Live through 200 stories of writers, runs, crashes, readers and lost servers, for an hour (STORIES=40)
	@PG_ANALYTICS_STORIES=$(or $(STORIES),200) $(BIN)/python -m pytest -q -n 2 \
		tests/acceptance/test_stories.py tests/acceptance/test_stale_or_mixed.py $(ARGS)

.PHONY: check
check: check-python check-sql check-docker check-docs check-wheel ## Check everything that can be checked without running the tests

.PHONY: check-python
check-python: .venv/.stamp ## … format, lint, types and the direction of imports
	$(BIN)/ruff format --quiet --check $(PYTHON_SOURCES)
	$(BIN)/ruff check --quiet $(PYTHON_SOURCES)
	$(BIN)/mypy $(PYTHON_SOURCES)
	$(BIN)/lint-imports --no-logo

# Left out of squawk: the migration runner sets both timeouts; identity columns cannot be distributed over
# servers; a count of minutes, cents or attempts fits an integer.
.PHONY: check-sql
check-sql: .venv/.stamp ## … SQL style, and what a migration would lock or break
	$(BIN)/sqlfluff lint src bench
	$(BIN)/squawk --assume-in-transaction --pg-version 14 src/pg_analytics/postgres/migrations/*.sql \
		--exclude require-lock-timeout,require-statement-timeout,prefer-identity,prefer-bigint-over-int

.PHONY: check-docker
check-docker: .venv/.stamp ## … the Dockerfile and the compose file
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/yamllint --strict -d '{extends: default, rules: {line-length: {max: 120}}}' docker-compose.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml

.PHONY: check-docs
check-docs: .venv/.stamp ## … the commands and links of the documentation
	$(BIN)/python scripts/check_docs.py
	$(BIN)/python scripts/write_reference.py --check

.PHONY: check-wheel
check-wheel: .venv/.stamp ## … the built wheel: whole, and running on the run-time lock alone
	$(BIN)/python scripts/check_wheel.py

.PHONY: bench-recompute
bench-recompute: .venv/.stamp ## Measure what recomputing costs, as ratios (ARGS=--help; 10 million events take some minutes)
	@$(BIN)/python -m bench.recompute $(ARGS)

.PHONY: bench-follow
bench-follow: .venv/.stamp ## Measure how soon reports count what is written (ARGS=--help)
	@$(BIN)/python -m bench.follow $(ARGS)

.PHONY: bench-read
bench-read: .venv/.stamp ## Measure what reading costs, beside bare SQL and a bare handler (needs wrk and pgbench; ARGS=--help)
	@$(BIN)/python -m bench.read $(ARGS)

.PHONY: bench-soak
bench-soak: .venv/.stamp ## Measure whether memory stays flat over an hour of mixed load (ARGS='--minutes 5')
	@$(BIN)/python -m bench.soak $(ARGS)

.PHONY: fmt
fmt: .venv/.stamp ## Format Python and SQL, and mend what the linters can mend
	@$(BIN)/ruff check --quiet --fix $(PYTHON_SOURCES) || true
	@$(BIN)/ruff format $(PYTHON_SOURCES)
	@$(BIN)/sqlfluff fix --quiet src bench || true

.PHONY: lock
lock: ## Write requirements/*.txt anew from pyproject.toml (needs uv; UPGRADE=1 takes newer versions)
	@UPGRADE='$(UPGRADE)' sh scripts/lock.sh

.PHONY: clean
clean: ## Remove what checks and tests leave behind
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find $(PYTHON_SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## … and .venv
	@rm -rf .venv
