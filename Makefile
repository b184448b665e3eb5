# The commands of this tree. `make demo` and `make test` are explained in README.md.
#
# Build output goes to a cache outside the tree, so that a fresh clone of the same machine is warm.

cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/trellis
export CARGO_TARGET_DIR ?= $(cache)/target

host := $(shell rustc -vV | sed -n 's/^host: //p')
services := trellis-ca trellis-discovery trellis-injector trellis-cli

.PHONY: build demo test bench images fmt lint help

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

build: ## Build the release binaries into bin/.
	@# With the parts of glibc that it uses inside: the whole of it would be a sixth of what a proxy weighs at rest.
	@# And with what loads have shown of it, which takes a target by name: without one it would be known by another.
	flags=$$(ci/profile --flags) && RUSTFLAGS="$$RUSTFLAGS $$flags" cargo rustc --profile proxy --locked --target $(host) \
	  -p trellis-proxy --bin trellis-proxy -- -C target-feature=+crt-static
	cargo build --release --locked $(addprefix -p ,$(services))
	@mkdir -p bin
	@install -m 0755 "$(CARGO_TARGET_DIR)/$(host)/proxy/trellis-proxy" bin/
	@cd "$(CARGO_TARGET_DIR)/release" && install -m 0755 $(services:trellis-cli=trellis) "$(CURDIR)/bin/"

demo: build ## Run the mesh as plain processes on loopback, with a page that shows what was negotiated.
	bin/trellis demo

test: ## Run every check, the cluster suite included. `ci/test STAGE...` runs some of them.
	ci/test

bench: build ## Measure, print a table and write bench-results.json; BENCH="--quick --only envoy" does less.
	@# Named together with the others, it shares what they were built from.
	cargo build --release --locked $(addprefix -p ,$(services) trellis-bench)
	envoy=$$(ci/envoy); openssl=$$(ci/openssl); $(CARGO_TARGET_DIR)/release/trellis-bench \
	  $${envoy:+--envoy "$$envoy"} $${openssl:+--openssl "$$openssl/bin/openssl"} $(BENCH)

images: build ## Write the OCI images into bin/images/.
	cd images && go run . --bin ../bin --out ../bin/images

fmt: ## Format the Rust and Go code.
	cargo fmt --all
	gofmt -w $$(git ls-files '*.go')

lint: ## Check format and lints without changing anything.
	ci/test fmt clippy
