//! The layers of the library: which modules may import which. These tests read its source.
//!
//! A test that fails names the import or the file. To mend it, move the item to a lower module, or
//! turn the dependency round. An exception needs a reason.

mod rust_source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rust_source::{Crate, Import, ItemPath};

/// The modules of the library, from the top down. A module imports only modules below it.
const ORDER: &[&str] = &[
    // The public API.
    "fs",
    "context",
    // The core, and what it is made of.
    "runtime",
    "driver",
    "deferred",
    "teardown",
    "config",
    "offload",
    "slab",
    // Above `op`: trace events, commands and errors describe an operation.
    "trace",
    "command",
    "error",
    // A request, how to submit it, and where it runs.
    "op",
    "policy",
    "backend",
    "buf",
    // Shares and limits of requests, whose memory has their permits.
    "group",
    // Simulated disks: their files are files of `op`, and a backend runs requests on them.
    "simulation",
    // Used by modules of every layer above.
    "sync",
    "eventfd",
    "blocking_pool",
    "metrics",
    "compat",
    "alignment",
    "flags",
    "priority",
    // The operating system.
    "sys",
];

/// Imports that point upwards: the file, the module that it imports, and why.
const UPWARD_IMPORTS: &[(&str, &str, &str)] = &[
    (
        "context/batch.rs",
        "fs",
        "`Batch::push` takes a `File`, and the methods of `File` take a handle of a context",
    ),
    (
        "context/owned_batch.rs",
        "fs",
        "`OwnedBatch::read` takes a `File`, as `Batch::push` does",
    ),
];

/// Files that import each other, and why.
const CIRCLES: &[(&[&str], &str)] = &[(
    &["buf/io_buf.rs", "buf/slice.rs"],
    "`IoBuf::into_slice` returns a `Slice`, and a `Slice` is an `IoBuf`",
)];

/// Files of `policy` that the driver may import: the trait that it asks, and the types of the trait.
const POLICY_INTERFACE: &[&str] = &["policy/submit_advisor.rs", "policy/submit_plan.rs"];

/// What else the driver may import from `policy`: data that is passed to the trait or kept for it, never
/// an implementation of the trait.
const POLICY_DATA: &[&str] = &[
    "FileHistory",
    "NowaitResult",
    "Refusal",
    "SubmitObservation",
    "SubmitTimer",
    "SubmitTiming",
    "TaskId",
    "TimingLevel",
];

/// The driver has to be understood as a whole, so it must be short enough to read in one sitting. Raise
/// this only for code that belongs to no other module.
const MAX_DRIVER_LINES: usize = 1500;

/// The crates of this repository.
const CRATES: &[&str] = &[
    "tokio-kaio",
    "kaio",
    "kaio-bench",
    "peers",
    "adapters/object-store",
    "adapters/object-store-bench",
    "adapters/datafusion",
    "adapters/ballista",
    "adapters/tpch",
    "adapters/tpch-bench",
    "adapters/sql",
];

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn library() -> Crate {
    Crate::read(&source_folder().join("lib.rs"))
}

/// Every import of every module: the module, its file, the import. The root of the crate is left out, it
/// only re-exports.
fn imports(source: &Crate) -> impl Iterator<Item = (&ItemPath, &str, Import)> {
    let modules = source.modules.iter().filter(|(path, _)| !path.is_empty());
    modules.flat_map(|(path, module)| {
        let file = module.file.to_str().unwrap();
        let imports = source.imports(path).into_iter();
        imports.map(move |import| (path, file, import))
    })
}

fn file_of<'c>(source: &'c Crate, import: &Import) -> &'c str {
    source.modules[&import.module].file.to_str().unwrap()
}

/// Fails with the list of `violations`, if there are any.
fn assert_no_violation(violations: BTreeSet<String>) {
    let list: Vec<String> = violations.into_iter().collect();
    assert!(list.is_empty(), "\n{}\n", list.join("\n"));
}

/// Rust files in `folder` and below, by their path from `folder`.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    files
}

#[test]
fn every_file_of_the_library_is_read_or_only_compiled_for_tests() {
    let source = library();
    let read: BTreeSet<&Path> = source
        .modules
        .values()
        .map(|module| &*module.file)
        .collect();
    for file in rust_files(&source_folder()) {
        let path = file.with_extension("");
        let path: ItemPath = path
            .iter()
            .map(|part| part.to_str().unwrap().into())
            .collect();
        let is_skipped = source
            .skipped
            .iter()
            .any(|skipped| path.starts_with(skipped));
        assert!(
            read.contains(&*file) || is_skipped,
            "{}: no module of the crate, as far as this test understands",
            file.display()
        );
    }
    let modules: BTreeSet<&str> = source
        .modules
        .keys()
        .filter_map(|path| Some(&**path.first()?))
        .collect();
    assert_eq!(
        modules,
        ORDER.iter().copied().collect(),
        "ORDER names every module once"
    );
}

#[test]
fn imports_point_downwards() {
    let source = library();
    let level = |module: &str| ORDER.iter().position(|&of_order| of_order == module);
    let mut violations = BTreeSet::new();
    let mut excused = BTreeSet::new();
    let mut count = 0;
    for (path, file, import) in imports(&source) {
        let (from, to) = (&path[0], &import.module[0]);
        count += usize::from(from != to);
        if level(from) <= level(to) {
            continue;
        }
        let exception = UPWARD_IMPORTS
            .iter()
            .find(|&&(of, what, _)| (of, what) == (file, to));
        match exception {
            Some(exception) => drop(excused.insert(exception)),
            None => {
                let item = import.item.unwrap_or_default();
                violations.insert(format!(
                    "{file}: imports {item} from {to}, which is above {from}"
                ));
            }
        }
    }
    assert_no_violation(violations);
    assert_eq!(
        excused,
        UPWARD_IMPORTS.iter().collect(),
        "exceptions that are still needed"
    );
    assert!(
        count > 100,
        "{count} imports from other modules: this test has missed some"
    );
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let source = library();
    let mut imported: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, file, import) in imports(&source) {
        let of = file_of(&source, &import);
        if of != file && path[0] == import.module[0] {
            imported.entry(file).or_default().insert(of);
        }
    }
    for (circle, _) in CIRCLES {
        for pair in [
            [circle[0], circle[1]],
            [circle[circle.len() - 1], circle[0]],
        ] {
            assert!(
                reaches(&imported, pair[0], pair[1]),
                "{circle:?} is no circle any more"
            );
        }
        for file in *circle {
            let others = imported.get_mut(file).unwrap();
            others.retain(|other| !circle.contains(other));
        }
    }
    let files = imported.keys().copied();
    let in_circle = files.filter(|file| reaches(&imported, file, file));
    let of = |file| {
        format!(
            "{file}: in a circle of imports, by way of {:?}",
            imported[file]
        )
    };
    assert_no_violation(in_circle.map(of).collect());
    assert!(
        imported.len() > 30,
        "{imported:?}: this test has missed some"
    );
}

/// Whether `from` imports `to`, directly or not.
fn reaches(imported: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        for other in imported.get(file).into_iter().flatten() {
            if *other == to {
                return true;
            }
            if seen.insert(other) {
                next.push(other);
            }
        }
    }
    false
}

#[test]
fn the_driver_imports_no_implementation_of_a_policy() {
    let source = library();
    let mut violations = BTreeSet::new();
    let mut count = 0;
    for (path, file, import) in imports(&source) {
        if path[0] != "driver" || import.module[0] != "policy" {
            continue;
        }
        count += 1;
        let is_interface = POLICY_INTERFACE.contains(&file_of(&source, &import));
        let item = import.item.unwrap_or("the whole module".into());
        let name = item.split("::").next().unwrap();
        if !is_interface && !POLICY_DATA.contains(&name) {
            violations.insert(format!("{file}: imports {item} from policy"));
        }
    }
    assert_no_violation(violations);
    assert!(count > 0, "the driver asks a policy");
}

#[test]
fn structures_of_kernel_aio_are_used_in_its_backend_only() {
    let source = library();
    let abi = ["backend", "aio", "aio_abi"].map(String::from);
    let mut names = source.modules[&abi[..]].declared.clone();
    for name in ["Iocb", "IoEvent", "RingHeader", "IOCB_FLAG_RESFD"] {
        assert!(names.contains(name), "{name} is not declared in {abi:?}");
    }
    names.insert("aio_abi".into());
    names.remove("_");
    let mut violations = BTreeSet::new();
    for (path, module) in &source.modules {
        if path.starts_with(&abi[..2]) {
            continue;
        }
        let used = module
            .names
            .iter()
            .chain(module.uses.iter().flat_map(|used| &used.path));
        for name in used.filter(|name| names.contains(*name)) {
            violations.insert(format!("{}: uses {name}", module.file.display()));
        }
    }
    assert_no_violation(violations);
}

#[test]
fn the_crate_io_uring_is_used_in_its_backend_only() {
    let mut users = BTreeSet::new();
    for file in rust_files(&source_folder()) {
        let code = fs::read_to_string(source_folder().join(&file)).unwrap();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        if code.into_iter().any(|line| line.contains("io_uring::")) {
            users.insert(file);
        }
    }
    let outside = users
        .iter()
        .filter(|file| !file.starts_with("backend/uring"));
    assert_no_violation(outside.map(|file| file.display().to_string()).collect());
    assert!(!users.is_empty(), "the backend uses it");
}

/// Files that are named by their folder.
const IN_EVERY_FOLDER: [&str; 3] = ["mod.rs", "lib.rs", "main.rs"];

/// The source files of every crate, by name, with their paths; without files of tests. `None`, and a line
/// that says so, in a package of the library.
fn files_by_name() -> Option<BTreeMap<String, Vec<PathBuf>>> {
    let repository = source_folder().join("../..");
    if !repository.join("kaio-bench").exists() {
        eprintln!("skipped: this is not the repository");
        return None;
    }
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for of in CRATES {
        let of_crate = rust_files(&repository.join(of).join("src"));
        assert!(!of_crate.is_empty(), "{of} has no source");
        for file in of_crate {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let is_test = file.iter().any(|folder| folder == "tests");
            if !is_test && !IN_EVERY_FOLDER.contains(&&*name) {
                let path = Path::new(of).join("src").join(file);
                files.entry(name).or_default().push(path);
            }
        }
    }
    Some(files)
}

#[test]
fn a_file_name_stands_in_one_folder_of_the_repository() {
    let Some(files) = files_by_name() else {
        return;
    };
    let twice = files.into_iter().filter(|(_, paths)| paths.len() > 1);
    let names = twice.map(|(name, paths)| format!("{name}: {paths:?}"));
    assert_no_violation(names.collect());
}

#[test]
fn the_map_in_contributing_has_every_file() {
    let Some(files) = files_by_name() else {
        return;
    };
    let text = fs::read_to_string(source_folder().join("../../CONTRIBUTING.md")).unwrap();
    let (_, map) = text.split_once("## Where things are").unwrap();
    let map = map.split("```").nth(1).unwrap();
    let words: BTreeSet<&str> = map.split_whitespace().collect();
    let mut violations = BTreeSet::new();
    for (name, paths) in &files {
        if !words.contains(&**name) {
            violations.insert(format!("not in the map: {paths:?}"));
        }
    }
    let mut is_source = false;
    for line in map.lines().filter(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap();
        if !line.starts_with(' ') {
            is_source = name.ends_with("/src/");
            continue;
        }
        let is_file = is_source && name.ends_with(".rs") && !IN_EVERY_FOLDER.contains(&name);
        if is_file && !files.contains_key(name) {
            violations.insert(format!("in the map, but gone: {name}"));
        }
    }
    assert_no_violation(violations);
}

#[test]
fn the_driver_can_be_read_in_one_sitting() {
    let folder = source_folder().join("driver");
    let files = rust_files(&folder);
    let own = files.iter().filter(|file| !file.starts_with("tests"));
    let lines = own.map(|file| {
        fs::read_to_string(folder.join(file))
            .unwrap()
            .lines()
            .count()
    });
    let lines: usize = lines.sum();
    assert!(
        (1..=MAX_DRIVER_LINES).contains(&lines),
        "the files of driver/ have {lines} lines, not 1 to {MAX_DRIVER_LINES}"
    );
}

// ---- The reader -------------------------------------------------------------------------------

/// A crate of the modules `a`, `b` and `b::c`, with this code in `a`.
fn crate_with(code: &str) -> Crate {
    let mut source = Crate::default();
    let root = "mod a; mod b; pub use b::{Reexported, c::Deep as Renamed};";
    source.add_file(&[], Path::new("lib.rs"), root);
    source.add_file(
        &["b".into()],
        Path::new("b/mod.rs"),
        "mod c; pub use c::Inner;",
    );
    let inner: ItemPath = ["b", "c"].map(String::from).into();
    source.add_file(&inner, Path::new("b/c.rs"), "pub struct Inner;");
    source.add_file(&["a".into()], Path::new("a.rs"), code);
    source
}

/// The imports of that code, as `module/item`.
fn imports_of(code: &str) -> Vec<String> {
    let source = crate_with(code);
    let modules = source
        .modules
        .keys()
        .filter(|path| path.first().is_some_and(|first| first == "a"));
    let imports = modules.flat_map(|path| source.imports(path));
    let text = |import: Import| {
        let item = import.item.unwrap_or_default();
        format!("{}/{item}", import.module.join("::"))
    };
    imports
        .map(text)
        .filter(|import| import.starts_with('b'))
        .collect()
}

#[test]
fn imports_are_found_however_they_are_written() {
    for (code, imports) in [
        ("use crate::b::X;", &["b/X"][..]),
        ("use super::b::X as Y;", &["b/X"]),
        ("pub(crate) use crate::b::X;", &["b/X"]),
        ("use crate::b;", &["b/"]),
        ("use crate::b::*;", &["b/*"]),
        (
            "use crate::{b::{self, X, c::{Y, Z}}, other::W};",
            &["b/", "b/X", "b::c/Y", "b::c/Z"],
        ),
        ("use crate::b::Inner;", &["b::c/Inner"]),
        ("use crate::Reexported;", &["b/Reexported"]),
        ("use crate::Renamed;", &["b::c/Deep"]),
        ("fn f() { crate::b::g(1) }", &["b/g"]),
        ("fn f() -> Vec<crate::b::c::X> {}", &["b::c/X"]),
        ("impl<T: crate::b::X> Y for T {}", &["b/X"]),
        ("fn f() { for x in crate::b::g() {} }", &["b/g"]),
        ("fn f() -> S { S { a: 1, ..crate::b::g() } }", &["b/g"]),
        ("fn f() { <S as crate::b::X>::g() }", &["b/X::g"]),
        (
            "fn f() { m!(\"{}\" => [1, ..crate::b::g::<u8>(super::b::X)]) }",
            &["b/g", "b/X"],
        ),
        ("m! { impl other::Y for crate::b::X; }", &["b/X"]),
        ("mod inline { use super::super::b::X; }", &["b/X"]),
        ("fn f() { use crate::b::X; }", &["b/X"]),
        ("#[cfg(not(test))] use crate::b::X;", &["b/X"]),
        (
            "#[cfg(any(test, feature = \"x\"))] use crate::b::X;",
            &["b/X"],
        ),
        (
            "#[cfg(test)] mod tests { use crate::b::Y; } use crate::b::X;",
            &["b/X"],
        ),
        ("#[cfg(test)] use crate::b::{Y}; use crate::b::X;", &["b/X"]),
        (
            "const C: char = '\"'; use crate::b::X; const D: &str = r#\"\"\"#;",
            &["b/X"],
        ),
        ("fn f<'a>(x: &'a str) -> crate::b::X<'a> {}", &["b/X"]),
    ] {
        assert_eq!(imports_of(code), imports, "{code}");
    }
}

#[test]
fn code_for_tests_and_text_import_nothing() {
    for code in [
        "#[cfg(test)] use crate::b::X;",
        "#[cfg(test)] mod tests { fn f() { crate::b::g() } }",
        "#[cfg(all(test, not(miri)))] #[allow(unused)] fn f() { crate::b::g() }",
        "struct S { #[cfg(test)] field: crate::b::X, other: u8 }",
        "fn f() -> S { S { #[cfg(test)] field: crate::b::g(), other: 1 } }",
        "fn f() { #[cfg(test)] let x = crate::b::g(); #[cfg(test)] crate::b::g(); }",
        "fn f() { match 1 { #[cfg(not(not(test)))] 1 => crate::b::g(), _ => {} } }",
        "#[cfg(doc)] use crate::b::X;",
        "#![cfg(test)] use crate::b::X;",
        "// use crate::b::X;",
        "/* use crate::b::X; /* */ use crate::b::Y; */",
        "const C: &str = \"use crate::b::X;\";",
        "const C: &str = r#\"\" use crate::b::X;\"#;",
        "pub(in crate::b) fn f() {}",
        "use other::b::X; fn f() { other::crate_::b() }",
    ] {
        assert_eq!(imports_of(code), [""; 0], "{code}");
    }
}
