//! The binary: what it measures, writes, draws and refuses.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use kaio_bench::pairs::{self, PairReport};
use kaio_bench::{Report, engines};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kaio-bench"))
        .args(args)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Arguments for next to no work.
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
fn a_measurement_goes_to_the_screen_to_json_and_into_plots() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (json, plots) = (dir.path().join("report.json"), dir.path().join("plots"));
    let more = ["--strict", "--plots", plots.to_str().unwrap()];
    let output = run(&small(json.to_str().unwrap(), &more));
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{complained}");

    let report = load(&json);
    assert_eq!(report.sets.len(), 2, "a shape each");
    for (set, shape) in report.sets.iter().zip(["tasks", "waves"]) {
        assert_eq!(set.engines.len(), engines::all().len());
        assert_eq!(set.shape.name(), shape);
        for engine in &set.engines {
            assert!(said.contains(&engine.engine), "{}", engine.engine);
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
    assert!(said.contains(&others), "{said}");
    assert!(said.contains("machine ns  machine ratio"), "{said}");
    for shape in ["tasks", "waves"] {
        let place = &report.places[0].name;
        let svg = fs::read_to_string(plots.join(format!("{place}-random-read-{shape}.svg")));
        let svg = svg.unwrap();
        assert!(svg.contains("</svg>") && svg.contains("kaio/current-thread"));
    }

    let rendered = run(&["render", "--from", json.to_str().unwrap()]);
    assert!(rendered.status.success());
    assert_eq!(text(&rendered.stdout), said, "the same from JSON");
}

#[test]
fn pairs_go_to_the_screen_and_to_json() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let json = dir.path().join("pairs.json");
    let output = run(&[
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
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{complained}");
    let report: PairReport = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let names = report.sets.iter().map(|set| set.pair.as_str());
    assert!(names.eq(pairs::all().iter().map(|pair| pair.name)));
    for set in &report.sets {
        assert!(said.contains(&format!("\n{}\n", set.title())), "{said}");
        for way in &set.ways {
            assert_eq!(way.figures().unwrap().rounds.len(), 2);
        }
        let first = set.ways[0].summary.unwrap();
        assert_eq!(first.time_ratio.unwrap().median, 1.0);
        // What is said is what was measured.
        for way in &set.ways[1..] {
            let time = way.summary.unwrap().time_ratio.unwrap();
            let cell = format!(" {:.2} ({:.2}–{:.2}) ", time.median, time.q1, time.q3);
            let mut rows = said.lines().filter(|line| line.starts_with(&way.engine));
            assert!(rows.any(|row| row.contains(&cell)), "{cell}: {said}");
        }
    }
    assert!(said.contains("ratios to the first of each table"), "{said}");
    assert!(said.contains("io_submit"), "{said}");
}

#[test]
fn pairs_may_be_chosen_by_part_of_their_names() {
    let args = "--dir . --rounds 1 --round-ms 1 --size 1 owned vectored";
    let args: Vec<_> = ["pairs"].into_iter().chain(args.split(' ')).collect();
    let said = text(&run(&args).stdout);
    let heads = said.lines().filter(|line| line.contains(": random-"));
    let names = heads.filter_map(|line| line.split(':').next());
    assert!(
        names.eq(["vectored-read", "vectored-write", "owned"]),
        "{said}"
    );
}

#[test]
fn the_help_tells_of_every_pair_and_way() {
    let help = text(&run(&["pairs", "--help"]).stdout);
    for pair in pairs::all() {
        assert!(help.contains(pair.name), "{}", pair.name);
        for way in &pair.ways {
            let name = format!("`{}`", way.name());
            assert!(help.contains(&name), "{}/{name}", pair.name);
        }
    }
}

#[test]
fn an_engine_that_can_not_run_is_told_and_strictly_taken_is_a_failure() {
    // Too few descriptors for the one that opens the file once for each transfer in flight.
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
    let said = text(&output.stdout);
    assert!(
        said.contains("Too many open files (os error 24); each task"),
        "{said}"
    );
    assert!(said.contains("\nbare "), "{said}");

    let output = limited("--strict");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("tokio-fs (buffered): open "));
}

#[test]
fn once_makes_so_many_transfers_and_says_what_they_took() {
    let said = once("bare", "10");
    assert_eq!(count(&said, "transfers"), Some(100.0));
    assert_eq!(count(&said, "io_submit"), Some(10.0));
    let waits = count(&said, "io_getevents").unwrap();
    assert!((10.0..=100.0).contains(&waits), "{said}");
    assert_eq!(count(&said, "epoll_wait"), None);
}

#[test]
fn the_loop_over_epoll_makes_one_call_more_for_each_time_that_it_waits() {
    let said = once("bare-epoll", "1");
    for (what, times) in [
        ("transfers", 100.0),
        ("io_submit", 100.0),
        ("epoll_wait", 100.0),
        ("io_getevents", 100.0),
    ] {
        assert_eq!(count(&said, what), Some(times), "{said}");
    }

    let said = once("bare-epoll", "10");
    assert_eq!(count(&said, "io_submit"), Some(10.0), "{said}");
    // Once a wave at least, and at most once for each request's signal.
    let waits = count(&said, "epoll_wait").unwrap();
    assert!((10.0..=100.0).contains(&waits), "{said}");
    assert_eq!(count(&said, "io_getevents"), Some(waits), "{said}");
}

#[test]
fn once_makes_the_transfers_of_a_way() {
    let output = run(&["once", "batch/batch", "100", "--size", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(count(&text(&output.stdout), "transfers"), Some(128.0));
}

/// What `once` says of 100 transfers in waves.
fn once(engine: &str, depth: &str) -> String {
    let output = run(&[
        "once", engine, "100", "--shape", "waves", "--depth", depth, "--size", "1",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn count(said: &str, name: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().parse().expect("a number"))
}

#[test]
fn ratios_may_be_to_another_engine_afterwards() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let json = dir.path().join("report.json");
    let json = json.to_str().unwrap();
    let measured = run(&small(json, &["--shapes", "waves", "--engines", "kaio"]));
    assert!(measured.status.success(), "{}", text(&measured.stderr));
    let names: Vec<_> = load(Path::new(json)).sets[0]
        .engines
        .iter()
        .map(|report| report.engine.clone())
        .collect();
    let expected = [
        "bare",
        "kaio/multi-thread",
        "kaio/multi-thread-sharded",
        "kaio/current-thread",
        "kaio/local",
    ];
    assert_eq!(names, expected);

    let local = run(&["render", "--from", json, "--baseline", "kaio/local"]);
    let local = text(&local.stdout);
    assert!(local.contains("ratios to kaio/local"));
    // The one ratio that can't be missing, however short the rounds. As tables show it: of two
    // rounds, the median and the quartiles.
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
        let of_it = |line: &&str| line.split(' ').next() == Some(name);
        let row = local.lines().find(of_it).unwrap();
        assert!(row.contains(&cell), "{cell} in {row}");
    }
    let unknown = run(&["render", "--from", json, "--baseline", "magic"]);
    assert!(!unknown.status.success());
    assert!(text(&unknown.stderr).contains("no engine magic"));

    // Part of the engines, and the baseline whether it is among them or not.
    let rows = |args: &[&str]| -> Vec<String> {
        let output = run(&[&["render", "--from", json, "--engines"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        let firsts = said.lines().filter_map(|line| line.split(' ').next());
        let rows = firsts.filter(|first| expected.contains(first));
        rows.map(String::from).collect()
    };
    let current = "kaio/current-thread";
    assert_eq!(rows(&["current"]), ["bare", current]);
    let to_local = ["current", "--baseline", "kaio/local"];
    assert_eq!(rows(&to_local), [current, "kaio/local"]);
    assert_eq!(rows(&["kaio"]), expected);
    let unknown = run(&["render", "--from", json, "--engines", "local,magic"]);
    assert!(!unknown.status.success());
    assert!(text(&unknown.stderr).contains("no engine with magic in its name"));
}

#[test]
fn what_can_not_be_done_is_said_in_a_line() {
    for (args, said) in [
        (&["--dir", "/nowhere"][..], "/nowhere"),
        (&["--dir", "/proc"], "/proc"),
        (&["--engines", "magic"], "magic"),
        // Before anything is measured: it would take half an hour.
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
        (&["once", "batch/tasks", "1", "--depth", "8"], "of its own"),
        (&["pairs", "magic"], "magic"),
        (&["pairs", "--dir", "/nowhere"], "/nowhere"),
        (&["--baseline", "magic"], "magic"),
        (&["render", "--from", "/nowhere"], "/nowhere"),
        (
            &["render", "--from", "/proc/self/status"],
            "/proc/self/status",
        ),
    ] {
        let output = run(args);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {complaint}");
        assert!(complaint.starts_with("error: "), "{args:?}: {complaint}");
        assert!(complaint.contains(said), "{args:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{args:?}: {complaint}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_measurement_of_nothing_is_a_failure() {
    let binary = env!("CARGO_BIN_EXE_kaio-bench");
    let args = "--engines tokio-fs --baseline 'tokio-fs (buffered)' --shapes tasks --depths 128";
    let args = format!("{args} --dir . --patterns random-read --rounds 1 --size 1");
    let mut command = Command::new("sh");
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.args(["-c", &format!("ulimit -n 100; exec {binary} {args}")]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing could be measured"));
    assert!(text(&output.stdout).contains("Too many open files"));
}

#[test]
fn a_measurement_that_is_ended_by_a_signal_leaves_no_files() {
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut child = measuring("", dir.path());
        send(signal, &child);
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn a_signal_that_is_ignored_from_the_start_ends_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut child = measuring("trap '' HUP;", dir.path());
    send("HUP", &child);
    send("TERM", &child);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

/// One that measures for long in `dir`, once it has begun.
fn measuring(before: &str, dir: &Path) -> Child {
    let binary = env!("CARGO_BIN_EXE_kaio-bench");
    let args = "--engines bare --patterns random-read --depths 1 --rounds 60000 --size 1";
    // Whoever runs the tests may ignore these signals, and so would the program.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", "sh", "-c"]);
    command.arg(format!("{before} exec {binary} {args} --dir ."));
    command.current_dir(dir).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    // Its files are there when it says what it measures with.
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
fn the_list_has_every_engine() {
    let output = run(&["--list"]);
    let list = text(&output.stdout);
    assert!(output.status.success());
    assert!(
        engines::all()
            .iter()
            .all(|engine| list.contains(engine.name()))
    );
    for pair in pairs::all() {
        let ways: Vec<_> = pair.ways.iter().map(|way| way.name()).collect();
        let line = format!("\n  {}: {}\n", pair.name, ways.join(", "));
        assert!(list.contains(&line), "{list}");
    }
}
