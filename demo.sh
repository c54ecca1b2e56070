#!/bin/sh
# Runs the whole method in two minutes, on pictures of thirty concepts that are drawn by code, and a small network whose
# twelve channels have to serve all of them. No images and no weights are downloaded. It prints each command before
# running it. All files go to demo_output/; files that exist are reused.
# It needs Python 3.10 or newer and a package index; $PYTHON chooses the interpreter.
set -eu
cd "$(dirname "$0")"
requirements=requirements.txt
. ./make_venv.sh
PATH="$PWD/.venv/bin:$PATH"

run=examples.demo-demo_network
network="--model examples.demo:demo_network --store_dir demo_output/store"
images="--data_dir demo_output/pictures"
output="--output_dir demo_output"
table=${run}_required0.03_p0.75_cossim-1.0to0.5 # of stage 2

# step FILE COMMAND...: print and run a command, unless the last file that it makes (a pattern) exists
step() {
    made=$1
    shift
    # shellcheck disable=SC2086
    if ls demo_output/$made >/dev/null 2>&1; then
        echo "reusing demo_output/$made"
    else
        printf '\n$ %s\n' "$*"
        "$@"
    fi
}

# split CHANNEL CONCEPT CONCEPT OUTPUTS: stages 3 and 4
split() {
    flags="--classes_for_concept1 $2 --classes_for_concept2 $3"
    step "store/models_disentangled/${run}_channel$1_$4.pt" \
        python disentangle_channel.py $images $network --channel_disentangle "$1" $flags
    step "plots/${run}_channel$1_$4_*_card.png" \
        python get_results.py $images $network --channel_of_interest "$1" $flags $output \
        --get_quantitative --get_qualitative --get_channel_card
}

# shellcheck disable=SC2086  (the variables are several words)
step "pictures/val/waves/039.png" python -m examples.demo demo_output
step "store/results_get_cosine_similarities/${run}_class_means.npz" \
    python get_importances_for_classes.py $images $network
step "store/${run}_channel_importances_val/chunk_000000.npz" \
    python get_importances_for_classes.py $images $network --images val
step "results_get_cosine_similarities/$table.txt" \
    python get_cosine_similarities.py $images $network --cos_sim_low -1 --cos_sim_high 0.5 --top 12 $output
# Three of the pairs with a low cosine: both concepts activate their channel about equally
split 10 donut waves 6_29
split 5 disc umbrella 5_28
split 2 bricks triangle 2_27
# One of these channels without labels: concepts are clusters of pictures by circuits, named after the pictures' folders
step "store/models_disentangled/${run}_channel10_circuits_*.pt" \
    python disentangle_channel.py $images $network --channel_disentangle 10 --concepts_from circuits
step "plots/${run}_channel10_circuits_*_map.png" \
    python get_results.py $images $network --splits demo_output/store/models_disentangled/${run}_channel10_circuits_*.pt \
    $output --get_quantitative --get_map
# All twelve channels split into the groups of their classes, and compared with nulls on all validation pictures
groups="--candidates demo_output/results_get_cosine_similarities/${table}_groups.json --split_by least_squares"
step "store/models_disentangled/${table}_groups_least_squares_background_layer.json" \
    python disentangle_channel.py $images $network $groups
step "plots/${table}_groups_least_squares_background_separation.png" \
    python get_results.py $images $network $groups $output --get_separation --get_quantitative
printf '\n$ python -m examples.demo demo_output --show\n'
python -m examples.demo demo_output --show
step "report/$run/index.html" python get_results.py --report $images $network $output
echo "the page to browse: open demo_output/report/$run/index.html"
