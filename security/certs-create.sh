#!/bin/sh
# Makes the CA and each role's certificate in this folder, or what of them is missing or ends soon.
# Options are those of `zeelos certs create`: ./certs-create.sh --gateway rock64 --gateway upboard --localhost
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
exec "$folder/zeelos.sh" certs create --dir "$folder" "$@"
