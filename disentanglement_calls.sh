#!/bin/sh
# Stage 3, splitting, for the 20 pairs of the paper (ResNet-50, weights IMAGENET1K_V1).
# Folders, and flags for all pairs, are set in the environment:
#     DATA_DIR=/my/imagenet STORE_DIR=/my/store EXTRA_FLAGS="--device cuda:1" sh disentanglement_calls.sh
# or below; flags for a single pair are added at the end of its line.
DATA_DIR=${DATA_DIR:-/datasets/imagenet/}
STORE_DIR=${STORE_DIR:-./store_dir}
EXTRA_FLAGS=${EXTRA_FLAGS:-}
PYTHON=${PYTHON:-python}

split() {
    channel=$1 class1=$2 class2=$3
    shift 3
    echo "=== channel $channel, classes $class1 and $class2"
    # shellcheck disable=SC2086  (EXTRA_FLAGS is meant to be several words)
    "$PYTHON" "$(dirname "$0")/disentangle_channel.py" --data_dir "$DATA_DIR" --store_dir "$STORE_DIR" \
        --model resnet50 --nr_channels_in_layer_of_interest 2048 --channel_disentangle "$channel" \
        --classes_for_concept1 "$class1" --classes_for_concept2 "$class2" $EXTRA_FLAGS "$@" || {
        status=$?
        echo "disentanglement_calls.sh: stopped at channel $channel, classes $class1 and $class2" >&2
        exit $status
    }
}

split 522 62 687
split 1404 385 834
split 895 631 946
split 242 515 619
split 522 61 687
split 1660 530 938
split 242 515 846
split 242 619 808
split 895 467 946
split 242 808 846
split 1349 27 889
split 1832 852 984
split 1773 791 958
split 1349 27 486
split 1698 57 515
split 1698 57 808
split 1698 58 515
split 1698 58 808
split 1698 53 515
split 1698 53 808
