# The menu. `make` alone prints it.
PYTHON  := .local/venv/bin/python
PGRAIN  := $(PYTHON) -m pgrain.cli.main
SYSTEM_PYTHON ?= python3
ARGS    ?=

.DEFAULT_GOAL := help
.PHONY: help demo test up renew down psql dsn install bench load paper paper-quick lint docker-test dist clean bootstrap

help:
	@sed -n 's/^## //p' Makefile

## demo — the whole story on Fashion-MNIST; ARGS="--architecture mlp|cnn|logistic_regression --corruption random|bright"
demo:
	@$(SYSTEM_PYTHON) python/pgrain/cli/bootstrap.py --demo
	@$(MAKE) --no-print-directory up
	@$(PGRAIN) demo $(ARGS)

## test — every test; ARGS="tests/unit -k name" for some
test:
	@$(SYSTEM_PYTHON) python/pgrain/cli/bootstrap.py --demo
	@$(MAKE) --no-print-directory install
	@$(PYTHON) -m pytest -q --durations=15 $(ARGS)

## up — start the private cluster and the worker (both under .local/)
up: bootstrap install
	@$(PGRAIN) cluster up

## renew — after a change of sql/: make the extension in the private cluster anew (models go)
renew: bootstrap install
	@$(PGRAIN) cluster up --renew

## down — stop them; the data stays
down:
	@if [ -x $(PYTHON) ]; then $(PGRAIN) cluster down; fi

## psql — a session in the private cluster
psql: up
	@$(PGRAIN) cluster psql -- $(ARGS)

## dsn — print the libpq connection string (make -s dsn)
dsn:
	@if [ -x $(PYTHON) ]; then $(PGRAIN) cluster dsn; else echo 'run "make up" first' >&2; exit 1; fi

## install — put the extension into PostgreSQL (PG_CONFIG=... for another one)
install: bootstrap
	@$(PGRAIN) install

## bench — timed runs beside what they are compared to, into docs/benchmarks.md; ARGS="--only predict"
bench: bootstrap install
	@$(PYTHON) -m pip install --quiet --editable '.[bench]'
	@$(PYTHON) benchmarks/bench.py $(ARGS)

## load — many sessions at once for ten minutes, into docs/benchmarks-load.md; ARGS="--clients 16 --seconds 60"
load: bootstrap install
	@$(PYTHON) benchmarks/load.py --write docs/benchmarks-load.md $(ARGS)

## paper — the paper's experiments, into docs/paper.md; SCALE=small|full, ARGS="adult spectra" for some, "--plan"
SCALE ?= small
HOURS ?= $(if $(filter small,$(SCALE)),3)
paper: bootstrap install
	@$(PYTHON) -m pip install --quiet --editable '.[bench]'
	@$(PGRAIN) data fetch
	@$(PGRAIN) paper --scale $(SCALE) $(if $(HOURS),--hours $(HOURS)) $(ARGS)

## paper-quick — a few of them, small, against loose bounds on their quality
paper-quick: bootstrap
	@$(PGRAIN) data fetch
	@$(PGRAIN) paper --check

## lint — ruff
lint: bootstrap
	@$(PYTHON) -m ruff check .

## docker-test — the images and compose files, on a Docker engine; starts one where none runs (root)
docker-test: bootstrap
	@bash tests/docker_engine.sh $(ARGS)

## dist — the wheel, in dist/
dist: bootstrap
	@$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

## clean — remove cluster, data, virtual environment; the extension's files and packages stay, and it says so
clean:
	@echo 'pgrain: these stay: the extension in the server (.local/venv/bin/pgrain uninstall before this takes it'
	@echo '  out; after it: make install, and then that), and the Debian packages that were installed'
	@if [ -x $(PYTHON) ]; then $(PGRAIN) cluster remove; fi
	@rm -rf .local dist build .pytest_cache .ruff_cache .hypothesis
	@find python tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Says what it will install, installs what is missing, is silent when nothing is.
bootstrap:
	@$(SYSTEM_PYTHON) python/pgrain/cli/bootstrap.py
