#!/bin/sh
# Measures kaio-object-store and DataFusion over it against LocalFileSystem, and updates the results,
# tables and images of docs/object-store.md and docs/ecosystem.md.
#
#   adapters/measure.sh [--dir DIR] [--scale N] [--rounds N] [--no-build] [--smoke]
#
#   --dir DIR    where the data is: a directory on the disk to be measured (default: the target directory).
#                About 1.5 GB at scale 1. TPC-H data stays there and is used again.
#   --scale N    scale of TPC-H (default: 1)
#   --rounds N   rounds of each store (default: 5)
#   --no-build   use the binaries that are there
#   --smoke      run everything once on little data with a debug build, and change no file of the
#                repository: the figures mean nothing
#
# With the defaults it takes at most 15 minutes on an idle machine, after the build. Passes with a limit of
# memory need root, and are skipped otherwise.
set -eu

from=$PWD
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-$PWD/target}
dir=
scale=1
rounds=5
build=yes
smoke=

fail() {
    echo "measure.sh: $1" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --smoke) smoke=yes ;;
    --no-build) build= ;;
    --dir | --scale | --rounds)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
        --dir) dir=$2 ;;
        --scale) scale=$2 ;;
        --rounds) rounds=$2 ;;
        esac
        shift
        ;;
    --help | -h)
        sed -n '2,/^set /{s/^# \{0,1\}//;/^set /!p}' "$(basename "$0")"
        exit
        ;;
    *) fail "unknown option $1; see --help" ;;
    esac
    shift
done

case $dir in
'') dir=$target/measure ;;
/*) ;;
*) dir=$from/$dir ;; # relative to where the script was called
esac
mkdir -p "$dir"
docs=../docs
if [ -n "$smoke" ]; then
    profile=
    bin=$target/debug
    # Pages, results and images of its own.
    docs=$(mktemp -d)
    trap 'rm -rf "$docs"' EXIT
    mkdir "$docs/measurements"
    cp ../docs/ecosystem.md ../docs/object-store.md "$docs"
else
    profile=--release
    bin=$target/release
fi

if [ -n "$build" ]; then
    # One after another: together they would get other features, and compile more.
    # shellcheck disable=SC2086 # no option, or one
    cargo build $profile --locked -p kaio-object-store-bench
    # shellcheck disable=SC2086
    cargo build $profile --locked -p kaio-tpch-bench
fi

if [ -n "$smoke" ]; then
    "$bin/kaio-object-store-bench" --dir "$dir" --size 16 --rounds 1 --share 1 --buffers 16 \
        --json "$docs/measurements/object-store.json" --page "$docs/object-store.md"
    "$bin/kaio-tpch-bench" run --dir "$dir" --scale 0.01 --rounds 1 --row-group-rows 16384 --passes 1 \
        --limited-scale 0.01 --limit 512 \
        --without-prefetch --json "$docs/measurements/tpch.json"
else
    "$bin/kaio-object-store-bench" --dir "$dir" --rounds "$rounds" \
        --json "$docs/measurements/object-store.json" --page "$docs/object-store.md"
    "$bin/kaio-tpch-bench" run --dir "$dir" --scale "$scale" --rounds "$rounds" \
        --without-prefetch --json "$docs/measurements/tpch.json"
fi
"$bin/kaio-tpch-bench" render --tpch "$docs/measurements/tpch.json" \
    --object-store "$docs/measurements/object-store.json" \
    --page "$docs/ecosystem.md" --images "$docs/img"
