#!/usr/bin/env bash
# Packs a folder of weights as the platform wants a model: an archive that it unpacks to /opt/ml/model.
# usage: [VARIABLE=…] scripts/pack_model.sh MODEL_FOLDER [OUT.tar.gz]     (default: model.tar.gz)
# The weights are checked by target/release/pdac-cascade or else by the image, if there is one (DOCKER, IMAGE as in do_build.sh).
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 MODEL_FOLDER [OUT.tar.gz]" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
DOCKER=${DOCKER:-docker}
IMAGE=${IMAGE:-pdac-cascade}
folder=$1
archive=${2:-model.tar.gz}
binary=$(dirname "$here")/target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release/pdac-cascade
# shellcheck source=scripts/sealed_container.sh
. "$here/sealed_container.sh"

recipes=()
for task in panorama panther-t1 panther-t2; do
    if [ -f "$folder/$task/pipeline.json" ]; then
        recipes+=("$task")
    fi
done
if [ ${#recipes[@]} -eq 0 ]; then
    echo "pack_model.sh: $folder: expected a weights folder with {panorama,panther-t1,panther-t2}/pipeline.json, got none" >&2
    exit 1
fi
folder=$(realpath "$folder")

if [ -x "$binary" ]; then
    checker=("$binary" inspect --weights "$folder")
elif "$DOCKER" image inspect "$IMAGE" >/dev/null 2>&1; then
    checker=(run_sealed 4g --volume "$folder:/opt/ml/model:ro" "$IMAGE" inspect --weights /opt/ml/model)
else
    echo "pack_model.sh: $folder: weights NOT CHECKED: neither $binary nor the image $IMAGE is there" >&2
    checker=(true)
fi
"${checker[@]}" >/dev/null

trap 'rm -f "$archive.part"' EXIT
tar -czf "$archive.part" --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w -C "$folder" .
mv "$archive.part" "$archive"
echo "$archive: $(du -h "$archive" | cut -f 1)"
