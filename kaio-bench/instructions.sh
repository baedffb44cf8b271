#!/usr/bin/env bash
# Counts the user-space instructions per operation of each hot path with callgrind, and compares them
# with the recorded counts in instructions.txt. Unlike times, counts repeat to within 0.05 %.
#
#   kaio-bench/instructions.sh             count and compare
#   kaio-bench/instructions.sh --update    count and write instructions.txt
#   kaio-bench/instructions.sh --dir DIR   count with a file in DIR instead of on tmpfs; does not
#                                          compare, because counts on a disk vary
#   kaio-bench/instructions.sh --pairs     count each variant of each pair (`kaio-bench pairs`), with
#                                          the ratio to the first variant; does not compare
#   kaio-bench/instructions.sh --scale     count with more tasks, files and contexts (`kaio-bench
#                                          scale`), with the ratio to the fewest; does not compare
#
# Exit status: 0 no count is worse; 1 a count is worse, or the program and instructions.txt have
# different paths; 2 wrong usage; 3 counting is not possible here. Counts depend on the compiler and
# the C library. If these differ from those of instructions.txt, both counts are shown, and higher
# counts are not an error.
set -euo pipefail
export LC_ALL=C
script=$(realpath "${BASH_SOURCE[0]}")
from=$PWD
cd "$(dirname "$script")/.."

# Each path runs with this many reads and with twice as many. The difference is the count, so that
# setup and teardown cancel out. By then a context has adapted (batching, inline completions: 2^14
# reads). A multiple of every period in the library and in tokio.
reads=32768
# Name, engine, shape, depth. Variants of pairs have their own shape and depth.
paths="bare/one bare tasks 1
bare/waves-32 bare waves 32
current-thread/one kaio/current-thread tasks 1
current-thread/waves-32 kaio/current-thread waves 32
current-thread/tasks-32 kaio/current-thread tasks 32
local/one kaio/local tasks 1
local/waves-32 kaio/local waves 32"
tolerance=2 # per cent
baseline=kaio-bench/instructions.txt

usage() {
    sed -n '2,/^set /{ /^#/s/^# \{0,1\}//p }' "$script"
}

usage_error() {
    printf 'instructions.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

# Exits because something is missing on this machine.
not_possible() {
    printf 'instructions.sh: %s\n' "$@" >&2
    exit 3
}

# The toolchain that counts depend on.
toolchain_info() {
    rustc -vV | sed -n 's/^host: //p; 1p'
    getconf GNU_LIBC_VERSION 2>/dev/null || echo "another C library"
}

# Name, slots, tasks, files, contexts. All on kaio/current-thread, with tasks.
scales="tasks/10 8 10 1 1
tasks/1000 8 1000 1 1
tasks/100000 8 100000 1 1
files/1 8 1000 1 1
files/1000 8 1000 1000 1
contexts/1 256 1024 1 1
contexts/64 256 1024 1 64"

# Instructions of all threads: count READS ENGINE [SHAPE DEPTH [OPTION...]].
count() {
    valgrind --command-line-only=yes --tool=callgrind --callgrind-out-file="$scratch/profile" \
        "$program" once "$2" "$1" ${3:+--shape "$3" --depth "$4"} "${@:5}" --dir "$scratch" --size 4 \
        >"$scratch/log" 2>&1 || {
        cat "$scratch/log" >&2
        return 1
    }
    grep -oP '^totals: \K[1-9][0-9]*$' "$scratch/profile"
}

# Instructions per operation: per_operation ENGINE [SHAPE DEPTH].
per_operation() {
    local once twice
    # A command substitution clears `-e`.
    once=$(count "$reads" "$@") || return
    twice=$(count $((2 * reads)) "$@") || return
    awk -v more=$((twice - once)) -v reads="$reads" 'BEGIN { printf "%.1f\n", more / reads }'
}

# Whether a path takes more than is recorded for it: is_worse PATH COUNT.
is_worse() {
    awk -v path="$1" -v counted="$2" -v tolerance="$tolerance" \
        '$1 == path && counted > $2 * (1 + tolerance / 100) { worse = 1 } END { exit !worse }' "$baseline"
}

# Prints a line for each path: its name and its instructions per operation. What the library measures of its
# submissions depends on the load of the machine, and so does the way of some requests. That adds instructions
# to some counts, whereas a change of the code adds them to all. So a path that is worse is counted again, and
# the least of three counts is what it takes.
measure() {
    local path engine shape depth counted least attempt
    while read -r path engine shape depth; do
        least=$(per_operation "$engine" "$shape" "$depth")
        for attempt in 2 3; do
            [[ $mode == compare ]] && is_worse "$path" "$least" || break
            printf '%s: attempt %d, after %s\n' "$path" "$attempt" "$least" >&2
            counted=$(per_operation "$engine" "$shape" "$depth")
            least=$(printf '%s\n' "$least" "$counted" | sort -g | head -1)
        done
        printf '%-24s %8.1f\n' "$path" "$least"
    done <<<"$paths"
}

# Prints a line for each scale: its name and its instructions per operation. Each task makes four reads, then
# eight, so that the start and the end of the tasks cancel out.
measure_scales() {
    local name slots tasks files contexts fewest once twice options
    while read -r name slots tasks files contexts; do
        options=(--slots "$slots" --files "$files" --contexts "$contexts")
        fewest=$((4 * tasks > reads ? 4 * tasks : (reads + tasks - 1) / tasks * tasks))
        once=$(count "$fewest" kaio/current-thread tasks "$tasks" "${options[@]}")
        twice=$(count $((2 * fewest)) kaio/current-thread tasks "$tasks" "${options[@]}")
        awk -v name="$name" -v more=$((twice - once)) -v reads="$fewest" \
            'BEGIN { printf "%-24s %8.1f\n", name, more / reads }'
    done <<<"$scales"
}

# Prints a line for each variant of each pair, in the format of $paths.
variants_of_pairs() {
    "$program" --list | awk -F': ' '/^pairs:/ { pairs = 1; next }
        pairs { pair = $1; sub(/^ +/, "", pair); n = split($2, variants, ", ")
                for (i = 1; i <= n; i++) print pair "/" variants[i], pair "/" variants[i] }'
}

# Shows counts with their ratios to the first variant of the same pair.
show_pairs() {
    awk '{ split($1, name, "/") }
         name[1] != pair { pair = name[1]; first = $2 }
         { printf "%-32s %10.1f %8.2f\n", $1, $2, $2 / first }' "$1"
}

# Shows counts beside the recorded ones. Fails with 1 if any is worse, with 2 if the paths differ.
compare() {
    awk -v tolerance="$tolerance" '
        FNR == 1 { file++ }
        /^#/ || NF == 0 { next }
        file == 1 { before[$1] = $2; next }
        !header++ { printf "%-24s %10s %10s %8s\n", "path", "recorded", "counted", "change" }
        !($1 in before) { printf "%-24s %10s %10.1f  NOT RECORDED\n", $1, "-", $2; differ = 1; next }
        {
            change = 100 * ($2 / before[$1] - 1)
            note = change > tolerance ? "  WORSE" : change < -tolerance ? "  better" : ""
            printf "%-24s %10.1f %10.1f %+7.1f%%%s\n", $1, before[$1], $2, change, note
            if (change > tolerance) worse = 1
            if (change < -tolerance) better = 1
            delete before[$1]
        }
        END {
            for (path in before) {
                printf "%-24s %10.1f %10s  NO SUCH PATH\n", path, before[path], "-"
                differ = 1
            }
            if (better) print "\nBetter than recorded: record it with --update."
            exit differ ? 2 : worse
        }' "$baseline" "$1"
}

mode=compare
dir=/dev/shm
case "$#:${1-}" in
    0:) ;;
    1:--update) mode=update ;;
    1:--pairs) mode=pairs ;;
    1:--scale) mode=scale ;;
    2:--dir)
        mode=show
        # Relative to the caller's directory.
        [[ $2 == /* ]] && dir=$2 || dir=$from/$2
        [[ -d $dir ]] || usage_error "$2 is not a directory"
        ;;
    1:--help | 1:-h)
        usage
        exit
        ;;
    1:--dir) usage_error "--dir needs a directory" ;;
    *) usage_error "unknown arguments: $*" ;;
esac

[[ $mode != compare || -s $baseline ]] || {
    echo "FAILED: $baseline is missing: create it with --update." >&2
    exit 1
}
command -v valgrind >/dev/null ||
    not_possible "valgrind is missing. Debian, Ubuntu: apt install valgrind; Fedora: dnf install valgrind"
[[ $mode == show || $(stat -f -c %T "$dir" 2>&1) == tmpfs ]] || not_possible "$dir is not a tmpfs"
scratch=$(mktemp -d "$dir/kaio-instructions.XXXXXX") || not_possible "$dir is not writable"
trap 'rm -rf "$scratch"' EXIT
head -c 4096 /dev/zero >"$scratch/probe"
dd if="$scratch/probe" of=/dev/null bs=4096 iflag=direct status=none 2>/dev/null ||
    not_possible "$dir has no direct I/O (tmpfs has it since Linux 6.6)"

# The library with its default features, as most programs have it. Built with default flags, whatever
# the environment or ~/.cargo sets.
program=$(RUSTFLAGS='' cargo build --release --locked --quiet --package kaio-bench --no-default-features \
    --message-format json-render-diagnostics |
    grep -oP '"executable":"\K[^"]+/kaio-bench(?=")')

[[ $mode != pairs ]] || paths=$(variants_of_pairs)
toolchain=$(toolchain_info)
printf '%s\n' "$toolchain" "$(valgrind --version)" ''
case $mode in
    scale) measure_scales ;;
    *) measure ;;
esac >"$scratch/counted"

case $mode in
    show)
        cat "$scratch/counted"
        ;;
    pairs | scale)
        show_pairs "$scratch/counted"
        ;;
    update)
        {
            echo "# User-space instructions a read of 4 KiB from tmpfs. Written by instructions.sh --update."
            sed 's/^/# with: /' <<<"$toolchain"
            echo "# counted by: $(valgrind --version)"
            cat "$scratch/counted"
        } >"$scratch/baseline"
        cp "$scratch/baseline" "$baseline"
        cat "$scratch/counted"
        ;;
    compare)
        result=0
        compare "$scratch/counted" || result=$?
        recorded_toolchain=$(sed -n 's/^# with: //p' "$baseline")
        if ((result > 1)) || [[ -z $recorded_toolchain ]]; then
            printf '\nFAILED: the paths in %s differ: rewrite it with --update.\n' "$baseline"
            exit 1
        elif [[ $recorded_toolchain != "$toolchain" ]]; then
            printf '\nNOT COMPARABLE: the recorded counts are of\n%s\n' "$recorded_toolchain"
        elif ((result == 1)); then
            printf '\nFAILED: more than %s %% above the recorded counts.\n' "$tolerance"
            echo "If the increase is intended, record it with --update, and give the reason in the commit."
            exit 1
        fi
        ;;
esac
