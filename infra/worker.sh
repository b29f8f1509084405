#!/usr/bin/env bash
# Deploys this folder's pipeline to the Prefect server at PREFECT_API_URL and runs a worker for it.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PREFECT_API_URL:?the address of the Prefect server, such as http://127.0.0.1:4200/api}"
case "$PREFECT_API_URL" in *@*)  # Prefect would print links with the password
  address="${PREFECT_API_URL%/api}"
  export PREFECT_UI_URL="${PREFECT_UI_URL:-${address%%://*}://${address##*@}}" ;;
esac
prefect work-pool create local --type process --overwrite
prefect --no-prompt deploy --all
exec prefect worker start --pool local
