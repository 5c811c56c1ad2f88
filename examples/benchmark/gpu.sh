#!/usr/bin/env bash
# All GPU rows of RESULTS.md in one call of a few minutes: checks of kernels and graphs, training, inference, tests.
#
#     bash examples/benchmark/gpu.sh [rows.jsonl]
#
# Needs one CUDA device, and what the package requires for its tests; of the package itself this copy is run. What was
# measured is in rows.jsonl, a row a line; a step that fails is named at the end, and the others run all the same. What
# counts most comes first, as all of it stops at 8 minutes, and this library alone before peers, which can't cost it its
# rows. PYTHON is the interpreter (default: python3). What is shown is kept beside the rows, in rows.log.
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHON=${PYTHON:-python3} PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$PYTHON" -c "import torch, roberta.hub" || exit 1
rows=${1:-rows.jsonl}
end=$((SECONDS + 480))
failed=()
: >"$rows"
exec > >(tee "${rows%.jsonl}.log") 2>&1
trap 'exec >&- 2>&-; wait '$! EXIT # until all that was shown is kept

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
step "kernels and graphs" 80 "$PYTHON" $here/gpu.py
step "tests" 120 "$PYTHON" -m pytest -q -m gpu -W default tests/test_gpu.py
base=(--case pretraining --precision bf16 --preset roberta.base)
large=(--case pretraining --precision bf16 --preset roberta.large --length 512 --sequences 32)
blocks=(--length 512 --sequences 64)
alone=(--ours --compile --steps 10 --repeats 5)
texts=(--sequences 1024 --batch-size 64 --precision bf16)
tuning=(--preset roberta.base --case finetuning --precision bf16 --sequences 512 --batch-size 32)
for rate in 0.1 0; do # the second finds what the first has compiled
  measure "base, 512, dropout $rate" 120 $here/training.py "${base[@]}" "${blocks[@]}" --dropout $rate "${alone[@]}"
done
for mix in mnli normal; do
  measure "inference, base, $mix" 40 $here/inference.py --mix "$mix" "${texts[@]}" --ours
done
for mix in mnli normal; do
  measure "inference, base, $mix, beside peers" 45 $here/inference.py --mix "$mix" "${texts[@]}"
done
for rate in 0.1 0; do
  measure "large, 512, dropout $rate" 70 $here/training.py "${large[@]}" --dropout $rate "${alone[@]}"
done
measure "base, 512, beside peers" 60 $here/training.py "${base[@]}" "${blocks[@]}" --steps 5 --repeats 5
measure "base, up to 512" 50 $here/training.py "${base[@]}" "${blocks[@]}" --uneven "${alone[@]}"
measure "fine-tuning, base" 45 $here/training.py "${tuning[@]}" --ours
measure "base, 128" 45 $here/training.py "${base[@]}" --length 128 --sequences 256 "${alone[@]}"
measure "fine-tuning, base, beside peers" 45 $here/training.py "${tuning[@]}"
for mix in squad fixed; do
  measure "inference, base, $mix, beside peers" 45 $here/inference.py --mix "$mix" "${texts[@]}"
done
measure "inference, large, normal, beside peers" 60 $here/inference.py --preset roberta.large --mix normal "${texts[@]}" --sequences 512
measure "base, 512, peers compiled" 120 $here/training.py "${base[@]}" "${blocks[@]}" --compile --repeats 5

echo
echo "rows: $rows"
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
