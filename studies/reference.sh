#!/bin/sh
# Makes bundles/reference: renders the procedural world, trains a base on its clear days, and one expert for each other
# weather and sensor. Run it as `make reference`. Every step is skipped when its result is there, so a killed run goes on.
set -eu
. studies/repeatable.sh
work=${WORK:-out/reference}
bundle=${BUNDLE:-$work/bundle}
recipe=export/segformer-b0-240x320.yaml
weathers="dusk night fog rain snow"

render() { # folder, domains, sensor, frames, first seed
    [ -d "$1" ] || mile-edge world "$1" --domain "$2" --sensor "$3" --frames "$4" --seed "$5"
}
everything=clear,dusk,night,fog,rain,snow
mkdir -p "$work"
render "$work/train/clear" clear camera 480 0
render "$work/test/clear" clear camera 60 9000
seed=100
for weather in $weathers; do
    render "$work/train/$weather" "$weather" camera 240 $seed
    render "$work/test/$weather" "$weather" camera 60 $((9000 + seed))
    seed=$((seed + 100))
done
for sensor in depth thermal; do
    render "$work/train/$sensor" $everything $sensor 300 $seed
    render "$work/test/$sensor" $everything $sensor 60 $((9000 + seed))
    seed=$((seed + 100))
done

[ -d "$work/base" ] || mile-edge train base "$work/train/clear" --out "$work/base" --size 240x320 \
    --steps 2000 --foreign 0.3 --seed 0
[ -d "$bundle" ] || mile-edge export "$work/base" --recipe $recipe --data "$work/train/clear" \
    --own clear --domains clear --name reference --out "$bundle"

expert() { # name, sensor, domains
    [ -f "$work/$1.safetensors" ] || mile-edge train expert "$bundle" "$work/train/$1" --name "$1" \
        --sensors "$2" --domains "$3" --steps ${STEPS:-300} --store int8 --out "$work/$1.safetensors"
    mile-edge experts list "$bundle" --json | grep -q "\"name\": \"$1\"" || mile-edge experts add "$bundle" "$work/$1.safetensors"
}
for weather in $weathers; do expert "$weather" camera "$weather"; done
expert depth depth '*'
expert thermal thermal '*'

# Held-out streets, neither trained on nor tested on, tell what is usual: four frames, 4.5 s, of each of 75 streets per domain,
# since frames of one street resemble each other and one street in a hundred is odd.
held() { # folder, domains, sensor, first seed
    [ -d "$1" ] || mile-edge world "$1" --domain "$2" --sensor "$3" --frames 300 --per-street 4 --seed "$4"
}
seed=70000
for weather in rain snow fog clear night dusk; do held "$work/held/$weather" "$weather" camera $seed; seed=$((seed + 1000)); done
for sensor in depth thermal; do held "$work/held/$sensor" $everything $sensor $seed; seed=$((seed + 1000)); done
mile-edge calibrate gate "$bundle" --data "$work"/held/* --false-alarms 0.0075 --alike 4 --keep-hysteresis
mile-edge evaluate "$bundle" "$work"/test/* --json > "$work/scores.json"
mile-edge evaluate "$bundle" "$work"/test/*
