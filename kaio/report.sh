#!/usr/bin/env bash
# Opens a report of `kaio bench --html` in headless Chromium, in light and dark, wide and narrow, and
# has the browser say whether it is all there: plots that have a size, lines in their colours, text that
# can be read, nothing that sticks out. Fails where it is not.
#
#   kaio/report.sh                      of a short measurement
#   kaio/report.sh REPORT.html [DIR]    of this report; screenshots go to DIR
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
report=${1:-} pictures=${2:-}

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[[ -n $browser ]] || { echo "skipped: there is no Chromium here"; exit 3; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ -z $report ]]; then
    cargo build --release --locked --quiet -p tokio-kaio-cli --manifest-path "$here/Cargo.toml"
    (cd "$work" && "${CARGO_TARGET_DIR:-$here/target}/release/kaio" bench --runtime 2 --size 8M \
        --depth 1,8 --buffered --html report.html >/dev/null)
    report=$work/report.html
fi

# The page, and a script in it that looks at what the browser has made of it. The page itself allows
# no scripts.
with_eyes() {
    grep -v 'http-equiv="Content-Security-Policy"' "$report"
    cat <<'EYES'
<script>
const wrong = [];
const check = (fine, what) => { if (!fine) wrong.push(what); };
const lightness = colour => {
  const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
  return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
};
const style = element => getComputedStyle(element);
const dark = matchMedia('(prefers-color-scheme: dark)').matches;
const ground = lightness(style(document.body).backgroundColor);
check(dark ? ground < 0.2 : ground > 0.8, `the ground is ${ground} in ${dark ? 'dark' : 'light'}`);
check(Math.abs(lightness(style(document.body).color) - ground) > 0.5, 'text is hard to read');
const plots = [...document.querySelectorAll('figure svg')];
check(plots.length >= 3, `${plots.length} plots`);
for (const plot of plots) {
  const name = plot.parentElement.getAttribute('aria-label');
  const box = plot.getBoundingClientRect();
  check(box.width > 250 && box.height > 150, `${name} is ${box.width} by ${box.height}`);
  check(plot.querySelectorAll('circle').length > 0, `${name} has no points`);
  for (const text of plot.querySelectorAll('text'))
    check(Math.abs(lightness(style(text).fill) - ground) > 0.5, `${name}: ${text.textContent} is hard to read`);
  const colours = new Set([...plot.querySelectorAll('circle')].map(circle => style(circle).fill));
  const legend = new Set([...document.querySelectorAll('.legend .swatch')].map(it => style(it).backgroundColor));
  for (const colour of colours) {
    check(legend.has(colour), `${name} has ${colour}, which the legend has not`);
    check(Math.abs(lightness(colour) - ground) > 0.15, `${name} has ${colour}, which is hard to see`);
  }
}
check(document.querySelectorAll('table tr').length > 2, 'the table is empty');
const beyond = document.documentElement.scrollWidth - document.documentElement.clientWidth;
check(beyond <= 0, `the page is ${beyond} units too wide`);
document.body.dataset.seen = `${dark ? 'dark' : 'light'} ${innerWidth}: ${wrong.join('; ').replace(/\s+/g, ' ') || 'fine'}`;
</script>
EYES
}
with_eyes >"$work/seen.html"

# Chromium wants a sandbox of its own unless it is root's.
chromium() {
    "$browser" --headless --disable-gpu --hide-scrollbars ${EUID:+$([[ $EUID != 0 ]] || echo --no-sandbox)} \
        --user-data-dir="$work/profile" --blink-settings=preferredColorScheme="$scheme" "$@" 2>/dev/null
}

failed=0
for look in light dark; do
    [[ $look == dark ]] && scheme=0 || scheme=1
    for width in 1240 500; do
        seen=$(chromium --window-size="$width,1900" --dump-dom "file://$work/seen.html" |
            sed -n 's/.*data-seen="\([^"]*\)".*/\1/p')
        printf '%s\n' "${seen:-nothing was seen at $width}"
        [[ $seen == "$look $width: fine" ]] || failed=1
    done
    if [[ -n $pictures ]]; then
        chromium --window-size=1240,1420 --screenshot="$work/$look.png" \
            "file://$(realpath "$report")" >/dev/null
        mkdir -p "$pictures"
        mv "$work/$look.png" "$pictures/kaio-bench-$look.png"
    fi
done
(( failed == 0 )) || { echo "the report is not as it should be" >&2; exit 1; }
