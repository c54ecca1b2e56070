#!/bin/sh
# The paper on your own ImageNet: all four stages with its settings and its 20 pairs, and how the numbers stand beside
# those that are public. Says first what it will do, how much it will store and how long it will take. Stopped by
# whatever cause, the same command goes on where it was. In the environment, with their defaults:
#     DATA_DIR (/datasets/imagenet/)   holds train/ and val/, one sub-folder a class
#     STORE_DIR (./store_dir)          what each stage leaves for the next one
#     OUTPUT_DIR (.)                   results for people
#     EXTRA_FLAGS                      for stages 1, 3 and 4: "--device cuda:1 --batch_size 254 --precision bf16" say
#     GPUS (0)                         processes of torchrun in stage 1, a GPU each; 0: without torchrun
#     MODEL (resnet50), WEIGHTS (IMAGENET1K_V1, or a file)
#     PAIRS (paper_pairs.txt)          lines "channel: class1, class2" for stages 3 and 4
#     PYTHON (python)
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

command -v "$PYTHON" >/dev/null || stop "there is no $PYTHON: set PYTHON to one that has the packages of requirements.txt"
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
    [ "$GPUS" -le 1 ] || echo "$GPUS processes share stage 1: as many times as fast at best"

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

    printf '\n=== Stage 4: how pure the new channels are\n'
    cards=--get_channel_card
    ! cards_are_there || cards=
    script get_results.py --data_dir "$DATA_DIR" --output_dir "$OUTPUT_DIR" --candidates "$PAIRS" \
        --proportion_attribution_required $tau --get_quantitative $cards $EXTRA_FLAGS
}

printf '\n=== Beside what is public\n'
script benchmarks/paper.py --output_dir "$OUTPUT_DIR"
