//! What all commands have in common.

mod common;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use common::{failed, kaio, parts, path, run, scratch, succeeded};

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
fn the_version_is_that_of_the_library() {
    let dir = scratch();
    let version = succeeded(&run(dir.path(), "--version"));
    assert_eq!(version, format!("kaio {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_no_command_or_option_is_wrong_usage() {
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
fn bash_takes_the_completions() {
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
fn there_is_a_manual_page_of_the_program_and_of_every_command() {
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
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
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
