# Sourced by other scripts: RoadScene's real thermal frames (they have no labels) as two folders, every third for the test.

# Two folders of links, $2/train and $2/test, beside the frames in $1/roadscene/thermal.
thermal_folders() {
    for part in train test; do
        [ -d "$2/$part" ] && continue
        mkdir -p "$2/$part/images"
        source=$(cd "$1/roadscene/thermal" && pwd)
        ls "$source" | awk -v part=$part '(NR % 3 == 0) == (part == "test")' |
            while read -r name; do ln -s "$source/$name" "$2/$part/images/$name"; done
        printf 'sensor: thermal\ndomain: thermal\n' > "$2/$part/classes.yaml"
    done
}
