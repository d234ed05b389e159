#!/usr/bin/env bash
# How the shipped weights of the preset tiny are made: scripts/shipped_weights.sh FOLDER
#
# Hours on two CPU cores. Every leg starts from the one before and can be interrupted: run the
# script again and it goes on (finished legs are skipped). results/README.md tells what was run.
#
# Three things make it hours and not days (results/experiments.md has the measurements):
# - small images first: a network that does not know yet what a hand is learns that as well at a
#   half or three quarters of the size, two to three times as fast;
# - upright images first: which hand is the right one can be told only from palm or back, thumb
#   side and direction of the fingers together, and with images turned at will it stays at chance.
# - maps first: while parts are not named right, the terms of the maps weigh most, afterwards those
#   of the meshes.
set -euo pipefail
folder=$1
data=$folder/data
dne() { python -m dne_lib "$@"; }

leg() {  # NAME then options of `dne train`
    local run=$folder/$1
    shift
    [ -f "$run/evaluation-test/metrics.json" ] && return
    local resume=()
    [ -f "$run/config.json" ] && resume=(--resume)
    dne train --preset tiny --data.root "$data" --output "$run" "${resume[@]}" "$@"
}

dne synthesize "$data" --train 50000 --test 2000 --seed 1
small=(--model.image-size 96 --model.feature-size 24 --train.batch-size 48)
maps=(--loss.heatmaps 300 --loss.densepose 12 --loss.parts 8
    --loss.vertices 2 --loss.projections 2 --loss.coordinates 2)
leg coarse-upright --train.stage coarse --train.steps 8000 --train.warmup 100 \
    --data.rotation 10 "${small[@]}" "${maps[@]}"
leg coarse-turned --train.stage coarse --train.steps 8000 --train.warmup 100 \
    --train.initial "$folder/coarse-upright" --train.initial-rate 1 "${small[@]}"
leg coarse --train.stage coarse --train.steps 10000 --train.warmup 100 \
    --train.initial "$folder/coarse-turned" --train.initial-rate 1
leg full --train.steps 9500 --train.warmup 100 --train.initial "$folder/coarse" \
    --train.initial-rate 0.3
dne synthesize "$folder/val" --train 0 --test 0 --val 1000 --seed 1
dne calibrate "$folder/full" --data "$folder/val"
python scripts/ship_weights.py shipped-coarse "$folder"/coarse{-upright,-turned,} \
    --device "two CPU cores"
python scripts/ship_weights.py shipped "$folder/full" --device "two CPU cores"

# On with images as photographs are: the coarse stage alone first, which is several times as fast.
# Boxes that hands are found in are rougher than those of labels: more scale and shift.
data=$folder/varied-data
dne synthesize "$data" --train 60000 --test 1000 --val 500 --seed 1 --varied
rough=(--data.scale 0.3 --data.shift 20)
leg varied-small --train.stage coarse --train.steps 7000 --train.initial "$folder/full" \
    --train.initial-rate 1 "${rough[@]}" "${small[@]}"
leg varied-coarse --train.stage coarse --train.steps 6800 --train.initial "$folder/varied-small" \
    --train.initial-rate 1 "${rough[@]}"
python scripts/join_weights.py "$folder/varied-coarse" "$folder/full" "$folder/joined.safetensors"
leg varied --train.steps 1200 --train.initial "$folder/joined.safetensors" --train.initial-rate 1 \
    --train.learning-rate 5e-4 "${rough[@]}"
dne calibrate "$folder/varied" --data "$data"
python scripts/ship_weights.py shipped-varied "$folder"/varied{-small,-coarse,} --device "two CPU cores"
python scripts/model_card.py
