#!/usr/bin/env bash
# Compares `kaio cp` with `cp` and `dd` on a file that is not cached: time, and use of the page cache.
#
#   kaio/against-cp-and-dd.sh [DIR] [SIZE] [ROUNDS]
#
# Copies a file of SIZE random bytes (default: 1G) in DIR (default: the current directory), for ROUNDS
# rounds (default: 7). Each round starts with the next tool. Needs twice SIZE of space. `KAIO_CP` contains
# more options for kaio cp.
set -euo pipefail

dir=$(realpath "${1:-.}")
size=$(numfmt --from=iec "${2:-1G}")
rounds=${3:-7}
read -ra options <<<"${KAIO_CP:-}"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
(cd "$root" && cargo build --quiet --release -p tokio-kaio-cli)
target=${CARGO_TARGET_DIR:-$root/target}
kaio=$target/release/kaio

work=$(mktemp -d "$dir/against-cp-and-dd-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
source=$work/source
copy=$work/copy

head -c "$size" /dev/urandom | dd of="$source" bs=1M iflag=fullblock oflag=direct conv=fsync status=none

# Removes the target, flushes dirty pages, and drops the source from the page cache.
prepare() {
    rm -f "$copy"
    sync -f "$work"
    dd if="$source" iflag=nocache count=0 status=none
}

# Prints how many MiB of a file are in the page cache.
cached() {
    fincore --bytes --noheadings --output RES "$1" | awk '{ printf "%.1f", $1 / 1048576 }'
}

run() {
    case $1 in
    cp) cp --reflink=never "$source" "$copy" ;;
    dd) dd if="$source" of="$copy" bs=1M iflag=direct oflag=direct status=none ;;
    kaio) "$kaio" cp --quiet --no-fsync "${options[@]}" "$source" "$copy" ;;
    cp-durable) cp --reflink=never "$source" "$copy" && sync "$copy" "$work" ;;
    dd-durable) dd if="$source" of="$copy" bs=1M iflag=direct oflag=direct conv=fsync status=none && sync "$work" ;;
    kaio-durable) "$kaio" cp --quiet "${options[@]}" "$source" "$copy" ;;
    esac
}

tools=(cp dd kaio cp-durable dd-durable kaio-durable)
for ((round = 0; round < rounds; round++)); do
    for ((turn = 0; turn < ${#tools[@]}; turn++)); do
        tool=${tools[(turn + round) % ${#tools[@]}]}
        prepare
        before=$(date +%s%N)
        run "$tool"
        after=$(date +%s%N)
        cached=$(awk "BEGIN { print $(cached "$source") + $(cached "$copy") }")
        if ((round == 0)); then
            cmp "$source" "$copy"
        fi
        echo "$round $tool $((after - before)) $cached" >>"$work/times"
    done
done

echo "$rounds rounds of $(numfmt --to=iec "$size"), source not cached. Ratio: the time divided by that of the"
echo "faster of cp and dd in the same round; median over the rounds."
echo
awk -v size="$size" '
    function median(list, count,   i, j, swap) {
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && list[j] < list[j - 1]; j--) {
                swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap
            }
        return count % 2 ? list[(count + 1) / 2] : (list[count / 2] + list[count / 2 + 1]) / 2
    }
    { time[$1, $2] = $3 / 1e9; if ($4 > cache[$2]) cache[$2] = $4; if ($1 + 1 > rounds) rounds = $1 + 1 }
    END {
        print "| | time, s | MiB/s | ratio | page cache, MiB |"
        print "|---|--:|--:|--:|--:|"
        count = split("cp dd kaio cp-durable dd-durable kaio-durable", tools, " ")
        shown["cp"] = "`cp`"; shown["dd"] = "`dd bs=1M iflag=direct oflag=direct`"
        shown["kaio"] = "`kaio cp --no-fsync`"; shown["cp-durable"] = "`cp`, `sync`"
        shown["dd-durable"] = "`dd`, `conv=fsync`"; shown["kaio-durable"] = "`kaio cp`"
        for (t = 1; t <= count; t++) {
            tool = tools[t]; kind = t > 3 ? "-durable" : ""
            for (r = 0; r < rounds; r++) {
                cp = time[r, "cp" kind]; dd = time[r, "dd" kind]
                times[r + 1] = time[r, tool]
                ratios[r + 1] = time[r, tool] / (cp < dd ? cp : dd)
            }
            ratio = median(ratios, rounds); seconds = median(times, rounds)
            printf "| %s | %.2f | %.0f | %.2f | %.1f |\n", shown[tool], seconds,
                size / 1048576 / seconds, ratio, cache[tool]
        }
    }' "$work/times"
