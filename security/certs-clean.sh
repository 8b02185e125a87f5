#!/bin/sh
# Removes the CA and all roles' files from this folder. Who trusts them has to be given new ones.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
exec "$folder/zeelos.sh" certs clean --dir "$folder" "$@"
