# The project's interface: `make help` lists what there is.

CARGO := packaging/cargo
# Development runs on loopback, and keeps its data in the checkout.
PORT ?= 8008

.PHONY: help
help: ## List what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1@\2/p' Makefile | awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

.PHONY: run
run: ## Build and run a server on loopback, with an administrator's account
	@packaging/setup build run
	@$(CARGO) build
	@packaging/run $(PORT)

.PHONY: build
build: ## Build the release binary
	@packaging/setup build
	@$(CARGO) build --release

.PHONY: test
test: ## Run all tests
	@packaging/setup build
	@$(CARGO) test --workspace

.PHONY: check
check: fmt-check clippy deny doc tidy ## Check format, lints, licences, documentation and generated files

.PHONY: fmt-check
fmt-check:
	@$(CARGO) fmt --all --check

.PHONY: clippy
clippy:
	@packaging/setup build
	@$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

.PHONY: deny
deny:
	@packaging/setup check
	@$(CARGO) deny --log-level error check bans licenses sources

.PHONY: doc
doc:
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --quiet

.PHONY: tidy
tidy:
	@$(CARGO) test --quiet --test tidy
	@python3 -m unittest discover -q complement

.PHONY: update
update: ## Rewrite what is generated: example configuration, conformance, module edges
	@UPDATE=1 $(CARGO) test --quiet --test tidy

.PHONY: complement-image
complement-image: ## Build the image that Complement tests (needs Docker)
	@packaging/setup build
	@$(CARGO) build --profile quick
	@. packaging/env && complement/build-image "$$CARGO_TARGET_DIR/quick/allod"

.PHONY: bench
bench: ## Measure throughput, latency and memory
	@packaging/setup build
	@test -x tests/bench/run || { echo "make bench: tests/bench/run does not exist yet" >&2; exit 1; }
	@tests/bench/run

.PHONY: test-clients
test-clients: ## Run other people's client libraries against the built server
	@packaging/setup build clients
	@test -x tests/clients/run || { echo "make test-clients: tests/clients/run does not exist yet" >&2; exit 1; }
	@tests/clients/run

.PHONY: soak
soak: ## Run twenty encrypted clients for ten minutes on two servers that are killed and cut off
	@packaging/setup build clients
	@tests/clients/soak $(SOAK)

.PHONY: test-federation
test-federation: ## Run the server beside an unmodified Synapse, in the same rooms
	@packaging/setup build federation
	@tests/federation/run

.PHONY: test-objects
test-objects: ## Keep files in an S3-compatible server (moto) and read them back
	@packaging/setup build objects
	@tests/objects/run

.PHONY: deb
deb: ## Build the Debian package
	@packaging/setup build deb
	@$(CARGO) build --release
	@packaging/deb

.PHONY: test-package
test-package: ## Install, upgrade, break and remove the Debian package in a clean Debian (needs root)
	@packaging/setup build package
	@$(CARGO) build --workspace
	@. packaging/env && tests/package/run "$$CARGO_TARGET_DIR/debug/allod"
