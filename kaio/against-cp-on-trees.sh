#!/usr/bin/env bash
# Compares `kaio cp -r` with `cp -r` on a tree of small files that are cached.
#
#   kaio/against-cp-on-trees.sh [DIR] [FILES] [ROUNDS]
#
# Copies FILES files (default: 2000) of 0.1 to 8 KiB, 100 in a directory, in DIR (default: the current
# directory), for ROUNDS rounds (default: 9). Each round starts with the next tool. The copies are kept to
# the end: on ext4 it takes long to create files soon after others were removed. `KAIO` is the path of
# another program to measure.
set -euo pipefail

dir=$(realpath "${1:-.}")
files=${2:-2000}
rounds=${3:-9}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
kaio=${KAIO:-$target/release/kaio}
if [[ -z ${KAIO:-} ]]; then
    (cd "$root" && cargo build --quiet --release -p tokio-kaio-cli)
fi

work=$(mktemp -d "$dir/against-cp-on-trees-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
source=$work/source

RANDOM=1
for ((file = 0; file < files; file++)); do
    ((file % 100)) || mkdir -p "$source/$((file / 100))"
    head -c $((100 + RANDOM % 8093)) /dev/urandom >"$source/$((file / 100))/$file"
done

run() {
    case $1 in
    cp) cp -r "$source" "$2" ;;
    kaio) "$kaio" cp -qr --no-fsync "$source" "$2" ;;
    cp-durable) cp -r "$source" "$2" && sync -f "$2" ;;
    kaio-durable) "$kaio" cp -qr "$source" "$2" ;;
    esac
}

tools=(cp kaio cp-durable kaio-durable)
for ((round = 0; round < rounds; round++)); do
    for ((turn = 0; turn < ${#tools[@]}; turn++)); do
        tool=${tools[(turn + round) % ${#tools[@]}]}
        copy=$work/$round-$tool
        sync -f "$work"
        before=$(date +%s%N)
        run "$tool" "$copy"
        after=$(date +%s%N)
        if ((round == 0)); then
            diff -r "$source" "$copy"
        fi
        echo "$round $tool $((after - before))" >>"$work/times"
    done
done

echo "$rounds rounds of $files cached files of 0.1 to 8 KiB. Ratio: the time divided by that of cp in the same"
echo "round; median over the rounds."
echo
awk '
    function median(list, count,   i, j, swap) {
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && list[j] < list[j - 1]; j--) {
                swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap
            }
        return count % 2 ? list[(count + 1) / 2] : (list[count / 2] + list[count / 2 + 1]) / 2
    }
    { time[$1, $2] = $3 / 1e9; if ($1 + 1 > rounds) rounds = $1 + 1 }
    END {
        print "| | time, s | ratio |"
        print "|---|--:|--:|"
        count = split("cp kaio cp-durable kaio-durable", tools, " ")
        shown["cp"] = "`cp -r`"; shown["kaio"] = "`kaio cp -r --no-fsync`"
        shown["cp-durable"] = "`cp -r`, `sync -f`"; shown["kaio-durable"] = "`kaio cp -r`"
        for (t = 1; t <= count; t++) {
            base = t > 2 ? "cp-durable" : "cp"
            for (r = 0; r < rounds; r++) {
                times[r + 1] = time[r, tools[t]]
                ratios[r + 1] = time[r, tools[t]] / time[r, base]
            }
            ratio = median(ratios, rounds)
            printf "| %s | %.3f | %.2f |\n", shown[tools[t]], median(times, rounds), ratio
        }
    }' "$work/times"
