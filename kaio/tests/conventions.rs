//! Tests of the behaviour that all commands share.

mod common;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use common::{Running, failed, interruptible, kaio, names, parts, path, run, scratch, succeeded};
use rustix::process::Signal;

const COMMANDS: [&str; 5] = ["doctor", "bench", "cp", "completions", "man"];

#[test]
fn the_help_of_every_command_has_an_example() {
    let dir = scratch();
    let help = succeeded(&run(dir.path(), "--help"));
    assert!(help.contains("kaio bench"), "{help}");
    for command in COMMANDS {
        assert!(help.contains(command), "{command}: {help}");
        let help = succeeded(&run(dir.path(), &format!("{command} --help")));
        let (_, examples) = help.split_once("Example").expect(command);
        assert!(examples.contains(&format!("kaio {command}")), "{help}");
    }
}

#[test]
fn help_is_a_command_too() {
    let dir = scratch();
    assert_eq!(
        succeeded(&run(dir.path(), "help")),
        succeeded(&run(dir.path(), "--help"))
    );
    for command in COMMANDS {
        let help = succeeded(&run(dir.path(), &format!("help {command}")));
        assert_eq!(
            help,
            succeeded(&run(dir.path(), &format!("{command} --help")))
        );
    }
    failed(&run(dir.path(), "help fly"), 2);
}

#[test]
fn the_synopsis_of_a_manual_page_names_the_values_of_the_options() {
    let dir = scratch();
    for command in COMMANDS {
        let page = succeeded(&run(dir.path(), &format!("man {command}")));
        let (_, synopsis) = page.split_once(".SH SYNOPSIS\n").expect(command);
        let synopsis = synopsis.lines().next().unwrap();
        assert!(
            synopsis.starts_with(&format!(r"\fBkaio {command}\fR")),
            "{synopsis}"
        );
    }
    let page = succeeded(&run(dir.path(), "man cp"));
    assert!(page.contains(r"[\fB\-\-bs\fR \fISIZE\fR]"), "{page}");
    assert!(page.contains(r"\fISRC\fR ... \fIDST\fR"), "{page}");
    let page = succeeded(&run(dir.path(), "man"));
    assert!(page.contains(r"\fICOMMAND\fR"), "{page}");
}

#[test]
fn the_version_is_that_of_the_library() {
    let dir = scratch();
    let version = succeeded(&run(dir.path(), "--version"));
    assert_eq!(version, format!("kaio {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn unknown_commands_and_options_are_wrong_usage() {
    let dir = scratch();
    for args in [
        "",
        "fly",
        "bench --fly",
        "doctor --fly",
        "cp --fly",
        "cp",
        "man fly",
        "completions fly",
    ] {
        failed(&run(dir.path(), args), 2);
    }
}

#[test]
fn control_characters_in_names_are_escaped() {
    let dir = scratch();
    let name = "\x1b]0;title\x07";
    fs::write(path(&dir, name), vec![1; 1 << 20]).unwrap();
    let quick = [
        "--runtime",
        "0.1",
        "--depth",
        "1",
        "--engines",
        "tokio-kaio",
    ];
    let bench = [&["bench", name, "--buffered"][..], &quick].concat();
    for args in [&["doctor", name][..], &["cp", "nothing", name], &bench] {
        let output = kaio(dir.path()).args(args).output().unwrap();
        let (_, out, err) = parts(&output);
        let shown = out + &err;
        assert!(!shown.contains(['\x1b', '\x07']), "{args:?}: {shown:?}");
    }
    let said = kaio(dir.path()).args(["cp", name, "."]).output().unwrap();
    let said = failed(&said, 1);
    assert!(said.contains(r"\u{1b}]0;title\u{7}"), "{said}");
}

#[test]
fn bash_accepts_the_completions() {
    let dir = scratch();
    let script = succeeded(&run(dir.path(), "completions bash"));
    fs::write(path(&dir, "kaio.bash"), &script).unwrap();
    let ask = "source kaio.bash && COMP_WORDS=(kaio bench --eng) && COMP_CWORD=2 \
               && _kaio kaio --eng bench && echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let bash = bash.args(["-euc", ask]).current_dir(dir.path());
    assert_eq!(succeeded(&bash.output().unwrap()), "--engines\n");
    for shell in ["zsh", "fish"] {
        let script = succeeded(&run(dir.path(), &format!("completions {shell}")));
        assert!(script.contains("bench"), "{shell}");
    }
}

#[test]
fn the_program_and_every_command_have_a_manual_page() {
    let dir = scratch();
    let page = succeeded(&run(dir.path(), "man"));
    assert!(
        page.contains(".TH kaio 1") && page.contains(".SH NAME"),
        "{page}"
    );
    for command in COMMANDS {
        let page = succeeded(&run(dir.path(), &format!("man {command}")));
        let title = format!(".TH kaio-{command} 1");
        assert!(page.contains(&title), "{command}: {page}");
        let (_, examples) = page.split_once(".SH EXAMPLES\n.nf\n  kaio").expect(command);
        assert!(examples.contains("\n.fi\n"), "{command}: {page}");
        assert!(!page.contains("EXTRA"), "{command}: {page}");
    }
    // It does not refer to a page that does not exist.
    assert!(!page.contains("kaio\\-help"), "{page}");
    for command in ["doctor", "bench", "cp"] {
        let page = succeeded(&run(dir.path(), &format!("man {command}")));
        assert!(
            page.contains(".SH \"EXIT STATUS\"\n0 "),
            "{command}: {page}"
        );
    }
}

#[test]
fn a_closed_standard_output_is_not_an_error() {
    let dir = scratch();
    for args in ["man", "completions bash", "--help", "bench --help"] {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let mut command = kaio(dir.path());
        let output = command
            .args(args.split(' '))
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(
            parts(&output),
            (Some(0), String::new(), String::new()),
            "{args}"
        );
    }
}

#[test]
fn a_closed_standard_error_changes_nothing() {
    let dir = scratch();
    let bench = "bench --buffered --runtime 0.1 --size 1M --depth 1 --engines blocking-pool";
    for (args, code) in [(bench, 0), ("bench missing", 1), ("man fly", 2)] {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let output = kaio(dir.path())
            .args(args.split(' '))
            .stderr(writer)
            .output()
            .unwrap();
        assert_eq!(parts(&output).0, Some(code), "{args}");
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_signal_ends_the_program_if_standard_error_is_closed() {
    let dir = scratch();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut command = interruptible(dir.path());
    command.args("bench --runtime 600 --size 1M --buffered".split(' '));
    let mut running = Running::start(&mut command, writer);
    // The program has printed its first message; then the reader closes the pipe.
    running.until(|| !names(dir.path()).is_empty());
    drop(reader);
    assert_eq!(running.end(Signal::INT).code(), Some(130));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_full_disk_is_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return common::skipped("there is no /dev/full");
    };
    let dir = scratch();
    let mut command = kaio(dir.path());
    let output = command
        .arg("man")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let err = failed(&output, 1);
    assert!(err.contains("can't write to standard output"), "{err}");
}
