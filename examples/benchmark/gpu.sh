#!/usr/bin/env bash
# All GPU rows of RESULTS.md in one call of a few minutes: checks of kernels and graphs, training, inference, tests.
#
#     bash examples/benchmark/gpu.sh [rows.jsonl]
#
# Needs one CUDA device, and the package installed with its test requirements. What was measured is in rows.jsonl, a row a
# line; a step that fails is named at the end, and the others run all the same. What counts most comes first, as all of it
# stops at 9 minutes; PYTHON is the interpreter (default: python).
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHON=${PYTHON:-python} PYTHONUNBUFFERED=1
rows=${1:-rows.jsonl}
end=$((SECONDS + 540))
failed=()
: >"$rows"

step() { # NAME SECONDS COMMAND...: run a step within its time and what is left of all of it
  local name=$1 limit=$2 left=$((end - SECONDS))
  shift 2
  if ((left < 10)); then
    failed+=("$name (no time left)")
    return
  fi
  echo "== $name"
  timeout "$((limit < left ? limit : left))" "$@" || failed+=("$name")
}

measure() { # NAME SECONDS ARGUMENTS...: a table of a benchmark, as JSON
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" bash -c 'set -o pipefail; "$PYTHON" "$@" --json | tee -a "$0"' "$rows" "$@"
}

here=examples/benchmark
nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader
step "kernels and graphs" 90 "$PYTHON" $here/gpu.py
step "tests" 150 "$PYTHON" -m pytest -q -m gpu -W default tests/test_gpu.py
base=(--case pretraining --precision bf16 --repeats 5)
for rate in 0.1 0; do # the second finds what the first has compiled
  measure "pretraining, base, 512, dropout $rate" 120 $here/training.py "${base[@]}" --preset roberta.base --length 512 --sequences 64 --dropout $rate --compile
done
for mix in mnli normal; do
  measure "inference, base, $mix" 60 $here/inference.py --mix "$mix" --sequences 1024 --batch-size 64 --precision bf16
done
for rate in 0.1 0; do
  measure "pretraining, large, 512, dropout $rate" 120 $here/training.py "${base[@]}" --preset roberta.large --length 512 --sequences 32 --dropout $rate
done
measure "fine-tuning, base" 50 $here/training.py --preset roberta.base --case finetuning --precision bf16 --sequences 512 --batch-size 32
for mix in squad fixed; do
  measure "inference, base, $mix" 60 $here/inference.py --mix "$mix" --sequences 1024 --batch-size 64 --precision bf16
done
measure "inference, large, normal" 60 $here/inference.py --preset roberta.large --mix normal --sequences 512 --batch-size 64 --precision bf16
measure "pretraining, base, 128" 60 $here/training.py "${base[@]}" --preset roberta.base --length 128 --sequences 256 --compile

echo
echo "rows: $rows"
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
