//! The `kaio-bench` binary: output, JSON, plots and errors.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use kaio_bench::pairs::{self, PairReport};
use kaio_bench::scale::{Axis, ScaleReport};
use kaio_bench::{Report, engines};

fn kaio_bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kaio-bench"))
        .args(args)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Arguments for a very short measurement.
fn small<'a>(json: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "--dir",
        ".",
        "--patterns",
        "random-read",
        "--depths",
        "4",
        "--rounds",
        "2",
        "--latency-rounds",
        "1",
        "--round-ms",
        "1",
        "--size",
        "1",
        "--json",
        json,
    ];
    args.extend(more);
    args
}

fn load(path: &Path) -> Report {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_measurement_is_printed_saved_as_json_and_plotted() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (json, plots) = (dir.path().join("report.json"), dir.path().join("plots"));
    let more = ["--strict", "--plots", plots.to_str().unwrap()];
    let output = kaio_bench(&small(json.to_str().unwrap(), &more));
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{errors}");

    let report = load(&json);
    assert_eq!(report.sets.len(), 2, "one for each shape");
    for (set, shape) in report.sets.iter().zip(["tasks", "waves"]) {
        assert_eq!(set.engines.len(), engines::all().len());
        assert_eq!(set.shape.name(), shape);
        for engine in &set.engines {
            assert!(printed.contains(&engine.engine), "{}", engine.engine);
            let Some(figures) = engine.figures() else {
                continue;
            };
            assert_eq!(figures.rounds.len(), 2);
            assert!(figures.rounds.iter().all(|round| round.wall_ns > 0.0));
            assert!(figures.rounds.iter().all(|round| round.busy_ns.is_some()));
        }
        let bare = set.engines[0].summary.unwrap();
        assert_eq!(bare.cpu_ratio.unwrap().median, 1.0);
    }
    let percent = 100.0 * report.machine.others.unwrap();
    let others = format!("others      {percent:.0} % of the machine busy before the start");
    assert!(printed.contains(&others), "{printed}");
    assert!(printed.contains("machine ns  machine ratio"), "{printed}");
    for shape in ["tasks", "waves"] {
        let place = &report.places[0].name;
        let svg = fs::read_to_string(plots.join(format!("{place}-random-read-{shape}.svg")));
        let svg = svg.unwrap();
        assert!(svg.contains("</svg>") && svg.contains("kaio/current-thread"));
    }

    let rendered = kaio_bench(&["render", "--from", json.to_str().unwrap()]);
    assert!(rendered.status.success());
    assert_eq!(
        text(&rendered.stdout),
        printed,
        "rendering the JSON prints the same"
    );
}

#[test]
fn pairs_are_printed_and_saved_as_json() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let json = dir.path().join("pairs.json");
    let output = kaio_bench(&[
        "pairs",
        "--dir",
        ".",
        "--rounds",
        "2",
        "--round-ms",
        "20",
        "--size",
        "1",
        "--strict",
        "--json",
        json.to_str().unwrap(),
    ]);
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{errors}");
    let report: PairReport = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let names = report.sets.iter().map(|set| set.pair.as_str());
    assert!(names.eq(pairs::all().iter().map(|pair| pair.name)));
    for set in &report.sets {
        assert!(
            printed.contains(&format!("\n{}\n", set.title())),
            "{printed}"
        );
        for variant in &set.variants {
            assert_eq!(variant.figures().unwrap().rounds.len(), 2);
        }
        let first = set.variants[0].summary.unwrap();
        assert_eq!(first.time_ratio.unwrap().median, 1.0);
        // The printed ratios are the measured ones.
        for variant in &set.variants[1..] {
            let time = variant.summary.unwrap().time_ratio.unwrap();
            let cell = format!(" {:.2} ({:.2}–{:.2}) ", time.median, time.q1, time.q3);
            let mut rows = printed
                .lines()
                .filter(|line| line.starts_with(&variant.engine));
            assert!(rows.any(|row| row.contains(&cell)), "{cell}: {printed}");
        }
    }
    assert!(
        printed.contains("ratios to the first of each table"),
        "{printed}"
    );
    assert!(printed.contains("io_submit"), "{printed}");
}

#[test]
fn scales_are_printed_saved_as_json_and_plotted() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (json, plots) = (dir.path().join("scale.json"), dir.path().join("plots"));
    let args = "scale --dir . --rounds 2 --round-ms 5 --size 1 --tasks 10,300 --files 1,20 --contexts 1,3 \
                --strict --json";
    let (json_arg, plots_arg) = (json.to_str().unwrap(), plots.to_str().unwrap());
    let more = [json_arg, "--plots", plots_arg];
    let args: Vec<_> = args.split_whitespace().chain(more).collect();
    let output = kaio_bench(&args);
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{errors}");
    let report: ScaleReport = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let of = |axis, engine: &str| {
        let mut sets = report.sets.iter();
        sets.find(|set| set.axis == axis && set.engine == engine)
    };
    for (axis, names) in [
        (Axis::Tasks, ["10", "300"]),
        (Axis::Files, ["1", "20"]),
        (Axis::Contexts, ["1", "3"]),
    ] {
        let set = of(axis, "kaio/current-thread").unwrap();
        assert!(
            printed.contains(&format!("\n{}\n", set.title())),
            "{printed}"
        );
        for (report, name) in set.reports.iter().zip(names) {
            assert_eq!(report.engine, name);
            let figures = report.figures().unwrap();
            assert_eq!(figures.rounds.len(), 2);
            let calls = figures.counts.calls.as_ref().unwrap();
            assert!(calls["io_submit"] > 0.0);
        }
        let first = set.reports[0].summary.unwrap();
        assert_eq!(first.iops_ratio.unwrap().median, 1.0);
    }
    assert!(
        of(Axis::Tasks, "bare").is_none(),
        "it has no tasks that wait"
    );
    assert!(printed.contains("skipped: spawn-blocking/current-thread has at most 1 context"));
    let place = &report.places[0].name;
    let svg = fs::read_to_string(plots.join(format!("{place}-scale.svg"))).unwrap();
    assert!(svg.contains("</svg>") && svg.contains("kaio/current-thread"));

    let rendered = kaio_bench(&["render", "--from", json_arg]);
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    assert_eq!(text(&rendered.stdout), printed);
    let local = kaio_bench(&["render", "--from", json_arg, "--engines", "kaio/local"]);
    let local = text(&local.stdout);
    assert!(local.contains("tasks: kaio/local") && !local.contains("tasks: kaio/multi"));
    let refused = kaio_bench(&["render", "--from", json_arg, "--baseline", "kaio/local"]);
    assert!(text(&refused.stderr).contains("remove --baseline"));
}

#[test]
fn once_runs_more_tasks_than_slots_on_several_files_and_contexts() {
    let args = "once kaio/current-thread 400 --depth 100 --slots 8 --files 3 --contexts 2 --size 1";
    let args: Vec<_> = args.split(' ').collect();
    let output = kaio_bench(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(count(&text(&output.stdout), "transfers"), Some(400.0));
}

#[test]
fn pairs_can_be_selected_by_part_of_their_names() {
    let args = "--dir . --rounds 1 --round-ms 1 --size 1 owned vectored";
    let args: Vec<_> = ["pairs"].into_iter().chain(args.split(' ')).collect();
    let printed = text(&kaio_bench(&args).stdout);
    let heads = printed.lines().filter(|line| line.contains(": random-"));
    let names = heads.filter_map(|line| line.split(':').next());
    assert!(
        names.eq(["vectored-read", "vectored-write", "owned"]),
        "{printed}"
    );
}

#[test]
fn the_help_describes_every_pair_and_variant() {
    let help = text(&kaio_bench(&["pairs", "--help"]).stdout);
    for pair in pairs::all() {
        assert!(help.contains(pair.name), "{}", pair.name);
        for variant in &pair.variants {
            let name = format!("`{}`", variant.name());
            assert!(help.contains(&name), "{}/{name}", pair.name);
        }
    }
}

#[test]
fn an_engine_that_fails_is_reported_and_with_strict_is_a_failure() {
    // Too few descriptors for tokio-fs, which opens the file once for each transfer in flight.
    let limited = |more: &str| {
        let binary = env!("CARGO_BIN_EXE_kaio-bench");
        let script = format!(
            "ulimit -n 100; exec {binary} --dir . --engines tokio-fs --patterns random-read \
             --shapes tasks --depths 128 --rounds 1 --latency-rounds 1 --round-ms 1 --size 1 {more}"
        );
        let mut command = Command::new("sh");
        command.current_dir(env!("CARGO_TARGET_TMPDIR"));
        command.args(["-c", &script]).output().unwrap()
    };
    let output = limited("");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(
        printed.contains("Too many open files (os error 24); each transfer"),
        "{printed}"
    );
    assert!(printed.contains("\nbare "), "{printed}");

    let output = limited("--strict");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("tokio-fs (buffered): open "));
}

#[test]
fn once_runs_the_transfers_and_prints_their_system_calls() {
    let printed = once("bare", "10");
    assert_eq!(count(&printed, "transfers"), Some(100.0));
    assert_eq!(count(&printed, "io_submit"), Some(10.0));
    let waits = count(&printed, "io_getevents").unwrap();
    assert!((10.0..=100.0).contains(&waits), "{printed}");
    assert_eq!(count(&printed, "epoll_wait"), None);
}

#[test]
fn the_epoll_loop_makes_one_more_call_for_each_wait() {
    let printed = once("bare-epoll", "1");
    for (name, times) in [
        ("transfers", 100.0),
        ("io_submit", 100.0),
        ("epoll_wait", 100.0),
        ("io_getevents", 100.0),
    ] {
        assert_eq!(count(&printed, name), Some(times), "{printed}");
    }

    let printed = once("bare-epoll", "10");
    assert_eq!(count(&printed, "io_submit"), Some(10.0), "{printed}");
    // At least once a wave, at most once for each request's signal.
    let waits = count(&printed, "epoll_wait").unwrap();
    assert!((10.0..=100.0).contains(&waits), "{printed}");
    assert_eq!(count(&printed, "io_getevents"), Some(waits), "{printed}");
}

#[test]
fn once_runs_a_variant_of_a_pair() {
    let output = kaio_bench(&["once", "batch/batch", "100", "--size", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(count(&text(&output.stdout), "transfers"), Some(128.0));
}

/// Output of `once` for 100 transfers in waves.
fn once(engine: &str, depth: &str) -> String {
    let output = kaio_bench(&[
        "once", engine, "100", "--shape", "waves", "--depth", depth, "--size", "1",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn count(printed: &str, name: &str) -> Option<f64> {
    let line = printed.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().parse().expect("a number"))
}

#[test]
fn render_can_use_another_baseline() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let json = dir.path().join("report.json");
    let json = json.to_str().unwrap();
    let measured = kaio_bench(&small(json, &["--shapes", "waves", "--engines", "kaio"]));
    assert!(measured.status.success(), "{}", text(&measured.stderr));
    let names: Vec<_> = load(Path::new(json)).sets[0]
        .engines
        .iter()
        .map(|report| report.engine.clone())
        .collect();
    let expected = [
        "bare",
        "kaio/multi-thread",
        "kaio/multi-thread-max-batch-16",
        "kaio/multi-thread-sharded",
        "kaio/current-thread",
        "kaio/current-thread-max-batch-16",
        "kaio/current-thread-own-thread",
        "kaio/current-thread-groups",
        "kaio/local",
        "kaio/multi-thread-uring",
        "kaio/current-thread-uring",
        "kaio/current-thread-uring-registered",
    ];
    assert_eq!(names, expected);

    let local = kaio_bench(&["render", "--from", json, "--baseline", "kaio/local"]);
    let local = text(&local.stdout);
    assert!(local.contains("ratios to kaio/local"));
    // The ratio of IOPS exists however short the rounds are. Tables show the median and the quartiles of
    // the two rounds.
    let set = &load(Path::new(json)).sets[0];
    let speeds = |name: &str| {
        let report = set.engines.iter().find(|report| report.engine == name);
        let rounds = &report.and_then(|report| report.figures()).unwrap().rounds;
        [0, 1].map(|i| rounds[i].transfers as f64 / rounds[i].wall_ns)
    };
    let theirs = speeds("kaio/local");
    for name in expected {
        let ours = speeds(name);
        let mut ratios = [ours[0] / theirs[0], ours[1] / theirs[1]];
        ratios.sort_by(f64::total_cmp);
        let [q1, median, q3] = [0.25, 0.5, 0.75].map(|s| ratios[0] * (1.0 - s) + ratios[1] * s);
        let cell = format!(" {median:.2} ({q1:.2}–{q3:.2}) ");
        let is_row = |line: &&str| line.split(' ').next() == Some(name);
        let row = local.lines().find(is_row).unwrap();
        assert!(row.contains(&cell), "{cell} in {row}");
    }
    let unknown = kaio_bench(&["render", "--from", json, "--baseline", "magic"]);
    assert!(!unknown.status.success());
    assert!(text(&unknown.stderr).contains("no engine magic"));

    // A part of the engines, always with the baseline.
    let rows = |args: &[&str]| -> Vec<String> {
        let output = kaio_bench(&[&["render", "--from", json, "--engines"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let printed = text(&output.stdout);
        let firsts = printed.lines().filter_map(|line| line.split(' ').next());
        let rows = firsts.filter(|first| expected.contains(first));
        rows.map(String::from).collect()
    };
    let own = "kaio/current-thread-own-thread";
    assert_eq!(rows(&["own-thread"]), ["bare", own]);
    let to_local = ["own-thread", "--baseline", "kaio/local"];
    assert_eq!(rows(&to_local), [own, "kaio/local"]);
    assert_eq!(rows(&["kaio"]), expected);
    assert_eq!(
        rows(&["kaio/current-thread"]),
        ["bare", "kaio/current-thread"]
    );
    let unknown = kaio_bench(&["render", "--from", json, "--engines", "local,magic"]);
    assert!(!unknown.status.success());
    assert!(text(&unknown.stderr).contains("no engine with magic in its name"));
}

#[test]
fn errors_are_one_line() {
    for (args, printed) in [
        (&["--dir", "/nowhere"][..], "/nowhere"),
        (&["--dir", "/proc"], "/proc"),
        (&["--engines", "magic"], "magic"),
        // Reported before the measurement, which would take half an hour.
        (
            &["--dir", ".", "--size", "1", "--json", "/nowhere/x"],
            "/nowhere/x",
        ),
        (
            &["--dir", ".", "--size", "1", "--plots", "/proc/x"],
            "/proc/x",
        ),
        (&["once", "magic", "1"], "magic"),
        (&["once", "batch/magic", "1"], "batch/magic"),
        (
            &["once", "batch/tasks", "1", "--depth", "8"],
            "its own workload",
        ),
        (&["once", "bare", "1", "--files", "2"], "other scales"),
        (&["scale", "--engines", "magic"], "magic"),
        (&["scale", "--engines", "bare-epoll"], "bare-epoll"),
        (&["scale", "--tasks", "7"], "7 tasks can't fill 8 slots"),
        (&["pairs", "magic"], "magic"),
        (&["pairs", "--dir", "/nowhere"], "/nowhere"),
        (&["--baseline", "magic"], "magic"),
        (&["render", "--from", "/nowhere"], "/nowhere"),
        (
            &["render", "--from", "/proc/self/status"],
            "/proc/self/status",
        ),
    ] {
        let output = kaio_bench(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.starts_with("error: "), "{args:?}: {message}");
        assert!(message.contains(printed), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_measurement_without_results_is_a_failure() {
    let binary = env!("CARGO_BIN_EXE_kaio-bench");
    let args = "--engines tokio-fs --baseline 'tokio-fs (buffered)' --shapes tasks --depths 128";
    let args = format!("{args} --dir . --patterns random-read --rounds 1 --size 1");
    let mut command = Command::new("sh");
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.args(["-c", &format!("ulimit -n 100; exec {binary} {args}")]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing was measured"));
    assert!(text(&output.stdout).contains("Too many open files"));
}

#[test]
fn a_signal_removes_the_files() {
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut child = start_measuring("", dir.path());
        send(signal, &child);
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn a_signal_ignored_from_the_start_stays_ignored() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut child = start_measuring("trap '' HUP;", dir.path());
    send("HUP", &child);
    send("TERM", &child);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

/// Starts a long measurement in `dir`, and waits until its files exist.
fn start_measuring(before: &str, dir: &Path) -> Child {
    let binary = env!("CARGO_BIN_EXE_kaio-bench");
    let args = "--engines bare --patterns random-read --depths 1 --rounds 60000 --size 1";
    // The test runner may ignore these signals, which the program would inherit.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", "sh", "-c"]);
    command.arg(format!("{before} exec {binary} {args} --dir ."));
    command.current_dir(dir).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    // The files exist before the first output.
    let mut first = [0];
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    child
}

fn send(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn the_list_has_every_engine_and_variant() {
    let output = kaio_bench(&["--list"]);
    let list = text(&output.stdout);
    assert!(output.status.success());
    assert!(
        engines::all()
            .iter()
            .all(|engine| list.contains(engine.name()))
    );
    for pair in pairs::all() {
        let variants: Vec<_> = pair.variants.iter().map(|variant| variant.name()).collect();
        let line = format!("\n  {}: {}\n", pair.name, variants.join(", "));
        assert!(list.contains(&line), "{list}");
    }
}

#[test]
fn the_published_measurements_can_be_read() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/measurements");
    for name in ["random-read.json", "other-patterns.json"] {
        assert!(!load(&directory.join(name)).sets.is_empty(), "{name}");
    }
    let json = fs::read(directory.join("scale.json")).unwrap();
    let report: ScaleReport = serde_json::from_slice(&json).unwrap();
    assert!(report.sets.iter().all(|set| !set.reports.is_empty()));
    let json = fs::read(directory.join("pairs.json")).unwrap();
    let report: PairReport = serde_json::from_slice(&json).unwrap();
    assert!(report.sets.iter().all(|set| !set.variants.is_empty()));
}
