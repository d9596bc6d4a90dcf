#!/bin/sh
# A key of W&B comes as a secret file, which stands in no description of the container as a variable would.
set -eu
secret=/run/secrets/wandb_api_key
if [ -z "${WANDB_API_KEY:-}" ] && [ -s "$secret" ]; then
  WANDB_API_KEY=$(cat "$secret")
  export WANDB_API_KEY
fi
exec launcher "$@"
