#!/usr/bin/env bash
# Every job of the demo once on this machine, from videos to a report, with what each says and how
# long it takes. On a GPU, `train_vqgan` and all after it have to say in their first line that they
# run on one.
#
#     tests/gpu/jobs.sh                   results in runs/gpu
#     OUT=/some/folder tests/gpu/jobs.sh
#     VIDEOS=160 STEPS=100 COMPILE=off tests/gpu/jobs.sh
#     REHEARSE=1 tests/gpu/jobs.sh        few videos and steps, on the CPU
set -uo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python3}
ROOT=${ROOT:-$(mktemp -d)/demo}
mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
device=cuda videos=() training=()
if [ "${REHEARSE:-}" = 1 ]; then
    device=cpu VIDEOS=40 STEPS=10
fi
[ -z "${VIDEOS:-}" ] || videos=(--count "$VIDEOS")
[ -z "${COMPILE:-}" ] || training=(--compile "$COMPILE")
[ -z "${STEPS:-}" ] || training+=(--steps "$STEPS")
failed=0

job() {
    local name=$1 started
    started=$(date +%s)
    shift
    echo "== $name $*"
    if ! "$PYTHON" "jobs/$name.py" demo --root "$ROOT" "$@" 2>&1; then
        echo "== $name: FAILED"
        failed=1
    fi
    echo "== $name: $(($(date +%s) - started)) s"
}

all() {
    job demo_videos "${videos[@]}"
    job shard_videos
    job train_vqgan --device "$device" "${training[@]}"
    job encode_latents --device "$device"
    job train_ldm --device "$device" "${training[@]}"
    job sample --device "$device"
    job evaluate --device "$device"
    return "$failed"
}

all | tee "$OUT/gpu_jobs.log"
status=${PIPESTATUS[0]}
cp "$ROOT"/samples/base/grid.gif "$OUT/gpu_demo.gif" 2>/dev/null
exit "$status"
