#!/bin/sh
# ESPNetv2 with its authors' Cityscapes weights on real frames: as it comes, with an expert for CamVid's dusk and one for
# India (other classes), and trained whole on either for comparison. Run it as `make espnet`.
# Every step is skipped when its result is there. STEPS and BATCH are the same for experts and for whole networks.
set -eu
data=${DATA:-../shared/data}
work=${WORK:-out/espnet}
weights=$data/weights/espnetv2_s_2.0_city_1024x512.pth
bundle=$work/bundle
size=480x640
views="--crop 240x320 --zoom 0.5 1.5 --steps ${STEPS:-400} --batch ${BATCH:-4} --foreign 0 --photometric 0.3"
# A base that knows streets already wants smaller steps than one from random weights (docs/results.md has the rates tried).
rate=${RATE:-2e-3}
[ -f "$weights" ] || { echo "espnet.sh: $weights is absent; see ../shared/data/README.md" >&2; exit 2; }
mkdir -p "$work"

# Untouched: as it comes, and through a camera profile (and at a size) chosen on training and validation frames.
mile-edge evaluate "$weights" "$data/camvid/day/test" "$data/camvid/dusk/test" --size $size \
    --class-map calib/class-maps/cityscapes-to-camvid.yaml
for part in "day/train day/val day/test" "dusk/train dusk/test"; do
    # shellcheck disable=SC2086
    mile-edge evaluate "$weights" $(printf "$data/camvid/%s " $part) --size 448x592 \
        --class-map calib/class-maps/cityscapes-to-camvid.yaml --sensor-profile calib/sensors/camera-camvid.yaml
done
mile-edge evaluate "$weights" "$data/idd_lite/test" --size $size --class-map calib/class-maps/cityscapes-to-idd-lite.yaml

# One bundle; its base serves the day with those rows of the published classifier that CamVid's classes are like.
[ -d "$bundle" ] || mile-edge export "$weights" --recipe export/espnetv2-$size.yaml --own day --domains day \
    --class-map calib/class-maps/cityscapes-to-camvid.yaml --data "$data/camvid/day/train" --name espnet --out "$bundle"
# Exporting folds batch norms into convolutions, so the exact weights come from the file again: --base.
[ -f "$work/dusk.safetensors" ] || mile-edge train expert "$bundle" "$data/camvid/dusk/train" --name dusk \
    --base "$weights" --domains dusk $views --lr $rate --out "$work/dusk.safetensors" --add
[ -f "$work/idd.safetensors" ] || mile-edge train expert "$bundle" "$data/idd_lite/train" --name idd \
    --base "$weights" --domains idd --start-map calib/class-maps/camvid-to-idd-lite.yaml $views --lr $rate --out "$work/idd.safetensors" --add
. studies/roadscene.sh
thermal_folders "$data" "$work/thermal"
[ -f "$work/thermal.safetensors" ] || mile-edge train expert "$bundle" "$work/thermal/train" --name thermal \
    --base "$weights" --gate-only --out "$work/thermal.safetensors" --add

# How often each kind of gate is right on this base's features. Folders are matched by name, so the names are links.
for part in train test; do
    mkdir -p "$work/gates/$part"
    for folder in day:camvid/day dusk:camvid/dusk idd:idd_lite; do
        ln -sfn "$(cd "$data/${folder#*:}/$part" && pwd)" "$work/gates/$part/${folder%%:*}"
    done
    ln -sfn "$(cd "$work/thermal/$part" && pwd)" "$work/gates/$part/thermal"
done
python studies/gates.py "$bundle" --base "$weights" --train "$work"/gates/train/* --test "$work"/gates/test/*

# Every weight free, from the same rows, in as many steps.
full() { # name, folder, class map
    [ -d "$work/full-$1" ] || mile-edge train base "$2" --base "$weights" --start-map "calib/class-maps/$3" --size $size \
        $views --optimiser adamw --lr 6e-4 --out "$work/full-$1"
}
full dusk "$data/camvid/dusk/train" cityscapes-to-camvid.yaml
full idd "$data/idd_lite/train" cityscapes-to-idd-lite.yaml

mile-edge evaluate "$bundle" "$data/camvid/day/test" "$data/camvid/dusk/test" "$data/idd_lite/test" "$work/thermal/test" \
    --domain day,dusk,idd,thermal
mile-edge evaluate "$work/full-dusk" "$data/camvid/dusk/test" --size $size
mile-edge evaluate "$work/full-idd" "$data/idd_lite/test" --size $size
mile-edge bench "$bundle"
