#!/usr/bin/env bash
# A plan of ablations on one GPU, in calls of under ten minutes each.
#
#   scripts/gpu/ablate.sh PLAN FOLDER MINUTES
#
# PLAN    one of scripts/plans.
# FOLDER  holds FOLDER/runs between calls, and FOLDER/results.
# MINUTES this call may take: what is trained by then is saved, and the same call goes on from it.
#         The tables are whole after every call, and say what has not been run yet; they begin
#         once the coarse network is trained.
set -euo pipefail
plan=$1 folder=$2 minutes=$3
export OMP_NUM_THREADS=1
# Interrupted by the clock it leaves its last checkpoint.
# (--foreground: otherwise the signal may come twice, which is to stop at once.)
timeout --foreground --signal=INT $((minutes * 60 - 30)) \
    python3 -m dne_lib ablate "$plan" --runs "$folder/runs" --output "$folder/results" \
    || [ $? -eq 124 ]
page=$folder/results/$(basename "$plan" .yaml).md
if [ -f "$page" ]; then cat "$page"; else echo "the coarse network is not trained yet"; fi
