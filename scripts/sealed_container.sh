#!/usr/bin/env bash
# Functions that run an image as the platform does; sourced. DOCKER names the container command, IMAGE the
# image of the server.

server=pdac-cascade-server-$$
program=pdac-cascade-program-$$

# start_sealed MEMORY ARGUMENTS…: `run` without network and privileges, with nothing to write on but /tmp and what is mounted.
start_sealed() {
    local memory=$1
    shift
    "$DOCKER" run --platform=linux/amd64 --network none --cap-drop all --security-opt no-new-privileges --read-only --volume /tmp \
        --memory "$memory" --memory-swap "$memory" --pids-limit 128 "$@"
}

# run_sealed MEMORY ARGUMENTS…: the same until the program ends, with its exit code.
run_sealed() {
    local memory=$1 code=0
    shift
    start_sealed "$memory" --name "$program" "$@" || code=$?
    # Not by --rm, with which podman's service forgets the exit code.
    "$DOCKER" rm --force --volumes "$program" >/dev/null || true
    return "$code"
}

# start_server MEMORY ARGUMENTS…: the same for an image that serves, in the background.
start_server() {
    local memory=$1
    shift
    start_sealed "$memory" --name "$server" --detach "$@" >/dev/null
}

remove_containers() {
    # One by one: podman removes none if one is missing.
    "$DOCKER" rm --force --volumes "$server" >/dev/null 2>&1 || true
    "$DOCKER" rm --force --volumes "$program" >/dev/null 2>&1 || true
}

# request METHOD PATH: the status of the server's answer and, from the second line on, its text; nothing if it gives none.
request() {
    # The image has no HTTP client, but a shell.
    # shellcheck disable=SC2016 # variables of that shell
    "$DOCKER" run --rm --platform=linux/amd64 --network "container:$server" --cap-drop all --entrypoint bash "$IMAGE" -c '
        exec 3<>/dev/tcp/127.0.0.1/4743 || exit
        printf "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" "$0" "$1" >&3
        cat <&3' "$1" "$2" | tr -d '\r' | sed -e '1s/^[^ ]* \([0-9]*\).*/\1/' -e '2,/^$/d'
}

# expect STATUS METHOD PATH: one request whose answer must have this status; prints the answer's text.
expect() {
    local wanted=$1 answer
    shift
    answer=$(request "$@") || true
    if [ "${answer%%$'\n'*}" != "$wanted" ]; then
        echo "$*: expected $wanted, got ${answer:-no answer}" >&2
        return 1
    fi
    echo "${answer#"$wanted"}"
}

# Waits for the server as the platform does: anything but 200 means not yet, a redirect failure.
wait_until_healthy() {
    local answer='' deadline=$((SECONDS + 90))
    while [ "$SECONDS" -lt "$deadline" ]; do
        answer=$(request GET /health 2>/dev/null) || true
        case $answer in
            200*) return ;;
            3*) break ;;
        esac
        if [ "$("$DOCKER" inspect --format '{{.State.Running}}' "$server")" != true ]; then
            answer='the end of the container'
            break
        fi
        sleep 0.2
    done
    echo "GET /health: expected 200 within 90 s, got ${answer:-no answer}" >&2
    return 1
}

# Ends the server with SIGTERM, prints the milliseconds it took and fails unless its exit code is 0.
stop_server() {
    local start code
    start=$(date +%s%3N)
    "$DOCKER" stop --time 5 "$server" >/dev/null
    echo $(($(date +%s%3N) - start))
    code=$("$DOCKER" inspect --format '{{.State.ExitCode}}' "$server")
    if [ "$code" -ne 0 ]; then
        echo "SIGTERM: expected exit code 0 within 5 s, got $code" >&2
        return 1
    fi
}
