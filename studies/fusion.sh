#!/bin/sh
# Trains and scores fusion of camera, depth and thermal on the procedural street: streets that no expert was trained on,
# others to test on. Every step is skipped when its result is there. KINDS="uniform routed both both-aux" is the ablation.
set -eu
. studies/repeatable.sh
work=${WORK:-out/fusion}
bundle=${BUNDLE:-bundles/reference}
mkdir -p "$work"
train= test=
seed=0
for weather in clear dusk night fog rain snow; do
    for part in "train 50000 80 5" "test 60000 60 10"; do
        set -- $part
        [ -d "$work/$1/$weather" ] || mile-edge world "$work/$1/$weather" --sensor all --domain $weather \
            --frames $3 --per-street $4 --seed $(($2 + seed))
    done
    train="$train $work/train/$weather" test="$test $work/test/$weather"
    seed=$((seed + 100))
done
for kind in ${KINDS:-both}; do
    if [ ! -d "$work/$kind" ]; then
        rm -rf "$work/$kind.part" && cp -r "$bundle" "$work/$kind.part"
        mile-edge train fusion "$work/$kind.part" $train --kind $kind --out "$work/$kind.safetensors" --add
        mv "$work/$kind.part" "$work/$kind"
    fi
    mile-edge evaluate "$work/$kind" --fuse $test
done
