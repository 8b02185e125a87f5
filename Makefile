# make up     builds zeelos and runs the whole path on this machine; ARGS='…' are options of `zeelos up`
# make test   all tests, the ones against real third-party servers too
# make lint   format, clippy, licences and sources of dependencies
# make clean  removes all that was built and fetched

ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
export DEBIAN_FRONTEND = noninteractive

.PHONY: up test lint clean

up:
	@scripts/setup.sh build
	cargo build --release --locked -p zeelos
	@exec $(TARGET)/release/zeelos up $(ARGS)

# One profile and one set of features, so that nothing is built twice; all failures are shown, not only the first.
test:
	@scripts/setup.sh build test
	cargo test --workspace --locked --no-fail-fast

# `bans` last: it warns of duplicates at length.
lint:
	@scripts/setup.sh build lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	PATH="$$PATH:$(TARGET)/tools/bin" cargo deny --log-level error --locked check licenses sources bans

clean:
	cargo clean
