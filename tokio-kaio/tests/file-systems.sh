#!/usr/bin/env bash
# Tries the crate on file systems that a machine seldom has all of: each is made in an image behind a
# loop device, and mounted where no other process sees it. Prints what
# kaio/examples/file_systems.rs measures there, the tables of docs/file-systems.md, and runs the
# integration tests there.
#
#   tokio-kaio/tests/file-systems.sh                  all of them, and the disk of the build
#   tokio-kaio/tests/file-systems.sh xfs btrfs        these: disk ext4 xfs btrfs nodatacow overlay tmpfs
#   tokio-kaio/tests/file-systems.sh --measure …      no tests
#   tokio-kaio/tests/file-systems.sh --test …         no tables
#
# Needs root, loop devices, up to 2.5 GiB of disk under the target directory, and mkfs.ext4, mkfs.xfs
# and mkfs.btrfs; a file system that can't be made is left out, with a line that says why. Tables go
# to standard output, everything else to standard error. Nothing is left behind: no mount, device,
# image, request of kernel AIO.
#
# Ends with 0: all is well; 1: a test has failed, or something is left; 2: wrong use; 3: can't be run
# here.
set -euo pipefail
export LC_ALL=C RUST_BACKTRACE=0
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/../.."
exec </dev/null

all=(disk ext4 xfs btrfs nodatacow overlay tmpfs)
image_mib=512
# The modules of the two test programs whose tests depend on the file system. The others test
# processes and limits, or count what depends only on whether requests complete inline: the disk of
# the build and tmpfs are enough for them.
programs_wanted=(interposed it)
modules=(alignment buffered cancellation conversions errors faults files flags generic_context hostile
    leaks lifecycle model policies reference_api shards space surface unaligned)

usage() {
    sed -n '2,/^set /{ /^#/s/^# \{0,1\}//p }' "$script"
}

say() {
    printf '%s\n' "$*" >&2
}

wrong_use() {
    printf 'file-systems.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

# Says what is missing here.
unable() {
    say "file-systems.sh: $*"
    exit 3
}

aio_nr() {
    cat /proc/sys/fs/aio-nr
}

loop_devices() {
    losetup --list --noheadings --output NAME,BACK-FILE
}

# Runs a program that a signal to the script ends too, whatever it has started.
run() {
    local code=0
    set -m
    "$@" &
    running=$!
    set +m
    wait "$running" || code=$?
    running=
    return "$code"
}

clean_up() {
    local code=$? mounted i
    trap '' INT TERM HUP
    set +e
    if [[ -n $running ]]; then
        kill -- "-$running"
        wait "$running"
    fi 2>/dev/null
    for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
        mounted=${mounts[i]}
        umount "$mounted" 2>/dev/null || umount --lazy "$mounted"
    done
    # Between being set up and being mounted, a device does not go by itself.
    [[ -z $device ]] || losetup --detach "$device"
    rm -rf "$scratch"
    is_clean || code=$((code ? code : 1))
    exit "$code"
}

# Contexts, and devices without a mount, are given back a moment later.
is_clean() {
    local left
    for _ in {1..30}; do
        left=
        ! loop_devices | grep -qF "$scratch/" || left="loop devices: $(loop_devices)"
        (($(aio_nr) <= aio_nr_before)) || left+=" fs.aio-nr: $aio_nr_before before, $(aio_nr) now"
        [[ -n $left ]] || return 0
        sleep 1
    done
    # Another program's contexts are not ours to judge.
    if [[ $left == " fs.aio-nr"* ]] && grep -qs '/\[aio\]' /proc/[0-9]*/maps; then
        say "not compared: fs.aio-nr, because other programs use AIO"
        return 0
    fi
    say "left behind: $left"
    return 1
}

# Whether the kernel has a file system, and there is a program that makes one.
is_here() {
    local type=$1 program=${2-} package=${3-}
    if ! grep -qw "$type" /proc/filesystems && ! modprobe -q "$type" 2>/dev/null; then
        say "skipped: $type: this kernel has it not"
        return 1
    fi
    if [[ -n $program ]] && ! command -v "$program" >/dev/null; then
        say "skipped: $type: $program is missing. Debian, Ubuntu: apt install $package"
        return 1
    fi
}

# Mounts a new file system: its name, its type, mount options, the program that makes it.
mount_image() {
    local name=$1 type=$2 options=$3 image=$scratch/$1.image
    shift 3
    # Written in full, so that the image's own allocation is in nobody's way. (mkfs: no discard.)
    dd if=/dev/zero of="$image" bs=1M count="$image_mib" oflag=direct conv=fsync status=none
    run "$@" "$image" >"$scratch/log" || {
        cat "$scratch/log" >&2
        return 1
    }
    device=$(losetup --find --show --direct-io=on "$image")
    mkdir "$scratch/$name"
    mount -t "$type" -o "$options" "$device" "$scratch/$name"
    mounts+=("$scratch/$name")
    # They go with the mount from now on.
    losetup --detach "$device"
    device=
    rm "$image"
}

# Makes one of $all, and adds it to $names, $dirs.
make_ready() {
    local name=$1 dir=$scratch/$1
    case $name in
        disk)
            mkdir "$dir"
            title="$(stat -f -c %T "$dir" | sed 's,^ext2/ext3$,ext4,'), the disk itself"
            ;;
        ext4)
            is_here ext4 mkfs.ext4 e2fsprogs || return 0
            mount_image ext4 ext4 defaults mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0
            title=ext4
            ;;
        xfs)
            is_here xfs mkfs.xfs xfsprogs || return 0
            mount_image xfs xfs defaults mkfs.xfs -q -K
            title=XFS
            ;;
        btrfs)
            is_here btrfs mkfs.btrfs btrfs-progs || return 0
            mount_image btrfs btrfs defaults mkfs.btrfs -q -K
            title=btrfs
            ;;
        nodatacow)
            is_here btrfs mkfs.btrfs btrfs-progs || return 0
            mount_image nodatacow btrfs nodatacow mkfs.btrfs -q -K
            title="btrfs, \`nodatacow\`"
            ;;
        overlay)
            is_here overlay && is_here ext4 mkfs.ext4 e2fsprogs || return 0
            mount_image below ext4 defaults mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0
            mkdir "$dir" "$scratch/below/"{lower,upper,work}
            local layers=lowerdir=$scratch/below/lower,upperdir=$scratch/below/upper
            mount -t overlay -o "$layers,workdir=$scratch/below/work" overlay "$dir"
            mounts+=("$dir")
            title="overlayfs on ext4"
            ;;
        tmpfs)
            mkdir "$dir"
            mount -t tmpfs tmpfs "$dir"
            mounts+=("$dir")
            title=tmpfs
            ;;
    esac
    names+=("$title")
    dirs+=("$dir")
}

# Runs the tests in a directory. Fails if one of them does.
test_in() {
    local name=$1 dir=$2 program failed=0 log=$scratch/log
    say "=== tests on $name"
    for program in "${programs[@]}"; do
        if (cd tokio-kaio && KAIO_TEST_DIRS=$dir run "$program" --show-output "${modules[@]/%/::}") \
            >"$log" 2>&1; then
            say "$(basename "${program%-*}"): $(grep -o '[0-9]* passed' "$log")"
            grep '^skipped' "$log" | sort -u >&2 || true
        else
            grep -v '^test .* ok$' "$log" >&2
            say "FAILED on $name: $(basename "${program%-*}")"
            failed=1
        fi
    done
    return "$failed"
}

arguments=("$@")
measure=1 test=1
case ${1-} in
    --help | -h)
        usage
        exit
        ;;
    --measure) test=0 && shift ;;
    --test) measure=0 && shift ;;
    -*) wrong_use "unknown: $1" ;;
esac
wanted=("${@:-${all[@]}}")
for name in "${wanted[@]}"; do
    [[ " ${all[*]} " == *" $name "* ]] || wrong_use "no such file system: $name"
done

((EUID == 0)) || unable "needs root, to mount file systems"
for tool in unshare losetup mount; do
    command -v "$tool" >/dev/null || unable "$tool is missing. Debian, Ubuntu: apt install util-linux mount"
done
[[ -c /dev/loop-control ]] || unable "this machine has no loop devices"

# Mounts are seen by this process and its children only, and end with them.
if [[ ${KAIO_MOUNT_NAMESPACE-} != "$$" ]]; then
    unshare --mount --propagation private true || unable "a mount namespace of its own is not allowed"
    export KAIO_MOUNT_NAMESPACE=$$
    exec unshare --mount --propagation private "$script" "${arguments[@]}"
fi

# What cargo builds of a package: its name, a command, arguments.
built() {
    local package=$1
    shift
    cargo "$@" --locked --quiet --package "$package" --message-format json-render-diagnostics |
        grep -oP '"executable":"\K[^"]+'
}

if ((measure)); then
    program=$(built tokio-kaio-cli build --release --example file_systems)
fi
if ((test)); then
    mapfile -t programs < <(built tokio-kaio test --no-run "${programs_wanted[@]/#/--test=}" | sort)
    ((${#programs[@]} == ${#programs_wanted[@]})) || unable "the tests can't be built"
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
scratch=$(mktemp -d "$target/file-systems.XXXXXX")
aio_nr_before=$(aio_nr)
running='' device='' mounts=() names=() dirs=()
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for name in "${wanted[@]}"; do
    make_ready "$name"
done
((${#names[@]})) || unable "none of these can be made here"

failed=()
if ((test)); then
    for i in "${!names[@]}"; do
        if [[ ${dirs[i]} =~ /(disk|tmpfs)$ ]]; then
            say "skipped: tests on ${names[i]}: \`cargo test\` has them"
            continue
        fi
        test_in "${names[i]}" "${dirs[i]}" || failed+=("${names[i]}")
    done
fi
if ((measure)); then
    places=()
    for i in "${!names[@]}"; do
        places+=("${names[i]}=${dirs[i]}")
    done
    run "$program" "${places[@]}" || failed+=(measuring)
fi
if ((${#failed[@]})); then
    say "FAILED:$(printf ' %s;' "${failed[@]}")"
    exit 1
fi
say "all is well"
