# make up     builds zeelos and runs the whole path on this machine; ARGS='…' are options of `zeelos up`
# make test   all tests, the ones against real third-party servers too
# make soak   MINUTES of kill -9 from a SEED, then five million records behind a link that is away; ends with a line of JSON
# make lint   format, clippy, licences and sources of dependencies
# make bench-lwm2m  the LwM2M server beside Leshan's; ARGS='--quick' for small numbers
# make bench-mirror  the mirror beside MirrorMaker 2 and a bare copy loop; ARGS='--records 200000' for small numbers
# make clean  removes all that was built and fetched

ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
export DEBIAN_FRONTEND = noninteractive

.PHONY: up test soak lint clean bench-lwm2m bench-mirror

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

# A release build, and a machine that does nothing else meanwhile.
bench-lwm2m:
	@scripts/setup.sh build test
	@cargo run --release --locked -p bench --bin bench-lwm2m -- $(ARGS)

bench-mirror:
	@scripts/setup.sh build test
	@cargo run --release --locked -p bench --bin bench-mirror -- $(ARGS)

# A release build of the program, as the figures are its; SEED is random where none is given, and printed.
SEED ?=
MINUTES ?= 10
RECORDS ?= 5000000
soak:
	@scripts/setup.sh build test
	cargo build --release --locked -p zeelos
	SEED=$(SEED) MINUTES=$(MINUTES) RECORDS=$(RECORDS) ZEELOS_PROGRAM=$(abspath $(TARGET))/release/zeelos \
		cargo run --locked -p faults --bin soak

clean:
	cargo clean
