#!/usr/bin/env bash
# The weights in the package, on one GPU, in calls of under ten minutes each.
#
#   scripts/gpu/pretrain.sh PRESET FOLDER STAGE MINUTES [STEPS]
#
# PRESET  tiny or small.
# FOLDER  holds the runs between calls: FOLDER/upright, FOLDER/coarse, FOLDER/full, FOLDER/on.
# STAGE   upright, coarse or full, in this order (results/experiments.md says why upright first).
#         on: the network that the package has (PRESET tiny), trained on; needs no other call.
# MINUTES this call may take; what is trained by then is saved, and the same call goes on from it.
# STEPS   of the stage, batches of 128 (default: upright 3000, coarse 8000, full 3000; on: as many
#         as fit into this call, by the speed of 40 trial steps).
#
# Images are rendered again in every call, from the same seed, which takes less than moving them
# would: 16 cores take some three minutes for 50,000 plain ones (tiny), and as long for the 20,000
# varied ones of small, each of which takes two and a half times as long. Training then takes what
# is left.
set -euo pipefail
preset=$1 folder=$2 stage=$3 minutes=$4 warmup=300
case $stage in
    upright) steps=${5:-3000} options=(--train.stage coarse --data.rotation 10
        --loss.heatmaps 300 --loss.densepose 12 --loss.parts 8
        --loss.vertices 2 --loss.projections 2 --loss.coordinates 2) ;;
    coarse) steps=${5:-8000} options=(--train.stage coarse --train.initial "$folder/upright") ;;
    full) steps=${5:-3000} options=(--train.initial "$folder/coarse" --train.initial-rate 0.3) ;;
    on) steps=${5:-fit} warmup=100 options=(--train.initial shipped) ;;
    *) echo "stage $stage: give upright, coarse, full or on" >&2; exit 2 ;;
esac
[ "$stage" = full ] || options+=(--train.initial-rate 1)
images=(--train 50000)
[ "$preset" = small ] && images=(--train 20000 --varied)
cores=$(nproc)
began=$SECONDS
data=data/gpu
dne() { python3 -m dne_lib "$@"; }

mkdir -p "$folder"
export OMP_NUM_THREADS=1
dne synthesize "$data" "${images[@]}" --test 2000 --val 1000 --seed 1
options+=(--preset "$preset" --data.root "$data" --train.batch-size 128 --train.warmup "$warmup"
    --train.workers "$cores" --train.save-every 250)
left() { echo $((minutes * 60 - (SECONDS - began) - 45)); }

if [ -f "$folder/$stage/config.json" ]; then
    options+=(--resume)
    if [ "$steps" = fit ]; then  # as many as were planned
        steps=$(python3 -c 'import json, sys
print(json.load(open(sys.argv[1]))["train"]["steps"])' "$folder/$stage/config.json")
    fi
elif [ "$steps" = fit ]; then
    rm -rf "$folder/trial"
    log=$folder/trial/log.jsonl
    python3 -m dne_lib train "${options[@]}" --output "$folder/trial" --train.steps 100000 \
        --train.log-every 5 &
    until [ "$(cat "$log" 2> /dev/null | wc -l)" -ge 8 ]; do
        kill -0 $!  # it ended with a mistake, and said which
        sleep 1
    done
    kill -INT $!
    wait $! || true
    # The evaluations at the end take their part of what is left.
    steps=$(python3 -c 'import json, sys
line = open(sys.argv[1]).readlines()[-1]
print(int(json.loads(line)["images_per_second"] * (int(sys.argv[2]) - 60) / 128))' \
        "$log" "$(left)")
fi
if [ "$(left)" -lt 30 ]; then
    echo "the images are drawn, and $minutes minutes are over: give it more" >&2
    exit 1
fi
# Interrupted by the clock it leaves its last checkpoint; finished, it has evaluated itself.
# (--foreground: otherwise the signal may come twice, which is to stop at once.)
timeout --foreground --signal=INT "$(left)" python3 -m dne_lib train "${options[@]}" \
    --output "$folder/$stage" --train.steps "$steps" || [ $? -eq 124 ]
if [ ! -f "$folder/$stage/model.safetensors" ]; then
    echo "stopped before the first checkpoint: the same call begins again" >&2
    exit 1
fi
dne evaluate "$folder/$stage" --limit 1000
# What predictions say of their errors: it goes into the file that is shipped.
case $stage in full | on) dne calibrate "$folder/$stage" ;; esac
