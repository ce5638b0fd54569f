#!/usr/bin/env bash
# Builds the image, runs it on one case as the platform does, in the mode that its label names, and validates the outputs.
# usage: [VARIABLE=…] scripts/do_test_run.sh [ARGUMENTS OF THE BUILD COMMAND]
# The variables of do_build.sh, and
#   SKIP_BUILD  1: run the image as it is
#   INPUT       folder of the case                              (test_input, which has expected outputs)
#   OUTPUT      folder whose outputs are replaced               (output/container)
#   MODEL       folder to mount at /opt/ml/model                (none)
#   MEMORY      limit, swap included                            (4g)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
export DOCKER=${DOCKER:-docker} IMAGE=${IMAGE:-pdac-cascade} DOCKER_CLI_HINTS=false
MEMORY=${MEMORY:-4g}
input=$(realpath "${INPUT:-$root/test_input}")
output=$(realpath -m "${OUTPUT:-$root/output/container}")
model=${MODEL:+$(realpath "$MODEL")}
# shellcheck source=scripts/sealed_container.sh
. "$here/sealed_container.sh"

clean_up() {
    remove_containers
    # The outputs belong to the image's user.
    "$DOCKER" run --rm --platform=linux/amd64 --network none --user 0 --volume "$output:/output" --entrypoint /bin/sh "$IMAGE" \
        -c 'chmod -R -f a+rwX /output/images /output/*.json' || true
}

serve_case() {
    start_server "$@"
    if ! { wait_until_healthy && expect 201 POST /invoke && stop_server >/dev/null; }; then
        "$DOCKER" logs "$server"
        return 1
    fi
}

if [ "${SKIP_BUILD:-0}" != 1 ]; then
    "$here/do_build.sh" "$@"
fi
method=$("$DOCKER" image inspect --format '{{index .Config.Labels "org.grand-challenge.api-method"}}' "$IMAGE")

if [ "$output" = "$input" ]; then
    echo "do_test_run.sh: OUTPUT is $output, expected another folder than INPUT" >&2
    exit 2
fi
rm -rf "$output"/images/{pdac-detection-map,pancreatic-tumor-segmentation} "$output"/{pdac-likelihood,run-report}.json
mkdir -p "$output"
chmod a+rwx "$output"
trap clean_up EXIT

options=(--volume "$input:/input:ro" --volume "$output:/output" ${model:+--volume "$model:/opt/ml/model:ro"})
if "$DOCKER" info 2>/dev/null | grep '^ *Runtimes:.*nvidia' >/dev/null; then
    options+=(--gpus all)
fi
start=$SECONDS
run=run_sealed
if [ "$method" = invoke ]; then
    run=serve_case
fi
if ! "$run" "$MEMORY" "${options[@]}" "$IMAGE"; then
    echo "do_test_run.sh: $IMAGE ($method) failed on $input" >&2
    exit 1
fi
duration=$((SECONDS - start))

validation=(--input /input --output /output)
mounts=(--volume "$input:/input:ro" --volume "$output:/output:ro")
if [ -z "${INPUT:-}${MODEL:-}" ]; then
    validation+=(--expected /expected)
    mounts+=(--volume "$root/test_output:/expected:ro")
fi
run_sealed "$MEMORY" "${mounts[@]}" "$IMAGE" validate "${validation[@]}"
echo "PASS: $IMAGE ($method) answered $input in $duration s; outputs in $output"
