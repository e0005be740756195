#!/usr/bin/env bash
# All that a GPU tells, by one command: the tests, then the benchmark with the time that is left.
#
#     tests/gpu/run.sh                        9 minutes in all, results in runs/gpu
#     MINUTES=6 OUT=/some/folder tests/gpu/run.sh
#     REHEARSE=1 tests/gpu/run.sh             the same on the CPU, tiny
#
# The benchmark comes first with BENCHMARK_FIRST=1. It saves after every figure, and the log of the
# tests grows line by line, so that a run that is cut short leaves what it found.
# Needed: PyTorch, einops, safetensors, SciPy, pytest. Not needed: Ray, MLflow, PyAV.
set -uo pipefail
cd "$(dirname "$0")/../.."

MINUTES=${MINUTES:-9}
TEST_MINUTES=${TEST_MINUTES:-$(awk "BEGIN {print $MINUTES * 0.4}")}
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
started=$(date +%s)
seconds() { awk "BEGIN {print int($1 * 60)}"; }
left() { echo $((started + $(seconds "$MINUTES") - $(date +%s))); }
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
rehearse=()
if [ "${REHEARSE:-}" = 1 ]; then
    export VQVDM_GPU_REHEARSAL=1
    rehearse=(--rehearse)
fi

tests() {
    local limit=$1
    # No test starts after four fifths of the time; what is still running is ended at its end.
    VQVDM_GPU_UNTIL=$(($(date +%s) + limit * 4 / 5)) timeout -k 10 "$limit" "$PYTHON" -m pytest \
        -v -s -rA --tb=short --durations=20 -p no:cacheprovider tests/gpu 2>&1 | tee "$OUT/gpu_tests.log"
}

benchmark() {
    local limit=$1
    timeout -k 10 "$limit" "$PYTHON" -m benchmarks.gpu --out "$OUT/gpu.json" \
        --minutes "$(awk "BEGIN {print $limit / 60 * 0.85}")" "${rehearse[@]}" 2>&1 |
        tee "$OUT/gpu_benchmark.log"
}

if [ "${BENCHMARK_FIRST:-}" = 1 ]; then
    benchmark $(($(left) - $(seconds "$TEST_MINUTES"))); second=$?
    tests "$(left)"; first=$?
else
    tests "$(seconds "$TEST_MINUTES")"; first=$?
    benchmark "$(left)"; second=$?
fi
echo "tests: status $first, benchmark: status $second; results in $OUT"
# 124: ended by the time limit, which is no failure.
[ "$first" = 124 ] && first=0
[ "$second" = 124 ] && second=0
exit $((first > second ? first : second))
