#!/bin/sh
# Reproduces the paper on your copy of ImageNet: all four stages with the paper's settings and its 20 pairs of classes.
# First it prints what it will do, how much it will store and how long that will take; at the end, its numbers next to
# the published ones. After an interrupt the same command resumes. Environment variables, with their defaults:
#     DATA_DIR (/datasets/imagenet/)   folder of train/ and val/, with one sub-folder per class
#     STORE_DIR (./store_dir)          folder shared by the stages
#     OUTPUT_DIR (.)                   folder for tables and figures
#     EXTRA_FLAGS (none)               flags of stages 1, 3 and 4, for example "--device cuda:1 --batch_size 254"
#     GPUS (0)                         number of processes of torchrun in stage 1, one per GPU; 0: no torchrun
#     MODEL (resnet50)                 name of the network
#     WEIGHTS (IMAGENET1K_V1)          name of weights, or a state-dict file
#     PAIRS (paper_pairs.txt)          file with lines "channel: class1, class2" for stages 3 and 4
#     PYTHON (python)                  interpreter
set -eu
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
DATA_DIR=${DATA_DIR:-/datasets/imagenet/}
STORE_DIR=${STORE_DIR:-./store_dir}
OUTPUT_DIR=${OUTPUT_DIR:-.}
EXTRA_FLAGS=${EXTRA_FLAGS:-}
PYTHON=${PYTHON:-python}
GPUS=${GPUS:-0}
MODEL=${MODEL:-resnet50}
WEIGHTS=${WEIGHTS:-}
PAIRS=${PAIRS:-$here/paper_pairs.txt}
tau=0.03
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} # for benchmarks/
export PYTHONPATH

stop() {
    echo "reproduce_paper.sh: $1" >&2
    exit 2
}

# script FILE FLAGS...: run a script on the network and the store
script() {
    file=$1
    shift
    "$PYTHON" "$here/$file" --model "$MODEL" ${WEIGHTS:+--weights "$WEIGHTS"} --store_dir "$STORE_DIR" "$@"
}

# cards_are_there: whether each pair has a card that is newer than its split
cards_are_there() {
    run=$(printf %s "$MODEL" | LC_ALL=C tr -c 'A-Za-z0-9._-' -)
    while IFS=':, ' read -r channel class1 class2; do
        case $channel in '' | '#'*) continue ;; esac
        name=${run}_channel${channel}_${class1}_${class2}
        split=$STORE_DIR/models_disentangled/$name.pt
        [ -n "$(find "$OUTPUT_DIR/plots/" -name "${name}_*_card.png" -newer "$split" 2>/dev/null)" ] || return 1
    done <"$PAIRS"
}

command -v "$PYTHON" >/dev/null || stop "there is no $PYTHON: set PYTHON to an interpreter that has the packages of requirements.txt"
case $GPUS in *[!0-9]*) stop "GPUS must be a whole number of processes, not $GPUS" ;; esac
for folder in "$DATA_DIR/train" "$DATA_DIR/val"; do
    [ -d "$folder" ] || stop "there is no folder $folder: set DATA_DIR to the folder of ImageNet with train/ and val/"
done

# shellcheck disable=SC2086  (EXTRA_FLAGS is meant to be several words)
{
    wordnet=--plot_wordnet
    script benchmarks/estimate.py --data_dir "$DATA_DIR" --output_dir "$OUTPUT_DIR" --candidates "$PAIRS" \
        $EXTRA_FLAGS || {
        status=$?
        [ $status -eq 3 ] || exit $status
        wordnet=
    }
    [ "$GPUS" -le 1 ] || echo "$GPUS processes share stage 1, which is then at most $GPUS times as fast"

    printf '\n=== Stage 1: importances\n'
    if [ "$GPUS" -gt 0 ]; then
        "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node="$GPUS" --max_restarts=3 \
            "$here/get_importances_for_classes.py" --model "$MODEL" ${WEIGHTS:+--weights "$WEIGHTS"} \
            --store_dir "$STORE_DIR" --data_dir "$DATA_DIR" $EXTRA_FLAGS
    else
        script get_importances_for_classes.py --data_dir "$DATA_DIR" $EXTRA_FLAGS
    fi

    printf '\n=== Stage 2: polysemantic channels\n'
    script get_cosine_similarities.py --data_dir "$DATA_DIR" --output_dir "$OUTPUT_DIR" \
        --proportion_attribution_required $tau --p 0.75 --cos_sim_high 0.5 $wordnet

    printf '\n=== Stage 3: splits of the pairs\n'
    script disentangle_channel.py --data_dir "$DATA_DIR" --candidates "$PAIRS" $EXTRA_FLAGS

    printf '\n=== Stage 4: measurements of the new channels\n'
    cards=--get_channel_card
    ! cards_are_there || cards=
    script get_results.py --data_dir "$DATA_DIR" --output_dir "$OUTPUT_DIR" --candidates "$PAIRS" \
        --proportion_attribution_required $tau --get_quantitative $cards $EXTRA_FLAGS
}

printf '\n=== Comparison with the published numbers\n'
script benchmarks/paper.py --output_dir "$OUTPUT_DIR"
