#!/usr/bin/env bash
# Builds the image and saves it, and a model with it, as the files that the platform takes.
# usage: [VARIABLE=…] scripts/do_save.sh [ARGUMENTS OF THE BUILD COMMAND]
# The variables of do_build.sh, and
#   OUT    folder for IMAGE_TIMESTAMP.tar.gz and model_TIMESTAMP.tar.gz   (the working directory)
#   MODEL  weights folder to pack                                         (none)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export DOCKER=${DOCKER:-docker} IMAGE=${IMAGE:-pdac-cascade} DOCKER_CLI_HINTS=false
OUT=${OUT:-.}

"$here/do_build.sh" "$@"

timestamp=$(date +%Y%m%d_%H%M%S)
name=${IMAGE##*/}
archive=$OUT/${name//:/_}_$timestamp.tar.gz
mkdir -p "$OUT"
trap 'rm -f "$archive.part"' EXIT
"$DOCKER" save "$IMAGE" | gzip -c >"$archive.part"
mv "$archive.part" "$archive"
echo "$archive: $(du -h "$archive" | cut -f 1), unpacked $("$DOCKER" image inspect --format '{{.Size}}' "$IMAGE") bytes"

if [ -n "${MODEL:-}" ]; then
    "$here/pack_model.sh" "$MODEL" "$OUT/model_$timestamp.tar.gz"
fi
