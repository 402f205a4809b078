#!/bin/sh
# int8 against what it was made from, on frames that calibration never saw: CamVid's real day, dusk and RoadScene's thermal
# (after `make camvid`), and the procedural street (after `make reference`). mIoU has to stay within 1.0 point of the
# source's, the gate's accuracy within 0.2. Every bundle is written once; remove it to calibrate again.
set -eu
data=${DATA:-../shared/data}
camvid=${CAMVID:-out/camvid}
reference=${REFERENCE:-out/reference}
work=${WORK:-out/int8}
options=${OPTIONS:-} # such as "--ranges entropy --limit 128"
mkdir -p "$work"

compare() { # name, source bundle, domains of the test folders or "", training folders, "--", test folders
    name=$1 source=$2 domains=$3
    shift 3
    train=
    while [ "$1" != -- ]; do train="$train $1"; shift; done
    shift
    # shellcheck disable=SC2086 # lists of folders and of options, none with a space in it
    [ -d "$work/$name" ] || mile-edge calibrate int8 "$source" --data $train --out "$work/$name" $options
    for bundle in "$source" "$work/$name"; do
        echo "$bundle"
        mile-edge evaluate "$bundle" "$@" ${domains:+--domain "$domains"}
    done
}

if [ -d "$camvid/bundle" ] && [ -d "$data/camvid" ]; then
    compare camvid "$camvid/bundle" day,dusk,thermal "$data/camvid/day/train" "$data/camvid/dusk/train" \
        "$camvid/thermal/train" -- "$data/camvid/day/test" "$data/camvid/dusk/test" "$camvid/thermal/test"
else
    echo "int8.sh: no $camvid/bundle or no $data/camvid, so no real frames; run make camvid first" >&2
fi
if [ -d "$reference/train" ]; then
    compare reference bundles/reference "" "$reference"/train/* -- "$reference"/test/*
else
    echo "int8.sh: no $reference/train, so no street; run make reference first" >&2
fi
