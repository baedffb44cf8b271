#!/usr/bin/env bash
# Opens a report of `kaio bench --html` in headless Chromium, with a light and a dark colour scheme, in a
# wide and a narrow window, and checks the layout: plots have a size, lines have the colours of the
# legend, text is legible, and nothing overflows. Fails if a check fails.
#
#   kaio/report.sh                      checks the report of a short measurement
#   kaio/report.sh REPORT.html [DIR]    checks this report, and writes screenshots to DIR
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
report=${1:-} pictures=${2:-}

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[[ -n $browser ]] || { echo "skipped: Chromium is not installed"; exit 3; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ -z $report ]]; then
    cargo build --release --locked --quiet -p tokio-kaio-cli --manifest-path "$here/Cargo.toml"
    (cd "$work" && "${CARGO_TARGET_DIR:-$here/target}/release/kaio" bench --runtime 2 --size 8M \
        --depth 1,8 --buffered --html report.html >/dev/null)
    report=$work/report.html
fi

# Prints the page with a script that checks the layout. The policy of the page, which forbids scripts, is
# removed.
with_checks() {
    grep -v 'http-equiv="Content-Security-Policy"' "$report"
    cat <<'CHECKS'
<script>
const errors = [];
const check = (passed, error) => { if (!passed) errors.push(error); };
const lightness = colour => {
  const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
  return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
};
const style = element => getComputedStyle(element);
const dark = matchMedia('(prefers-color-scheme: dark)').matches;
const background = lightness(style(document.body).backgroundColor);
check(dark ? background < 0.2 : background > 0.8, `the background has lightness ${background} in ${dark ? 'dark' : 'light'} mode`);
check(Math.abs(lightness(style(document.body).color) - background) > 0.5, 'text is hard to read');
const plots = [...document.querySelectorAll('figure svg')];
check(plots.length >= 3, `${plots.length} plots`);
for (const plot of plots) {
  const name = plot.parentElement.getAttribute('aria-label');
  const box = plot.getBoundingClientRect();
  check(box.width > 250 && box.height > 150, `${name} is ${box.width} by ${box.height}`);
  check(plot.querySelectorAll('circle').length > 0, `${name} has no points`);
  for (const text of plot.querySelectorAll('text'))
    check(Math.abs(lightness(style(text).fill) - background) > 0.5, `${name}: ${text.textContent} is hard to read`);
  const colours = new Set([...plot.querySelectorAll('circle')].map(circle => style(circle).fill));
  const legend = new Set([...document.querySelectorAll('.legend .swatch')].map(it => style(it).backgroundColor));
  for (const colour of colours) {
    check(legend.has(colour), `${name} has ${colour}, which is not in the legend`);
    check(Math.abs(lightness(colour) - background) > 0.15, `${name} has ${colour}, which is hard to see`);
  }
}
check(document.querySelectorAll('table tr').length > 2, 'the table is empty');
const overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
check(overflow <= 0, `the page is ${overflow} pixels too wide`);
document.body.dataset.result = `${dark ? 'dark' : 'light'} ${innerWidth}: ${errors.join('; ').replace(/\s+/g, ' ') || 'passed'}`;
</script>
CHECKS
}
with_checks >"$work/checked.html"

# Chromium refuses to run as root with its sandbox.
chromium() {
    "$browser" --headless --disable-gpu --hide-scrollbars ${EUID:+$([[ $EUID != 0 ]] || echo --no-sandbox)} \
        --user-data-dir="$work/profile" --blink-settings=preferredColorScheme="$scheme" "$@" 2>/dev/null
}

failed=0
for theme in light dark; do
    [[ $theme == dark ]] && scheme=0 || scheme=1
    for width in 1240 500; do
        result=$(chromium --window-size="$width,1900" --dump-dom "file://$work/checked.html" |
            sed -n 's/.*data-result="\([^"]*\)".*/\1/p')
        printf '%s\n' "${result:-no result at width $width}"
        [[ $result == "$theme $width: passed" ]] || failed=1
    done
    if [[ -n $pictures ]]; then
        chromium --window-size=1240,1420 --screenshot="$work/$theme.png" \
            "file://$(realpath "$report")" >/dev/null
        mkdir -p "$pictures"
        mv "$work/$theme.png" "$pictures/kaio-bench-$theme.png"
    fi
done
(( failed == 0 )) || { echo "some checks of the report failed" >&2; exit 1; }
