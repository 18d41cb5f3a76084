# Piculet's everyday commands. `make` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test sim model check fix ci bench ready

TARGET := $(or $(CARGO_TARGET_DIR),target)

help: ## List these commands
	@awk -F ' *## ' '/^[a-z]+:.*## / { sub(/:.*/, "", $$1); printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ready ## Bring what this machine lacks: build tools, etcd, an S3 server; starts nothing
	@echo "setup: everything is in place"

demo: ready ## Three nodes, etcd and S3 on loopback; FILE=path to stream it, MIB=n for a short form
	cargo build --release --locked -p piculet-node --bin piculet
	"$(TARGET)/release/piculet" demo $(if $(FILE),--file '$(FILE)') $(if $(MIB),--mib $(MIB))

test: ready ## Run all tests, with real etcd, a real S3 server and real node processes
	cargo build --workspace --locked
	cargo test --workspace --locked --no-fail-fast

sim: ## Simulate clusters that misbehave, from SEEDS=n seeds (2000), FIRST=s the first of them
	cargo run --locked -p piculet-chaos -- sim --seeds '$(or $(SEEDS),2000)' --first '$(or $(FIRST),1)'

model: ## Try everything that can happen to one log, and every missing guard, within larger bounds than in CI
	PICULET_MODEL=deep cargo test --release --locked -p piculet-quorum --features mutations --test model

check: ## Check format and lints; changes nothing
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fix: ## Format, and apply the lints' own suggestions
	cargo clippy --workspace --all-targets --locked --fix --allow-dirty --allow-staged
	cargo fmt --all

ci: ready ## What continuous integration runs: check, test, sim, model, demo
	$(MAKE) check
	$(MAKE) test
	$(MAKE) sim SEEDS=2000 FIRST=1
	PICULET_MODEL=ci cargo test --release --locked -p piculet-quorum --features mutations --test model
	cargo test --locked -p piculet-chaos --features mutations --test mutations
	$(MAKE) demo FILE= MIB=64

bench: ready ## Run the benchmarks on this machine
	cargo build --release --locked -p piculet-node --bin piculet
	"$(TARGET)/release/piculet" bench suite
	"$(TARGET)/release/piculet" bench takeover --at-most 50

# Quiet and instant when nothing is missing.
ready:
	@tests/setup/setup.sh
