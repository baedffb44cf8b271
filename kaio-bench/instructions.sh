#!/usr/bin/env bash
# User-space instructions an operation of each hot path, counted by callgrind, against those that
# are written down in instructions.txt. They are the same in every run, to a twentieth of a per cent,
# where times are not.
#
#   kaio-bench/instructions.sh             count, compare
#   kaio-bench/instructions.sh --update    count, write instructions.txt
#   kaio-bench/instructions.sh --dir DIR   count for a file in DIR instead of on tmpfs; nothing is
#                                          compared, for on a disk the counts differ from run to run
#   kaio-bench/instructions.sh --pairs     count for each way of each pair (`kaio-bench pairs`), with the
#                                          ratio to the pair's first; nothing is compared
#
# Ends with 0: nothing is worse; 1: something is, or the program and instructions.txt have different
# paths; 2: wrong use; 3: can't be counted here. Counts depend on the compiler and the C library, so
# with others than instructions.txt was made with, they are shown beside each other, and more of
# them is no failure.
set -euo pipefail
export LC_ALL=C
script=$(realpath "${BASH_SOURCE[0]}")
from=$PWD
cd "$(dirname "$script")/.."

# Each path runs with so many reads and with twice as many, and the difference counts: start and end
# are in both. What a context learns as it goes (batching, signalling: 2^14 reads) is learned by
# then. A multiple of every period in the library and in tokio.
reads=32768
# Name, engine of kaio-bench, shape, depth; of a pair's way, which has its own, no shape and depth.
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

wrong_use() {
    printf 'instructions.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

# Says what is missing here.
unable() {
    printf 'instructions.sh: %s\n' "$@" >&2
    exit 3
}

# What counts depend on.
built_with() {
    rustc -vV | sed -n 's/^host: //p; 1p'
    getconf GNU_LIBC_VERSION 2>/dev/null || echo "another C library"
}

# Instructions of so many reads with an engine and, maybe, a shape and a depth; of all threads.
count() {
    valgrind --command-line-only=yes --tool=callgrind --callgrind-out-file="$scratch/profile" \
        "$program" once "$2" "$1" ${3:+--shape "$3" --depth "$4"} --dir "$scratch" --size 4 \
        >"$scratch/log" 2>&1 || {
        cat "$scratch/log" >&2
        return 1
    }
    grep -oP '^totals: \K[1-9][0-9]*$' "$scratch/profile"
}

# A line for each path: its name, instructions an operation.
measure() {
    local path engine shape depth once twice
    while read -r path engine shape depth; do
        once=$(count "$reads" "$engine" "$shape" "$depth")
        twice=$(count $((2 * reads)) "$engine" "$shape" "$depth")
        awk -v path="$path" -v more=$((twice - once)) -v reads="$reads" \
            'BEGIN { printf "%-24s %8.1f\n", path, more / reads }'
    done <<<"$paths"
}

# A line for each way of each pair, as paths have them.
ways_of_pairs() {
    "$program" --list | awk -F': ' '/^pairs:/ { pairs = 1; next }
        pairs { pair = $1; sub(/^ +/, "", pair); n = split($2, ways, ", ")
                for (i = 1; i <= n; i++) print pair "/" ways[i], pair "/" ways[i] }'
}

# Shows counts with their ratios to the first way of the same pair.
show_pairs() {
    awk '{ split($1, name, "/") }
         name[1] != pair { pair = name[1]; first = $2 }
         { printf "%-32s %10.1f %8.2f\n", $1, $2, $2 / first }' "$1"
}

# Shows counts beside those written down. Fails with 1 if any is worse, with 2 if the paths differ.
compare() {
    awk -v tolerance="$tolerance" '
        FNR == 1 { file++ }
        /^#/ || NF == 0 { next }
        file == 1 { before[$1] = $2; next }
        !header++ { printf "%-24s %10s %10s %8s\n", "path", "written", "counted", "change" }
        !($1 in before) { printf "%-24s %10s %10.1f  NOT WRITTEN DOWN\n", $1, "-", $2; differ = 1; next }
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
            if (better) print "\nBetter than written down: keep it so, with --update."
            exit differ ? 2 : worse
        }' "$baseline" "$1"
}

mode=compare
dir=/dev/shm
case "$#:${1-}" in
    0:) ;;
    1:--update) mode=update ;;
    1:--pairs) mode=pairs ;;
    2:--dir)
        mode=show
        # As seen from where it was called.
        [[ $2 == /* ]] && dir=$2 || dir=$from/$2
        [[ -d $dir ]] || wrong_use "$2 is no directory"
        ;;
    1:--help | 1:-h)
        usage
        exit
        ;;
    1:--dir) wrong_use "--dir wants a directory" ;;
    *) wrong_use "unknown: $*" ;;
esac

[[ $mode != compare || -s $baseline ]] || {
    echo "FAILED: $baseline is missing: write it, with --update." >&2
    exit 1
}
command -v valgrind >/dev/null ||
    unable "valgrind is missing. Debian, Ubuntu: apt install valgrind; Fedora: dnf install valgrind"
[[ $mode == show || $(stat -f -c %T "$dir" 2>&1) == tmpfs ]] || unable "$dir is no tmpfs"
scratch=$(mktemp -d "$dir/kaio-instructions.XXXXXX") || unable "$dir can't be written to"
trap 'rm -rf "$scratch"' EXIT
head -c 4096 /dev/zero >"$scratch/probe"
dd if="$scratch/probe" of=/dev/null bs=4096 iflag=direct status=none 2>/dev/null ||
    unable "$dir has no direct I/O (tmpfs has it since Linux 6.6)"

# As users build it, whatever this shell or ~/.cargo says.
program=$(RUSTFLAGS='' cargo build --release --locked --quiet --package kaio-bench \
    --message-format json-render-diagnostics |
    grep -oP '"executable":"\K[^"]+/kaio-bench(?=")')

[[ $mode != pairs ]] || paths=$(ways_of_pairs)
toolchain=$(built_with)
printf '%s\n' "$toolchain" "$(valgrind --version)" ''
measure >"$scratch/counted"

case $mode in
    show)
        cat "$scratch/counted"
        ;;
    pairs)
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
        verdict=0
        compare "$scratch/counted" || verdict=$?
        written_with=$(sed -n 's/^# with: //p' "$baseline")
        if ((verdict > 1)) || [[ -z $written_with ]]; then
            printf '\nFAILED: %s does not fit: write it anew, with --update.\n' "$baseline"
            exit 1
        elif [[ $written_with != "$toolchain" ]]; then
            printf '\nNOT JUDGED: what is written down was counted with\n%s\n' "$written_with"
        elif ((verdict == 1)); then
            printf '\nFAILED: more than %s %% above what is written down.\n' "$tolerance"
            echo "If it has to be so, say why in the commit that writes it down, with --update."
            exit 1
        fi
        ;;
esac
