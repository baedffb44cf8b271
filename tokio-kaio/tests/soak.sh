#!/usr/bin/env bash
# Uses the crate for a long time, on each backend and on both runtimes: all operations, cancellation, growing
# files, contexts that come and go, a full file system, a device that fails with EIO. All data that is read is
# verified. At the end, descriptors, threads, memory and fs.aio-nr have to be as at the start. Prints a table.
#
#   tokio-kaio/tests/soak.sh MINUTES                 60 for an hour, 0.2 for twelve seconds
#   tokio-kaio/tests/soak.sh MINUTES --dir DIR       with its files in DIR; by default in the target directory
#   tokio-kaio/tests/soak.sh MINUTES --program FILE  runs this build of kaio-bench's `soak`, and builds nothing
#   tokio-kaio/tests/soak.sh MINUTES OPTION...       with options of that program; its --help lists them
#
# The full file system and the device with EIO need root, loop devices and mkfs.ext4. Without them, these two
# are skipped, with a line that says so. Nothing is left behind: no mount, device, file.
#
# Exit status: 0 no difference; 1 wrong data, an unexpected error, or a resource that was not released; 2 wrong
# usage; 130 or 143 interrupted.
set -euo pipefail
export LC_ALL=C
script=$(realpath "${BASH_SOURCE[0]}")
from=$PWD
cd "$(dirname "$script")/../.."
exec </dev/null

usage() {
    sed -n '2,/^set /{ /^#/s/^# \{0,1\}//p }' "$script"
}

usage_error() {
    printf 'soak.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

# A path of the caller.
absolute() {
    [[ $1 == /* ]] && printf '%s\n' "$1" || printf '%s\n' "$from/$1"
}

arguments=("$@")
case ${1-} in
    --help | -h)
        usage
        exit
        ;;
    '' | -*) usage_error "the first argument is a number of minutes" ;;
esac
minutes=$1 program='' dir=$(realpath -m "${CARGO_TARGET_DIR:-target}") options=()
shift
while (($#)); do
    case $1 in
        --program | --dir)
            [[ -n ${2-} ]] || usage_error "$1 needs a path"
            printf -v "${1#--}" %s "$(absolute "$2")"
            shift
            ;;
        *) options+=("$1") ;;
    esac
    shift
done

# Prints what is missing to cause errors of the disk.
missing() {
    local tool
    ((EUID == 0)) || echo "root"
    for tool in unshare losetup mkfs.ext4; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
    [[ -c /dev/loop-control ]] || echo "loop devices"
}

is_missing=$(missing | paste -sd, | sed 's/,/, /g')

# Mounts are seen by this process and its children only, and end with them.
if [[ -z $is_missing && ${KAIO_MOUNT_NAMESPACE-} != "$$" ]]; then
    if unshare --mount --propagation private true 2>/dev/null; then
        cd "$from"
        export KAIO_MOUNT_NAMESPACE=$$
        exec unshare --mount --propagation private "$script" "${arguments[@]}"
    fi
    is_missing="the permission for a mount namespace"
fi

if [[ -z $program ]]; then
    program=$(cargo build --release --locked --quiet --package kaio-bench --bin soak \
        --message-format json-render-diagnostics | grep -oP '"executable":"\K[^"]+/soak(?=")')
fi

clean_up() {
    local code=$?
    trap '' INT TERM HUP
    set +e
    if [[ -n $running ]]; then
        kill "$running" 2>/dev/null
        wait "$running"
    fi
    # The mount is in use for a moment if a worker of the kernel still closes a file.
    [[ -z $mounted ]] || umount "$mounted" 2>/dev/null || umount --lazy "$mounted"
    # The kernel detaches a device as soon as nobody has it open.
    for device in "${devices[@]}"; do
        losetup --detach "$device"
    done
    rm -rf "$scratch"
    exit "$code"
}

mkdir -p "$dir"
scratch=$(mktemp -d "$dir/soak.XXXXXX")
running='' mounted='' devices=()
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [[ -n $is_missing ]]; then
    echo "skipped: a full file system, a device with EIO: needs $is_missing"
else
    # Small enough to be filled up in a moment.
    truncate --size 24M "$scratch/small.image"
    mkfs.ext4 -q -E nodiscard "$scratch/small.image"
    device=$(losetup --find --show "$scratch/small.image")
    devices+=("$device")
    mkdir "$scratch/small"
    mount -t ext4 "$device" "$scratch/small"
    mounted=$scratch/small
    mkdir "$scratch/small/files"

    # What lies behind the end of the image can't be read.
    truncate --size 16M "$scratch/broken.image"
    device=$(losetup --find --show "$scratch/broken.image")
    devices+=("$device")
    truncate --size 8M "$scratch/broken.image"
    options+=(--full "$scratch/small/files" --broken "$device")
fi

# In the background, so that a signal to this script is handled at once.
"$program" "$minutes" --dir "$dir" ${options[@]+"${options[@]}"} &
running=$!
code=0
wait "$running" || code=$?
running=
exit "$code"
