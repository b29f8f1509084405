#!/usr/bin/env bash
# What to run on a machine with one GPU, in less than eight minutes; correctness first, for without
# it nothing else is worth running.
#     benchmarks/gpu_session.sh [check] [speed] [loss] [modern] [sample]    (the first three by default)
# Needs python3 with torch, numpy and safetensors. Each measurement is printed as a line of JSON as
# soon as it is made. With PEER_NANOGPT, a clone of karpathy/nanoGPT, its speed is measured in turn with
# ours; `loss` needs TEXT too, a text file.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1
peer=(${PEER_NANOGPT:+--peer-nanogpt "$PEER_NANOGPT"})
gpt2=(--shape gpt2 --rounds 1 --steps 9 --batch-tokens 245760 --micro-batch-tokens 61440)

within() {
  local seconds=$1 status
  shift
  echo "== $*"
  timeout "$seconds" python3 -m "$@"
  status=$?
  echo "== exit $status after $SECONDS s in all"
  return $status
}

check() { within 110 benchmarks.cuda_check || exit 1; }
# GPT-2 124M: the peer with the 12 sequences of its own configuration, then with as many as ours.
speed() {
  within 100 benchmarks.train_speed "${gpt2[@]}" "${peer[@]}" --peer-micro-batch-tokens 12288
  [ ${#peer[@]} -eq 0 ] || within 50 benchmarks.train_speed "${gpt2[@]}" --measure peer "${peer[@]}"
}
loss() {
  within 210 benchmarks.time_to_loss --text "$TEXT" --recipe gpu --lengths short --peer-rounds 1 "${peer[@]}"
}
modern() { within 60 benchmarks.train_speed "${gpt2[@]}" --family modern --optimizer muon; }
sample() { within 90 benchmarks.sample_speed --shape gpt2 --tokens 300 --repeats 1 "${peer[@]}"; }

[ $# -gt 0 ] || set -- check speed ${TEXT:+loss}
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
for part in "$@"; do
  case $part in
    check | speed | loss | modern | sample) "$part" ;;
    *) echo "there is no part '$part': check, speed, loss, modern or sample" && exit 2 ;;
  esac
done
