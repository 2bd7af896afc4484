# The commands of everyday work. `make help` lists them.

.PHONY: help build demo test interop bench chaos cluster fuzz lint deny

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

build: ## the program, for production: target/release/muster
	@scripts/check-toolchain
	cargo build --locked --release

demo: ## the whole job on this machine; ARGS=--once ends by itself
	@scripts/check-toolchain
	@cargo run --locked --quiet -- demo $(ARGS)

test: ## every test, on SQLite and PostgreSQL; ARGS go to cargo test
	@scripts/test $(ARGS)

interop: ## proof by programs that were not written here; ARGS=docs only runs the commands of the documents
	@scripts/interop $(ARGS)

bench: ## the figures of this machine, up to a million devices; ARGS=--quick only shows that it works
	@scripts/bench $(ARGS)

chaos: ## kills, cuts and stops while devices and admins work; ARGS="--seconds 60 --seed 1 --database both --fleet 40"
	@scripts/chaos $(ARGS)

cluster: ## several servers behind HAProxy on one PostgreSQL, restarted in turn and killed; ARGS="--cluster 3 --fleet 40"
	@scripts/cluster $(ARGS)

fuzz: ## damages what devices, users and files send; ARGS="SECONDS TARGET…"; needs a nightly toolchain
	@scripts/fuzz $(ARGS)

lint: ## format, clippy and the scripts' syntax
	@scripts/lint

deny: ## licenses and sources of the dependencies; ARGS=advisories adds known vulnerabilities (needs the network)
	@scripts/deny $(ARGS)
