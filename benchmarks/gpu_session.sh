#!/usr/bin/env bash
# Everything to run on a machine with one GPU, correctness first; under eight minutes on an H200.
# Needs python3 with torch, numpy and safetensors. The last lines of each part are JSON to keep.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1
run() { echo "== $*"; timeout 150 "$@"; echo "== exit $?"; }
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
run python3 -m benchmarks.cuda_check
for family in gpt2 modern; do
  for micro in 16384 65536; do
    run python3 -m benchmarks.train_speed --shape gpt2 --rounds 1 --family "$family" --optimizer muon \
      --batch-tokens 491520 --micro-batch-tokens "$micro" --steps 12
  done
done
run python3 -m benchmarks.train_speed --shape char --rounds 1 --family modern --optimizer muon --batch-tokens 16384 \
  --micro-batch-tokens 16384 --steps 100
