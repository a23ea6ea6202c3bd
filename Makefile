# Everything runs in .venv, which the first of these makes; PYTHON=python3.12 chooses
# what it is made with. ARGS are handed on: make test ARGS="-k history".

PYTHON ?= python3
export PYTHON
VENV := .venv/bin/python
# What a page in the browser tests imports; they are skipped where there is no npm.
PACKAGES := tests/browser/node_modules
# What stands or falls with the database: transactions, locks, constraints.
ON_POSTGRESQL := tests/test_idempotency.py tests/accounts/test_account.py \
	tests/accounts/test_logins.py tests/accounts/test_register.py tests/chat/test_versions.py \
	tests/conversations/test_change.py tests/conversations/test_commands.py \
	tests/conversations/test_delete.py tests/conversations/test_turns.py \
	tests/conversations/test_writers.py tests/rag/test_check_index.py \
	tests/rag/test_documents.py tests/rag/test_indexes.py tests/rag/test_ingestion.py \
	tests/rag/test_kills.py tests/llmbackend/test_commits.py tests/llmbackend/test_prepared.py \
	tests/llmbackend/test_tables.py

help: ## List what there is (plain `make`)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' Makefile

run: ## Start the server: http://localhost:8080, or what config.yaml says
	@scripts/environment.sh run
	@exec $(VENV) manage.py serve $(ARGS)

test: environment $(PACKAGES) ## Run the tests
	@$(VENV) -m pytest -n auto $(ARGS)

test-postgresql: environment ## Run those tests on PostgreSQL that depend on it most
	@TESTS_DATABASE=postgresql $(VENV) -m pytest -n auto $(ON_POSTGRESQL) $(ARGS)

check: check-format check-lint check-types check-imports check-migrations check-deploy ## Check all else: format, lint, types, imports, migrations, deployment

bench: environment ## Measure streams, requests, memory and start-up, with a stub provider
	@$(VENV) -m benchmarks.speed $(ARGS)

bench-retrieval: environment ## Measure retrieval on XQuAD: DATA=<folder with xquad.zh.json, xquad.en.json>
	@$(VENV) -m benchmarks.retrieval "$(DATA)" $(ARGS)

bench-search: environment ## Measure search beside faiss, loading, and retrieval by HTTP: ARGS="exact loading retrieve"
	@$(VENV) -m benchmarks.search $(ARGS)

bench-conversations: environment ## Measure the search of 100,000 messages: ARGS="--database-url postgresql://..."
	@$(VENV) -m benchmarks.conversations $(ARGS)

bench-answers: environment ## Measure on XQuAD what is held to be relevant, and what is quoted: DATA=<the same folder>
	@$(VENV) -m benchmarks.answers "$(DATA)" $(ARGS)

fuzz: environment ## Send 5,000 requests nobody thought of to a server: ARGS="--cases 20000"
	@$(VENV) -m tests.fuzz $(ARGS)

chaos: environment ## Kill the server again and again under its clients: ARGS="--cycles 50"
	@$(VENV) -m benchmarks.chaos $(ARGS)

soak: environment ## Hold 300 streams beside readers that take nothing: ARGS="--minutes 2"
	@$(VENV) -m benchmarks.soak $(ARGS)

bench-embedding: environment ## Measure how fast local-e5 embeds, on one core
	@OPENBLAS_NUM_THREADS=1 $(VENV) -m benchmarks.embedding $(ARGS)

bench-ingestion: environment ## Measure how late streams are beside an ingestion
	@$(VENV) -m benchmarks.ingestion $(ARGS)

messages: environment ## Bring the admin's Chinese catalogue in step with the sources
	@$(VENV) scripts/messages.py

format: environment ## Format the code and mend what the linter can
	@$(VENV) -m ruff check --fix --quiet . ; $(VENV) -m ruff format .

clean: ## Remove .venv and the tools' caches; databases and keys stay
	rm -rf .venv $(PACKAGES) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

environment:
	@scripts/environment.sh dev

$(PACKAGES): tests/browser/package-lock.json
	@! command -v npm >/dev/null || { npm ci --ignore-scripts --no-audit --no-fund --loglevel error --prefix $(@D) && touch $@; }

check-format: environment
	$(VENV) -m ruff format --check .

check-lint: environment
	$(VENV) -m ruff check .

check-types: environment
	LLMBACKEND_CONFIG=tests/production.yaml $(VENV) -m mypy

check-imports: environment
	.venv/bin/lint-imports

check-migrations: environment
	$(VENV) manage.py makemigrations --check --dry-run --settings tests.settings

check-deploy: environment
	LLMBACKEND_CONFIG=tests/production.yaml $(VENV) manage.py check --deploy --fail-level WARNING

.PHONY: help run test test-postgresql check bench bench-answers bench-conversations bench-embedding bench-ingestion bench-retrieval bench-search chaos fuzz soak messages format clean environment check-format check-lint check-types check-imports check-migrations check-deploy
