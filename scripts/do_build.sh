#!/usr/bin/env bash
# Builds the container image. usage: [VARIABLE=…] scripts/do_build.sh [ARGUMENTS OF THE BUILD COMMAND]
#   DOCKER      docker or podman                    (docker)
#   IMAGE       name of the image                   (pdac-cascade)
#   API_METHOD  exec or invoke                      (exec)
#   VARIANT     cpu, or cuda: also on GPUs          (cpu)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
DOCKER=${DOCKER:-docker}
IMAGE=${IMAGE:-pdac-cascade}
API_METHOD=${API_METHOD:-exec}
VARIANT=${VARIANT:-cpu}
export DOCKER_CLI_HINTS=false

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
revision=$(git -C "$root" describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)
"$DOCKER" build --platform=linux/amd64 --tag "$IMAGE" \
    --build-arg "API_METHOD=$API_METHOD" --build-arg "VARIANT=$VARIANT" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    "$@" "$root"
