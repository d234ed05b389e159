#!/usr/bin/env bash
# The shipped weights on one GPU, in calls of under ten minutes each.
#
#   scripts/gpu/tiny.sh FOLDER STAGE MINUTES [STEPS]
#
# FOLDER  holds the runs between calls: FOLDER/coarse, FOLDER/full.
# STAGE   coarse or full.
# MINUTES this call may take; what is trained by then is saved, and the same call goes on from it.
# STEPS   of the stage, batches of 128 (default: coarse 12000, full 6000).
#
# Images are rendered again in every call, from the same seed: 16 cores take some three minutes
# for 50,000, less than moving them would. Training then takes what is left.
set -euo pipefail
folder=$1 stage=$2 minutes=$3
steps=${4:-$([ "$stage" = coarse ] && echo 12000 || echo 6000)}
cores=$(nproc)
began=$SECONDS
data=data/gpu
dne() { python3 -m dne_lib "$@"; }

mkdir -p "$folder"
export OMP_NUM_THREADS=1
dne synthesize "$data" --train 50000 --test 2000 --seed 1
# No room for data-loading workers to wait on one another: one a core.
options=(--preset tiny --train.stage "$stage" --data.root "$data" --output "$folder/$stage"
    --train.steps "$steps" --train.batch-size 128 --train.warmup 300
    --train.workers "$cores" --train.save-every 250)
[ "$stage" = full ] && options+=(--train.initial "$folder/coarse" --train.initial-rate 0.3)
[ -f "$folder/$stage/config.json" ] && options+=(--resume)
left=$((minutes * 60 - (SECONDS - began) - 45))
# Interrupted by the clock it leaves its last checkpoint; finished, it has evaluated itself.
timeout --signal=INT "$left" python3 -m dne_lib train "${options[@]}" || [ $? -eq 124 ]
dne evaluate "$folder/$stage" --limit 1000
