#!/bin/sh
# Real frames: a base on CamVid's day sequences from random weights, and an expert for dusk. Run it as `make camvid`.
# Every step is skipped when its result is there, so a killed run goes on.
set -eu
data=${DATA:-../shared/data}
work=${WORK:-out/camvid}
bundle=$work/bundle
[ -d "$data/camvid" ] || { echo "camvid.sh: $data/camvid is absent; see ../shared/data/README.md" >&2; exit 2; }
mkdir -p "$work"
[ -d "$work/base" ] || mile-edge train base "$data/camvid/day/train" --val "$data/camvid/day/val" \
    --out "$work/base" --size 240x320 --steps 2200 --seed 0
[ -d "$bundle" ] || mile-edge export "$work/base" --recipe export/segformer-b0-240x320.yaml \
    --data "$data/camvid/day/train" --own day --domains day --name camvid --out "$bundle"
[ -f "$work/dusk.safetensors" ] || mile-edge train expert "$bundle" "$data/camvid/dusk/train" --name dusk \
    --domains dusk --steps 400 --out "$work/dusk.safetensors" --add
mile-edge evaluate "$bundle" "$data/camvid/day/test" "$data/camvid/dusk/test" --domain day,dusk
