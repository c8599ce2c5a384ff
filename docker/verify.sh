#!/usr/bin/env bash
# Build the image and try it where there is no container engine. Needs root on Debian 12 or newer, 6 GB of disk, and
# some minutes:
#
#   apt-get install buildah debootstrap && docker/verify.sh
#
# The base image is a minimal Debian 12, and torch its build for CPUs. Wheels are downloaded by this machine's pip, and
# the image is built from them without a network. Where pip finds no torch for CPUs, TORCH_INDEX names an index that
# has it.
#
# The server is run twice: by buildah with chroot isolation, and as process 1 of a namespace of its own, as an engine
# would. Both share this machine's network. Nothing is learned here about an engine's isolation, nor about GPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON_OF_BASE=3.11
PATIENCE=300 # seconds to become ready
GRACE=35     # seconds to end: what --shutdown-seconds gives, and some
QUESTION="Tom has 1 pears. Tom gets 8 more. Tom finds 6 more. Tom gives away 4. How many pears does Tom have?"
SHORT='{"messages": [{"role": "user", "content": "'$QUESTION'"}], "seed": 1}'
LONG='{"prompt": "'$QUESTION'", "max_tokens": 100, "block_length": 100, "stream": true}' # 100 forward passes
WORK=$(mktemp --directory "${TMPDIR:-/var/tmp}/unmask-verify.XXXXXX")
PORT=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
URL=http://127.0.0.1:$PORT
SETTINGS=(UNMASK_PORT="$PORT" OMP_NUM_THREADS=1) # threads that wait for a busy machine slow a small model down
SERVER= # process id of what was started and has not ended

main() {
    say "a base image"
    make_base
    say "wheels"
    download_wheels
    say "the image"
    build --build-context wheels="$WORK/wheels" --build-arg BASE_IMAGE=localhost/base --build-arg PIP_NO_INDEX=1 \
        --build-arg PACKAGES= --file docker/Dockerfile --tag localhost/unmask .
    storage images localhost/unmask
    CONTAINER=$(storage from --pull-never --signature-policy "$WORK/policy.json" localhost/unmask)
    mapfile -t ENTRY < <(of_image Entrypoint)
    mapfile -t HEALTH < <(of_image Healthcheck.Test)
    mapfile -t VARIABLES < <(of_image Env)
    expect "user and group" 10001:0 "$(inside id --user):$(inside id --group)"
    expect "a user of any number may write to /data" yes \
        "$(inside --user=54321:0 sh -c 'touch /data/here && python -c "import torch" && echo yes')"

    say "run by buildah"
    inside "${SETTINGS[@]/#/--env=}" "${ENTRY[@]}" > "$WORK/log" 2>&1 &
    try_server $!
    say "run as process 1"
    as_process_1 > "$WORK/log" 2>&1 &
    try_server $!
    expect "process number in its namespace" 1 "$NUMBER"
    say "all is well"
}

make_base() {
    mkdir "$WORK/base"
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$WORK/policy.json"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$WORK/base/rootfs" \
        > "$WORK/log" 2>&1 || fail "debootstrap failed"
    printf 'FROM scratch\nCOPY rootfs /\nCMD ["bash"]\n' > "$WORK/base/Dockerfile"
    build --tag localhost/base "$WORK/base"
    rm -rf "$WORK/base"
}

download_wheels() {
    python3 docker/requirements.py > "$WORK/requirements.txt"
    # Only the build for CPUs has this name, so that no other, of gigabytes, is downloaded by mistake.
    python3 -m pip download --quiet --only-binary :all: --python-version "$PYTHON_OF_BASE" --dest "$WORK/wheels" \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt \
        --requirement "$WORK/requirements.txt" \
        "torch==$(sed -n 's/^torch==//p' constraints.txt)+cpu" setuptools > "$WORK/log" 2>&1 ||
        fail "a wheel is missing"
}

# try_server PROCESS: ask what an engine and a client ask, then end it. Sets NUMBER.
try_server() {
    SERVER=$1
    local python started=$SECONDS
    until answer /ready > "$WORK/answer" 2>&1; do
        kill -0 "$SERVER" 2> "$WORK/null" || fail "the server has ended"
        ((SECONDS - started < PATIENCE)) || fail "the server is not ready after $PATIENCE s"
        sleep 0.5
    done
    echo "GET /ready: 200 after $((SECONDS - started)) s"
    python=$(leaf "$SERVER")
    NUMBER=$(awk '/^NSpid:/ { print $NF }' "/proc/$python/status")
    expect "user of the process" 10001 "$(stat --format %u "/proc/$python")"
    answer /health > "$WORK/answer" || fail "GET /health is not answered with 200"
    healthy || fail "the image's health check fails"
    expect "POST /generate ends with" '#### 11' "$(generate "$SHORT" | text | tail -n 1)"
    end_server "$python"
    ! grep Traceback "$WORK/log" || fail "the log has a traceback"
    ! healthy 2> "$WORK/null" || fail "the health check of a dead server passes"
}

# end_server PROCESS: SIGTERM while a stream runs, which must come to its end, and the process to its own
end_server() {
    generate "$LONG" --no-buffer > "$WORK/stream" &
    local client=$! started
    until grep --quiet '^event: step' "$WORK/stream"; do
        kill -0 $client 2> "$WORK/null" || fail "the stream ended without a step: $(< "$WORK/stream")"
    done
    ! grep --quiet '^event: done' "$WORK/stream" || fail "the stream was over before it could be interrupted"
    started=$SECONDS
    kill -TERM "$1"
    wait $client || fail "SIGTERM cut off a stream"
    expect "last event of a stream that ran when SIGTERM came" "event: done" \
        "$(grep '^event:' "$WORK/stream" | tail -n 1)"
    while [[ -d /proc/$1 ]]; do
        ((SECONDS - started < GRACE)) || fail "the server has not ended $GRACE s after SIGTERM"
        sleep 0.1
    done
    wait "$SERVER" || true # ended by the signal, as asked
    SERVER=
    echo "SIGTERM ended it after $((SECONDS - started)) s"
}

healthy() { inside "${SETTINGS[@]/#/--env=}" "${HEALTH[@]:1}"; }

# inside [OPTIONS] COMMAND ...: run a command in the container, as its user and with its variables
inside() {
    local options=()
    while [[ $1 == --* ]]; do
        options+=("$1")
        shift
    done
    storage run --isolation chroot "${options[@]}" "$CONTAINER" -- "$@"
}

# The entry point, as an engine starts it: every command here becomes the next one, and the last is Python.
as_process_1() {
    local root
    root=$(storage mount "$CONTAINER")
    # shellcheck disable=SC2016
    exec unshare --mount --pid --fork --kill-child sh -c '
        root=$1; shift; mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"
        exec chroot --userspec=10001:0 "$root" "$@"' sh "$root" \
        env --ignore-environment "${VARIABLES[@]}" "${SETTINGS[@]}" "${ENTRY[@]}"
}

storage() { buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver vfs "$@"; }

# Docker's own format, since the other knows no health check.
build() {
    storage build --isolation chroot --format docker --pull-never --signature-policy "$WORK/policy.json" \
        --layers=false "$@" > "$WORK/log" 2>&1 || fail "the build failed"
}

# of_image FIELD: the lines of a list in the image's configuration
of_image() {
    storage inspect --type image --format "{{range .Docker.Config.$1}}{{println .}}{{end}}" localhost/unmask |
        sed '/^$/d'
}

# chain PROCESS: it and its descendants, each the only child of the one before
chain() {
    local process=$1
    while [[ $process ]]; do
        echo "$process"
        process=$(pgrep --parent "$process" | head -n 1) || true
    done
}

leaf() { chain "$1" | tail -n 1; }

# answer PATH [CURL OPTIONS]: the body; fails unless the status is 200
answer() { curl --silent --show-error --fail-with-body --max-time 60 "${@:2}" "$URL$1"; }

# generate BODY [CURL OPTIONS]
generate() { answer /generate --header 'Content-Type: application/json' --data "$@"; }

text() { python3 -c 'import json, sys; print(json.load(sys.stdin)["text"])'; }

say() { printf '\n== %s\n' "$*"; }

# expect WHAT WANTED FOUND
expect() {
    [[ $3 == "$2" ]] || fail "$1: '$3', not '$2'"
    echo "$1: $3"
}

fail() {
    printf 'verify.sh: %s\n' "$*" >&2
    [[ ! -s $WORK/log ]] || tail -n 50 "$WORK/log" >&2
    exit 1
}

clean_up() {
    [[ -z $SERVER ]] || chain "$SERVER" | xargs kill -KILL || true
    storage rm --all > "$WORK/null" 2>&1 || true
    rm -rf --one-file-system "$WORK"
}

trap clean_up EXIT
main
