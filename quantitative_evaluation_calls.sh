#!/bin/sh
# Stage 4, quantitative evaluation, for the 20 pairs of the paper (ResNet-50, weights IMAGENET1K_V1).
# Folders, and flags for all pairs, are set in the environment:
#     DATA_DIR=/my/imagenet STORE_DIR=/my/store EXTRA_FLAGS="--device cuda:1" sh quantitative_evaluation_calls.sh
# or below; flags for a single pair are added at the end of its line.
DATA_DIR=${DATA_DIR:-/datasets/imagenet/}
STORE_DIR=${STORE_DIR:-./store_dir}
EXTRA_FLAGS=${EXTRA_FLAGS:-}
PYTHON=${PYTHON:-python}

evaluate() {
    channel=$1 class1=$2 class2=$3
    shift 3
    echo "=== channel $channel, classes $class1 and $class2"
    # shellcheck disable=SC2086  (EXTRA_FLAGS is meant to be several words)
    "$PYTHON" "$(dirname "$0")/get_results.py" --data_dir "$DATA_DIR" --store_dir "$STORE_DIR" \
        --model resnet50 --nr_channels_in_layer_of_interest 2048 --channel_of_interest "$channel" \
        --classes_for_concept1 "$class1" --classes_for_concept2 "$class2" --get_quantitative $EXTRA_FLAGS "$@" || {
        status=$?
        echo "quantitative_evaluation_calls.sh: stopped at channel $channel, classes $class1 and $class2" >&2
        exit $status
    }
}

evaluate 522 62 687
evaluate 1404 385 834
evaluate 895 631 946
evaluate 242 515 619
evaluate 522 61 687
evaluate 1660 530 938
evaluate 242 515 846
evaluate 242 619 808
evaluate 895 467 946
evaluate 242 808 846
evaluate 1349 27 889
evaluate 1832 852 984
evaluate 1773 791 958
evaluate 1349 27 486
evaluate 1698 57 515
evaluate 1698 57 808
evaluate 1698 58 515
evaluate 1698 58 808
evaluate 1698 53 515
evaluate 1698 53 808
