//! Tests of the output, and of other options.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cp_fixture::{Dir, bytes, kaio, text};

#[test]
fn the_json_summary_has_these_fields_in_this_order() {
    let dir = Dir::new();
    dir.file("source", bytes(100_001));
    let args = [
        "--json", "--verify", "--bs", "64k", "--depth", "4", "source", "copy",
    ];
    let output = dir.cp(&args);
    assert_eq!(text(&output.stderr), "");
    let said = text(&output.stdout);
    let summary: Value = serde_json::from_str(&said).unwrap();
    let fields = [
        "schema",
        "files",
        "directories",
        "symlinks",
        "hard_links",
        "bytes",
        "written_bytes",
        "hole_bytes",
        "reflink_bytes",
        "verified_bytes",
        "seconds",
        "bytes_per_second",
        "durable",
        "direct",
        "block_size",
        "depth",
        "warnings",
        "failed",
    ];
    let places = fields.map(|field| said.find(&format!("\"{field}\":")).unwrap());
    assert!(places.is_sorted(), "{said}");
    assert_eq!(summary.as_object().unwrap().len(), fields.len());
    assert_eq!(summary["schema"], 1);
    assert_eq!(summary["files"], 1);
    assert_eq!(summary["bytes"], 100_001);
    assert_eq!(summary["written_bytes"], 100_001);
    assert_eq!(summary["verified_bytes"], 100_001);
    assert_eq!(summary["hole_bytes"], 0);
    assert_eq!(summary["durable"], true);
    assert_eq!(summary["block_size"], 65536);
    assert_eq!(summary["depth"], 4);
    assert_eq!(summary["failed"], Value::Array(vec![]));
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn quiet_is_silent() {
    let dir = Dir::new();
    dir.file("source", bytes(5000));
    let output = dir.cp(&[
        "-q",
        "source",
        "/proc/version",
        dir.path().to_str().unwrap(),
    ]);
    // `source` is its own target.
    assert_eq!(output.status.code(), Some(1));
    for source in ["source", "/proc/version"] {
        let output = dir.cp(&["--quiet", source, "copy"]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            (text(&output.stdout), text(&output.stderr)),
            Default::default()
        );
    }
}

#[test]
fn without_a_terminal_the_output_is_one_line_without_escapes() {
    let dir = Dir::new();
    dir.file("source", bytes(3 << 20));
    let said = dir.copies(&["--verify", "source", "copy"]);
    assert!(
        said.starts_with("3.00 MiB in 1 file, ") && said.ends_with("verified\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
    assert!(!said.contains('\x1b') && !said.contains('\r'), "{said:?}");
}

#[test]
fn with_no_fsync_the_summary_is_not_durable() {
    let dir = Dir::new();
    dir.file("source", "x");
    let durable = |args: &[&str]| {
        let output = dir.cp(&[args, &["--json", "source", "copy"]].concat());
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        summary["durable"].as_bool().unwrap()
    };
    assert!(durable(&[]) && durable(&["--no-fsync", "--fsync"]));
    assert!(!durable(&["--fsync", "--no-fsync"]));
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let dir = Dir::new();
    dir.file("source", bytes(100_000));
    for options in [&["--json"][..], &[]] {
        let mut child = Command::new(kaio())
            .arg("cp")
            .args(options)
            .args(["source", "copy"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{options:?}");
    }
}

#[test]
fn a_full_standard_output_is_an_error() {
    let dir = Dir::new();
    dir.file("source", "x");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(kaio())
        .args(["cp", "--json", "source", "copy"])
        .current_dir(dir.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("standard output"));
}

#[test]
fn sources_without_direct_io_are_noted_once() {
    let dir = Dir::new();
    dir.dir("into");
    let said = dir.copies(&["/proc/version", "/proc/cpuinfo", "into"]);
    assert_eq!(said.matches("note: /proc/").count(), 1, "{said}"); // one note for both
    assert!(said.contains("is read through the page cache"), "{said}");
}

#[test]
fn no_more_than_the_limit_is_copied_per_second() {
    const LIMIT: u64 = 4 << 20;
    let dir = Dir::new();
    dir.file("source", bytes(2 << 20));
    dir.dir("tree");
    for number in 0..40 {
        dir.file(&format!("tree/{number}"), bytes(50_000));
    }
    let script = "cat source | \"$0\" cp --json --limit 4M --bs 64k - copy";
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", script]).arg(kaio());
    let pipe = shell.current_dir(dir.path()).output().unwrap();
    let limited = ["--json", "--limit", "4M", "--bs", "64k"];
    let file = dir.cp(&[&limited[..], &["source", "copy"]].concat());
    let tree = dir.cp(&[&limited[..], &["-r", "tree", "copies"]].concat());
    for (what, output) in [("pipe", pipe), ("file", file), ("tree", tree)] {
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["failed"], Value::Array(vec![]), "{what}");
        // The first block is copied at once.
        let rate = summary["bytes_per_second"].as_f64().unwrap();
        assert!(rate < 1.1 * LIMIT as f64, "{what}: {summary}");
    }
}

#[test]
fn the_help_has_examples() {
    let dir = Dir::new();
    for option in ["-h", "--help"] {
        let output = dir.cp(&[option]);
        assert_eq!(output.status.code(), Some(0));
        let said = text(&output.stdout);
        assert!(said.contains("kaio cp -rp data /mnt/copy"), "{said}");
    }
}
