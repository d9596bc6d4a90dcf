#!/bin/sh
# A key of W&B comes as a secret file, which stands in no description of the container as a variable would.
set -eu
secret=/run/secrets/wandb_api_key
if [ -z "${WANDB_API_KEY:-}" ] && [ -s "$secret" ]; then
  if [ ! -r "$secret" ]; then
    echo "launcher: the key of W&B (WANDB_API_KEY_FILE) cannot be read by user $(id -u), who the container runs as." \
      "Set LAUNCHER_USER to the file's owner, or let others read it." >&2
    exit 2
  fi
  WANDB_API_KEY=$(cat "$secret")
  export WANDB_API_KEY
fi
exec launcher "$@"
