//! Tests of the program `kaio bench`.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use common::{failed, interruptible, json, kaio, names, parts, path, run, scratch, succeeded};
use rustix::process::Signal;
use serde_json::Value;

/// A short measurement.
const SMALL: &str = "bench --runtime 0.4 --size 1M --depth 1,4";

const ALL: [&str; 7] = [
    "tokio-kaio",
    "tokio-kaio-current-thread",
    "tokio-kaio-io-uring",
    "blocking-pool",
    "tokio-fs",
    "bare-aio",
    "bare-io-uring",
];

/// Whether the file system of the tests supports direct I/O. The program reports that.
fn has_direct_io(dir: &Path) -> bool {
    let output = run(dir, &format!("{SMALL} --engines bare-aio"));
    let (code, _, err) = parts(&output);
    let lacks = code == Some(1) && err.contains("no direct I/O");
    if lacks {
        common::skipped(&err);
    }
    !lacks
}

#[test]
fn a_scratch_file_is_measured_with_every_engine_at_every_depth_and_removed() {
    let dir = scratch();
    if !has_direct_io(dir.path()) {
        return;
    }
    let out = succeeded(&run(dir.path(), SMALL));
    for depth in ["depth 1 ", "depth 4 "] {
        assert!(out.contains(depth), "{out}");
    }
    for engine in ALL {
        let rows = out
            .lines()
            .filter(|line| line.split(' ').next() == Some(engine));
        let others = out
            .lines()
            .filter(|line| line.starts_with(&format!("{engine}: skipped")));
        assert_eq!(
            rows.count() + others.count(),
            2 + note_about(engine),
            "{engine}: {out}"
        );
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

/// The number of lines that start with the name of the engine and are not rows.
fn note_about(engine: &str) -> usize {
    usize::from(engine == "tokio-fs")
}

#[test]
fn json_follows_the_schema_and_its_figures_are_consistent() {
    let dir = scratch();
    if !has_direct_io(dir.path()) {
        return;
    }
    let args =
        format!("{SMALL} --rw randrw --mix 50 --seed 7 --json - --engines blocking-pool,bare-aio");
    let report = json(&run(dir.path(), &args));
    assert_eq!(report["schema"], 1);
    assert_eq!(report["command"], format!("kaio {args}"));
    let settings = &report["settings"];
    assert_eq!(settings["rw"], "randrw");
    assert_eq!(
        (&settings["mix"], &settings["seed"]),
        (&50.into(), &7.into())
    );
    assert_eq!(settings["baseline"], "blocking-pool");
    let target = &report["target"];
    assert_eq!(
        (&target["kind"], &target["bytes"]),
        (&"scratch".into(), &(1 << 20).into())
    );
    assert!(
        target["alignment"]["offset"]
            .as_u64()
            .unwrap()
            .is_power_of_two()
    );
    assert!(report["limits"]["aio_max_nr"].as_u64().unwrap() > 0);

    let results = report["results"].as_array().unwrap();
    let found: Vec<_> = results
        .iter()
        .map(|row| (row["depth"].as_u64(), row["engine"].as_str()))
        .collect();
    let row = |depth, engine| (Some(depth), Some(engine));
    let expected = [1, 4].map(|depth| [row(depth, "blocking-pool"), row(depth, "bare-aio")]);
    assert_eq!(found, expected.concat());
    for row in results.iter().filter(|row| row["skipped"].is_null()) {
        let figures = &row["figures"];
        let number = |value: &Value| value.as_f64().unwrap();
        let iops = number(&figures["iops"]["median"]);
        let mib = number(&figures["mib_per_second"]);
        assert!(
            (iops * 4096.0 / 1048576.0 - mib).abs() < 1e-6 * mib,
            "{figures}"
        );
        let latency = &figures["latency"];
        let quantiles = ["p50", "p99", "p99_9", "max"].map(|name| number(&latency[name]));
        assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{latency}");
        assert!(number(&figures["cpu"]["median"]) > 0.0);
        assert!(number(&figures["iops_ratio"]["median"]) > 0.0);
        if row["engine"] == "blocking-pool" {
            assert_eq!(number(&figures["cpu_ratio"]["median"]), 1.0);
        }
    }
}

#[test]
fn every_access_pattern_works_direct_and_buffered() {
    let dir = scratch();
    let direct = has_direct_io(dir.path());
    for rw in ["randread", "randwrite", "randrw", "read", "write"] {
        for how in ["--direct", "--buffered"] {
            if how == "--direct" && !direct {
                continue;
            }
            let args = format!("bench --runtime 0.2 --size 1M --depth 2 --rw {rw} {how} --json -");
            let report = json(&run(dir.path(), &args));
            assert_eq!(report["settings"]["direct"], how == "--direct");
            let block = if rw.starts_with("rand") {
                4096
            } else {
                128 << 10
            };
            assert_eq!(report["settings"]["block"], block);
            for row in report["results"].as_array().unwrap() {
                let fine = !row["figures"].is_null() || row["skipped"]["unavailable"] == true;
                assert!(fine, "{rw} {how}: {row}");
            }
        }
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn reports_are_written_in_addition_to_the_table_and_the_page_works_offline() {
    let dir = scratch();
    if !has_direct_io(dir.path()) {
        return;
    }
    fs::write(path(&dir, "r.html"), "an older one").unwrap();
    let args = format!("{SMALL} --json r.json --html r.html");
    let out = succeeded(&run(dir.path(), &args));
    assert!(out.contains("depth 4"), "{out}");
    assert_eq!(names(dir.path()), ["r.html", "r.json"]);
    let report: Value = serde_json::from_slice(&fs::read(path(&dir, "r.json")).unwrap()).unwrap();
    assert_eq!(report["command"], format!("kaio {args}"));

    let page = fs::read_to_string(path(&dir, "r.html")).unwrap();
    assert!(
        page.contains(&format!("<pre>kaio {args}</pre>")),
        "the page shows the command"
    );
    // Two plots over the depth, and one of latencies for each depth.
    assert_eq!(page.matches("<svg").count(), 2 + 2);
    assert_eq!(page.matches("</svg>").count(), 4);
    for fact in [
        "kernel",
        "alignment",
        "limits",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(fact), "{fact}");
    }
    // The only address is an XML namespace.
    let foreign = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!foreign.contains(outside), "{outside}");
    }
}

#[test]
fn a_report_replaces_regular_files_only_and_follows_links() {
    let dir = scratch();
    let bench = "bench --buffered --runtime 0.1 --size 1M --depth 1 --engines blocking-pool";
    let report = |option: &str, to: &str| run(dir.path(), &format!("{bench} {option} {to}"));
    fs::write(path(&dir, "old"), "old").unwrap();
    fs::set_permissions(path(&dir, "old"), Permissions::from_mode(0o600)).unwrap();
    symlink("old", path(&dir, "link")).unwrap();
    succeeded(&report("--json", "link"));
    assert!(path(&dir, "link").is_symlink());
    let old = fs::metadata(path(&dir, "old")).unwrap();
    assert!(old.len() > 1000 && old.permissions().mode() & 0o777 == 0o600);

    // A FIFO is written to. The program waits for a reader, and the reader for the program.
    let fifo = path(&dir, "fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let reader = thread::spawn({
        let fifo = fifo.clone();
        move || fs::read_to_string(fifo).unwrap()
    });
    succeeded(&report("--html", "fifo"));
    assert!(reader.join().unwrap().starts_with("<!doctype html>"));
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

    // A link to a device, as /dev/stdout is. A test must not risk the device itself.
    symlink("/dev/null", path(&dir, "null")).unwrap();
    succeeded(&report("--json", "null"));
    assert!(path(&dir, "null").is_symlink());

    symlink("nothing", path(&dir, "dangling")).unwrap();
    let err = failed(&report("--json", "dangling"), 1);
    assert!(err.contains("a symbolic link to a missing file"), "{err}");
    let there = ["dangling", "fifo", "link", "null", "old"];
    assert_eq!(names(dir.path()), there);
}

#[test]
fn a_report_must_not_replace_the_measured_file_or_another_report() {
    let dir = scratch();
    fs::write(path(&dir, "data"), [7; 8192]).unwrap();
    fs::hard_link(path(&dir, "data"), path(&dir, "same")).unwrap();
    for (args, expected) in [
        ("bench data --json data", "data is the file to measure on"),
        ("bench data --html same", "same is the file to measure on"),
        ("bench --json r --html ./r", "the same file"),
        ("bench --html -", "/dev/stdout"),
    ] {
        let err = failed(&run(dir.path(), args), 2);
        assert!(err.contains(expected), "{args}: {err}");
    }
    assert_eq!(fs::read(path(&dir, "data")).unwrap(), [7; 8192]);
    assert_eq!(names(dir.path()), ["data", "same"]);
}

#[test]
fn an_existing_file_is_only_read_without_overwrite() {
    let dir = scratch();
    if !has_direct_io(dir.path()) {
        return;
    }
    let file = path(&dir, "precious");
    let content: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    fs::write(&file, &content).unwrap();

    let report = json(&run(dir.path(), &format!("{SMALL} precious --json -")));
    assert_eq!(report["target"]["kind"], "file");
    assert_eq!(report["target"]["bytes"], 300_000 / 4096 * 4096);
    for rw in ["randwrite", "randrw", "write"] {
        let err = failed(&run(dir.path(), &format!("{SMALL} precious --rw {rw}")), 2);
        assert!(
            err.contains("precious") && err.contains("--overwrite"),
            "{err}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), content);

    let args = format!("{SMALL} precious --rw randwrite --overwrite --json -");
    let report = json(&run(dir.path(), &args));
    assert_ne!(fs::read(&file).unwrap(), content);
    let is_tokio_fs = |row: &&Value| row["engine"] == "tokio-fs";
    let row = report["results"]
        .as_array()
        .unwrap()
        .iter()
        .find(is_tokio_fs)
        .unwrap();
    let why = row["skipped"]["error"].as_str().unwrap();
    assert!(why.contains("page cache"), "{why}");
    assert_eq!(names(dir.path()), ["precious"]);
}

#[test]
fn holes_are_noted() {
    let dir = scratch();
    if !has_direct_io(dir.path()) {
        return;
    }
    File::create(path(&dir, "sparse"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let (code, _, err) = parts(&run(
        dir.path(),
        &format!("{SMALL} --engines bare-aio sparse"),
    ));
    assert_eq!(code, Some(0));
    assert!(err.contains("sparse has holes"), "{err}");
}

#[test]
fn signals_leave_no_files() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let dir = scratch();
        let mut command = interruptible(dir.path());
        command.args("bench --runtime 600 --size 4M --html r.html --buffered".split(' '));
        let mut running = common::Running::start(&mut command, Stdio::piped());
        running.until(|| {
            names(dir.path())
                .iter()
                .any(|name| name.starts_with("kaio-bench-"))
        });
        assert_eq!(running.end(signal).code(), Some(code));
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[test]
fn a_scratch_file_larger_than_the_disk_is_not_created() {
    let dir = scratch();
    for size in ["1000000T", "15E", "18446744073709551615"] {
        let err = failed(
            &run(dir.path(), &format!("bench --buffered --size {size}")),
            1,
        );
        assert!(
            err.contains("No space left") && err.contains("--size"),
            "{err}"
        );
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

/// Runs the program under a limit that bash's `ulimit` sets.
fn limited(dir: &Path, ulimit: &str, args: &str) -> Output {
    let mut bash = Command::new("bash");
    bash.arg("-c")
        .arg(format!("ulimit {ulimit}; exec \"$0\" {args}"));
    bash.arg(env!("CARGO_BIN_EXE_kaio"));
    bash.current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn no_files_are_left_if_descriptors_run_out() {
    let dir = scratch();
    let bench = "bench --buffered --size 1M --runtime 0.1 --depth 1";
    for descriptors in 4..24 {
        limited(dir.path(), &format!("-n {descriptors}"), bench);
        assert_eq!(names(dir.path()), [""; 0], "{descriptors}");
    }
}

#[test]
fn the_limit_on_file_sizes_is_an_error_that_leaves_no_files() {
    let dir = scratch();
    let output = limited(
        dir.path(),
        "-f 512",
        "bench --buffered --size 4M --runtime 0.1",
    );
    let err = failed(&output, 1);
    assert!(err.contains("File too large"), "{err}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn wrong_usage_is_reported_before_anything_is_created() {
    let dir = scratch();
    fs::write(path(&dir, "short"), "short").unwrap();
    for (args, expected) in [
        ("bench --mix 50", "--rw randrw"),
        ("bench --rw randrw --mix 101", "101"),
        ("bench --bs 4x", "4x"),
        ("bench --depth 0", "from 1 to 4096"),
        (
            "bench --depth 1-4",
            "expected one or more numbers, separated by commas (1,8,32)",
        ),
        ("bench --seed x", "expected a number"),
        (
            "bench --direct --buffered",
            "'--direct' cannot be used with '--buffered'",
        ),
        ("bench --runtime 0", "above 0"),
        ("bench --engines fast", "fast"),
        ("bench --size 1k", "less than one block of 4096"),
        (
            "bench --buffered --json - --html -",
            "--html does not accept -",
        ),
    ] {
        let err = failed(&run(dir.path(), args), 2);
        assert!(err.contains(expected), "{args}: {err}");
    }
    for (args, expected) in [
        ("bench short", "short: it has 5 bytes"),
        ("bench --size 1000000T", "--size makes it smaller"),
        ("bench missing", "can't measure on missing"),
        ("bench /dev/null", "not a regular file"),
        ("bench /proc", "proc is a file system of the kernel"),
        (
            "bench --html missing/r.html --runtime 0.2 --size 1M",
            "can't write missing/r.html: missing does not exist; create it with mkdir -p",
        ),
        (
            "bench /proc/version",
            "/proc/version: it has 0 bytes to use",
        ),
        ("bench --json . --runtime 0.2 --size 1M", "can't write .:"),
    ] {
        let err = failed(&run(dir.path(), args), 1);
        assert!(err.contains(expected), "{args}: {err}");
    }
    assert_eq!(names(dir.path()), ["short"]);
}

#[test]
fn a_block_size_that_direct_io_refuses_is_wrong_usage() {
    let dir = scratch();
    if !has_direct_io(dir.path()) {
        return;
    }
    let file = File::create(path(&dir, "file")).unwrap();
    file.write_all_at(&[7; 30_000], 0).unwrap();
    let output = run(dir.path(), "bench file --bs 1000 --runtime 1");
    match parts(&output) {
        (Some(0), _, _) => common::skipped("direct I/O accepts any block size here"),
        _ => {
            let err = failed(&output, 2);
            assert!(err.contains("--bs 1000 is not a multiple of"), "{err}");
            // The same holds for a scratch file, which ends with its last block.
            let err = failed(&run(dir.path(), "bench --bs 1000 --size 30k"), 2);
            assert!(err.contains("--bs 1000 is not a multiple of"), "{err}");
            let here = dir.path().canonicalize().unwrap();
            assert!(err.contains(&format!("on {};", here.display())), "{err}");
            assert!(!err.contains("kaio-bench-"), "{err}");
        }
    }
}

#[test]
fn without_a_terminal_no_progress_is_shown() {
    let dir = scratch();
    let output = kaio(dir.path())
        .args(SMALL.split(' '))
        .args(["--engines", "blocking-pool", "--buffered"])
        .output()
        .unwrap();
    succeeded(&output);
    let (_, _, err) = parts(&output);
    assert_eq!(err, "measuring 1 engine at depth 1, 4 for about 0.4 s\n");
}

#[test]
fn a_report_to_the_file_of_standard_output_follows_the_table() {
    let dir = scratch();
    let both = path(&dir, "both");
    let args = "bench --buffered --runtime 0.2 --size 1M --depth 1 --engines blocking-pool";
    let output = kaio(dir.path())
        .args(args.split(' '))
        .args(["--json", "/dev/stdout"])
        .stdout(File::create(&both).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let both = fs::read_to_string(both).unwrap();
    let (table, json) = both.split_once("\n{\n").expect("a table, and an object");
    assert!(table.contains("depth 1"), "{both}");
    serde_json::from_str::<Value>(&format!("{{{json}")).unwrap();
    assert_eq!(names(dir.path()), ["both"]);
}

#[test]
fn reports_are_written_even_if_the_table_can_not_be() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return common::skipped("there is no /dev/full");
    };
    let dir = scratch();
    let args = "bench --buffered --runtime 0.2 --size 1M --depth 1 --engines blocking-pool";
    let output = kaio(dir.path())
        .args(args.split(' '))
        .args(["--json", "r.json"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report = fs::read(path(&dir, "r.json")).unwrap();
    serde_json::from_slice::<Value>(&report).unwrap();
}
