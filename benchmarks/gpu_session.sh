#!/usr/bin/env bash
# Everything to run on a machine with one GPU, correctness first: without it nothing else is run.
# Needs python3 with torch, numpy and safetensors. The last lines of each part are JSON to keep.
# With PEER_NANOGPT, a clone of karpathy/nanoGPT, its speed is measured in turn with ours; with TEXT
# as well, a text file, also the time to its loss.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1
peer=(${PEER_NANOGPT:+--peer-nanogpt "$PEER_NANOGPT"})
run() {
  echo "== $*"
  timeout 150 "$@"
  local status=$?
  echo "== exit $status"
  return $status
}
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
run python3 -m benchmarks.cuda_check || exit 1
run python3 -m benchmarks.train_speed --shape gpt2 --rounds 1 --steps 12 "${peer[@]}" \
  --batch-tokens 491520 --micro-batch-tokens 16384
run python3 -m benchmarks.train_speed --shape gpt2 --rounds 1 --steps 12 --family modern \
  --optimizer muon --batch-tokens 491520 --micro-batch-tokens 65536
run python3 -m benchmarks.sample_speed --shape gpt2 --tokens 300 --repeats 1 "${peer[@]}"
if [ -n "${TEXT:-}" ]; then
  run python3 -m benchmarks.time_to_loss --text "$TEXT" --recipe gpu --seeds 1 "${peer[@]}"
fi
