#!/usr/bin/env bash
# Cuts the power of real file systems, and verifies what they keep: ext4 and XFS, each on a loop device
# whose image lies on an XFS file system. While a program writes, the image is cloned (`cp --reflink`): the
# clone is the disk as a power cut leaves it. It is mounted, which replays its journal, and verified. The
# programs are those of examples/power_cut.rs, which also run on simulated disks, and `kaio cp`. Each runs
# as it should be, which must lose nothing, and without its syncs or checksums.
#
#   tokio-kaio/tests/power-cuts.sh                   24 power cuts of each variant on each file system
#   tokio-kaio/tests/power-cuts.sh --cuts 200 xfs    200 of them, on XFS
#
# A table of the cuts and losses goes to standard output, everything else to standard error.
#
# The disk has no volatile cache: a write that is complete is in the image. It tears: it takes 4 KiB at a
# time, and a cut may come between. Commits of the journal that the program did not ask for come as
# the kernel makes them.
#
# Needs root, loop devices, mkfs.ext4 and mkfs.xfs, and 1.5 GiB in /dev/shm or else under the target
# directory. Nothing is left behind: no mount, device, image or process.
#
# Ends with 0: no whole program has lost anything; 1: one has, or something is left; 2: wrong use; 3: can't
# be run here.
set -euo pipefail
export LC_ALL=C RUST_BACKTRACE=0
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/../.."
exec </dev/null

cuts=24
cuts_of_a_run=4 # then the program starts anew, in a new directory
image_mib=320   # the least that mkfs.xfs accepts is 300 MiB
outer_mib=1400

variants=(
    log objects stream copy kaio-cp lsm
    log/no-sync log/no-checksum log/no-dir-sync
    objects/no-sync objects/no-dir-sync
    stream/no-sync stream/no-checksum stream/no-dir-sync
    copy/no-sync copy/no-dir-sync kaio-cp/no-sync
    lsm/no-sync lsm/no-checksum lsm/no-dir-sync
)

usage() {
    sed -n '2,/^set /{ /^#/s/^# \{0,1\}//p }' "$script"
}

say() {
    printf '%s\n' "$*" >&2
}

wrong_use() {
    printf 'power-cuts.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

# Says what is missing here.
unable() {
    say "skipped: power cuts of real file systems: $*"
    exit 3
}

clean_up() {
    local code=$? i
    trap '' INT TERM HUP
    set +e
    stop_program
    # Those that are mounted go with their mount; one that a signal has kept from being mounted goes now.
    for i in $(loop_devices | awk '{ print $1 }'); do
        losetup --detach "$i"
    done
    for i in $(awk -v below="$scratch/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | tac); do
        umount "$i" 2>/dev/null || umount --lazy "$i"
    done
    rm -rf "$scratch"
    is_clean || code=$((code ? code : 1))
    exit "$code"
}

# The loop devices of this run.
loop_devices() {
    losetup --list --noheadings --output NAME,BACK-FILE | grep -F "$scratch/" || true
}

# Devices without a mount are given back a moment later.
is_clean() {
    local left
    for _ in {1..30}; do
        left=$(loop_devices)
        [[ -n $left ]] || return 0
        sleep 1
    done
    say "left behind: loop devices: $left"
    return 1
}

# Whether the kernel has a file system, and there is a program that makes one.
is_here() {
    local type=$1 package=$2
    if ! grep -qw "$type" /proc/filesystems && ! modprobe -q "$type" 2>/dev/null; then
        say "skipped: $type: this kernel has it not"
        return 1
    fi
    if ! command -v "mkfs.$type" >/dev/null; then
        say "skipped: $type: mkfs.$type is missing. Debian, Ubuntu: apt install $package"
        return 1
    fi
}

# Mounts an image: its path, the directory, mount options.
mount_image() {
    local device
    device=$(losetup --find --show --direct-io=on "$1" 2>/dev/null || losetup --find --show "$1")
    if [[ $2 == */disk ]]; then
        # Requests of the file system are split, so that they can tear.
        echo 4 >"/sys/block/${device#/dev/}/queue/max_sectors_kb"
        [[ $(<"/sys/block/${device#/dev/}/loop/dio") == 1 ]] ||
            unable "loop devices have no direct I/O: what they have completed may not be in the image"
    fi
    mkdir -p "$2"
    mount -o "$3" "$device" "$2"
    # It goes with the mount from now on.
    losetup --detach "$device"
}

# Unmounts a directory. It stays in use for a moment if the kernel still closes files of an ended program: a
# worker of the kernel does so, if it has the last reference.
unmount() {
    local _
    for _ in {1..300}; do
        umount "$1" 2>/dev/null && return
        sleep 0.1
    done
    umount "$1"
}

# A disk of a type with a file system of this type.
make_disk() {
    local options=(-q)
    truncate -s "${image_mib}M" "$scratch/outer/image"
    case $1 in
        ext4) options+=(-b 4096 -E "nodiscard,lazy_itable_init=0,lazy_journal_init=0") ;;
        xfs) options+=(-K -s size=4096) ;;
    esac
    "mkfs.$1" "${options[@]}" "$scratch/outer/image" >&2
    mount_image "$scratch/outer/image" "$scratch/disk" defaults
}

start_program() {
    options=(--seed "$RANDOM")
    [[ -z $broken ]] || options+=(--broken "$broken")
    [[ $name != kaio-cp ]] || options+=(--kaio "$kaio")
    mkdir "$scratch/disk/work"
    # The directory itself is durable.
    sync "$scratch/disk/work" "$scratch/disk"
    : >"$scratch/events"
    # What it starts is in its process group, and ends with it.
    set -m
    "$power_cut" run "$program" "$scratch/disk/work" "${options[@]}" \
        --events "$scratch/events" 2>"$scratch/log" &
    running=$!
    set +m
}

# Whether a process of this group is alive: a zombie is not.
is_alive() {
    { cat /proc/[0-9]*/stat || true; } | sed 's/.*) //' |
        awk -v group="$1" '$1 != "Z" && $3 == group { alive = 1 } END { exit !alive }'
}

stop_program() {
    local _
    [[ -n $running ]] || return 0
    kill -KILL -- "-$running"
    wait "$running" || true
    # `kaio`, which it has started, may end later, and create a file meanwhile.
    for _ in {1..300}; do
        is_alive "$running" || break
        sleep 0.1
    done
    running=
} 2>/dev/null

# Clones the disk, and verifies the clone. Sets $loss: empty if nothing is lost.
cut_and_verify() {
    local durable found code=0 mount_options=nodiscard
    sleep "0.$(printf '%03d' $((RANDOM % 60)))"
    kill -0 "$running" 2>/dev/null || {
        say "$variant on $type has ended:" "$(<"$scratch/log")"
        exit 1
    }
    durable=$(stat -c %s "$scratch/events")
    cp --reflink=always "$scratch/outer/image" "$scratch/outer/clone"
    cp "$scratch/events" "$scratch/events.cut"
    # The same file system is mounted twice.
    [[ $type != xfs ]] || mount_options=nouuid
    mount_image "$scratch/outer/clone" "$scratch/clone" "$mount_options"
    found=$("$power_cut" verify "$program" "$scratch/clone/work" "${options[@]}" \
        --events "$scratch/events.cut" --durable "$durable") || code=$?
    unmount "$scratch/clone"
    rm "$scratch/outer/clone"
    ((code <= 1)) || exit 1
    loss=
    ((code == 0)) || loss=${found#lost: }
}

# Runs a variant on the disk. Sets $lost.
run_variant() {
    local cut
    lost=0
    for ((cut = 0; cut < cuts; cut++)); do
        if ((cut % cuts_of_a_run == 0)); then
            stop_program || true
            rm -rf "$scratch/disk/work"
            start_program
        fi
        cut_and_verify
        if [[ -n $loss ]]; then
            lost=$((lost + 1))
            losses+=("$type $variant: $loss")
            [[ -n $broken ]] || {
                failed+=("$variant on $type")
                say "LOST: $variant on $type, cut $cut: $loss"
            }
        fi
    done
    stop_program || true
    rm -rf "$scratch/disk/work"
}

arguments=("$@")
types=()
while (($#)); do
    case $1 in
        --help | -h) usage && exit ;;
        --cuts)
            [[ ${2-} =~ ^[1-9][0-9]*$ ]] || wrong_use "--cuts needs a number"
            cuts=$2
            shift
            ;;
        ext4 | xfs) types+=("$1") ;;
        *) wrong_use "unknown: $1" ;;
    esac
    shift
done
((${#types[@]})) || types=(ext4 xfs)

((EUID == 0)) || unable "needs root, to mount file systems"
for tool in unshare losetup mount; do
    command -v "$tool" >/dev/null || unable "$tool is missing. Debian, Ubuntu: apt install util-linux mount"
done
[[ -c /dev/loop-control ]] || unable "this machine has no loop devices"
# XFS holds the images.
is_here xfs xfsprogs || unable "XFS is needed for snapshots"

# Mounts are seen by this process and its children only, and end with them.
if [[ ${KAIO_MOUNT_NAMESPACE-} != "$$" ]]; then
    unshare --mount --propagation private true || unable "a mount namespace of its own is not allowed"
    export KAIO_MOUNT_NAMESPACE=$$
    exec unshare --mount --propagation private "$script" "${arguments[@]}"
fi

# Prints the program that cargo builds.
built() {
    cargo build --locked --quiet --message-format json-render-diagnostics "$@" |
        grep -oP '"executable":"\K[^"]+'
}
power_cut=$(built --package tokio-kaio --all-features --example power_cut)
kaio=$(built --package tokio-kaio-cli --bin kaio)

place=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# Faster, and kinder to the disk.
shm_free=$(df --output=avail -m /dev/shm 2>/dev/null | tail -1 || true)
if [[ $(stat -f -c %T /dev/shm 2>/dev/null) == tmpfs ]] && ((${shm_free:-0} > outer_mib + 100)); then
    place=/dev/shm
fi
scratch=$(mktemp -d "$place/power-cuts.XXXXXX")
running='' failed=() losses=()
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

truncate -s "${outer_mib}M" "$scratch/outer.image"
mkfs.xfs -q -K -s size=4096 -m reflink=1 "$scratch/outer.image" >&2
mount_image "$scratch/outer.image" "$scratch/outer" defaults

declare -A results=()
tested=()
for type in "${types[@]}"; do
    [[ $type != ext4 ]] || is_here ext4 e2fsprogs || continue
    tested+=("$type")
    make_disk "$type"
    for variant in "${variants[@]}"; do
        name=${variant%/*} broken=
        [[ $variant != */* ]] || broken=${variant#*/}
        program=${name/kaio-cp/copy}
        run_variant
        results[$type:$variant]="$lost of $cuts"
        say "$type $variant: lost in $lost of $cuts (after $SECONDS s)"
    done
    unmount "$scratch/disk"
    rm "$scratch/outer/image"
done
((${#tested[@]})) || unable "none of these file systems can be made here"

printf '| program | left out |'
printf ' %s |' "${tested[@]}"
printf '\n|---|---|'
printf -- '---|%.0s' "${tested[@]}"
printf '\n'
for variant in "${variants[@]}"; do
    broken=
    [[ $variant != */* ]] || broken=${variant#*/}
    printf '| %s | %s |' "${variant%/*}" "${broken:-nothing}"
    for type in "${tested[@]}"; do
        printf ' %s |' "${results[$type:$variant]}"
    done
    printf '\n'
done
# One example of each kind of loss: numbers differ.
if ((${#losses[@]})); then
    say "losses:"
    printf '%s\n' "${losses[@]}" | sed -E 's/[0-9]+ of [0-9]+ bytes/N bytes/' |
        awk '{ kind = $0; gsub(/[0-9]+/, "N", kind) } !seen[kind]++' >&2
fi
if ((${#failed[@]})); then
    say "FAILED:$(printf ' %s;' "${failed[@]}")"
    exit 1
fi
say "power cuts: $((cuts * ${#variants[@]} * ${#tested[@]})); whole programs have lost nothing"
