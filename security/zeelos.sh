#!/bin/sh
# Runs the zeelos program: $ZEELOS, one on the PATH, or the one built in this tree.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
for program in "${ZEELOS:-}" "$(command -v zeelos || true)" \
  "${CARGO_TARGET_DIR:-$root/target}/release/zeelos" "${CARGO_TARGET_DIR:-$root/target}/debug/zeelos"; do
  if [ -n "$program" ] && [ -x "$program" ]; then
    exec "$program" "$@"
  fi
done
echo "there is no zeelos program: build it (cargo build --release -p zeelos), or name it in ZEELOS" >&2
exit 1
