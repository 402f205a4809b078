#!/bin/sh
# Real frames: a base on CamVid's day sequences and an expert for dusk. Run it as `make camvid`.
# No weights from elsewhere: the base starts from random ones. Every step is skipped when its result is there.
# An expert that reaches the first stage too, beside the same base: mkdir out/camvid-entry && cp -r out/camvid/base
# out/camvid-entry, then WORK=out/camvid-entry RECIPE=export/segformer-b0-352x480-entry.yaml OPTIONS=--own-statistics.
set -eu
data=${DATA:-../shared/data}
work=${WORK:-out/camvid}
bundle=$work/bundle
[ -d "$data/camvid" ] || { echo "camvid.sh: $data/camvid is absent; see ../shared/data/README.md" >&2; exit 2; }
mkdir -p "$work"
[ -d "$work/base" ] || mile-edge train base "$data/camvid/day/train" --out "$work/base" --size 240x320 \
    --steps 2400 --foreign 0 --seed 0
[ -d "$bundle" ] || mile-edge export "$work/base" --recipe ${RECIPE:-export/segformer-b0-352x480.yaml} \
    --data "$data/camvid/day/train" --own day --domains day --name camvid --out "$bundle"
[ -f "$work/dusk.safetensors" ] || mile-edge train expert "$bundle" "$data/camvid/dusk/train" --name dusk \
    --domains dusk --crop 240x320 --steps 250 ${OPTIONS:-} --out "$work/dusk.safetensors" --add

# Real thermal frames without labels (RoadScene): the gate learns to know them, the base segments them as best it can.
. studies/roadscene.sh
thermal_folders "$data" "$work/thermal"
[ -f "$work/thermal.safetensors" ] || mile-edge train expert "$bundle" "$work/thermal/train" --name thermal \
    --gate-only --out "$work/thermal.safetensors" --add
mile-edge evaluate "$bundle" "$data/camvid/day/test" "$data/camvid/dusk/test" "$work/thermal/test" \
    --domain day,dusk,thermal
mile-edge evaluate "$bundle" "$data/camvid/day/test" --expert day --json > "$work/oracle-day.json"
mile-edge evaluate "$bundle" "$data/camvid/dusk/test" --expert dusk --json > "$work/oracle-dusk.json"
cat "$work"/oracle-*.json
