//! `run`.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

pub(crate) fn bench() -> Command {
    Command::cargo_bin("kaio-tpch-bench").unwrap()
}

/// Runs two works. `None`: it can't be measured here, and the reason is printed.
pub(crate) fn measured(dir: &Path, json: &Path) -> Option<Value> {
    let output = bench()
        .args([
            "run",
            "--scale",
            "0.001",
            "--rounds",
            "2",
            "--row-group-rows",
            "1000",
        ])
        .args([
            "--only",
            "q6",
            "--only",
            "scan-all",
            "--without-prefetch",
            "--passes",
            "1",
            "--limited-scale",
            "0.001",
            "--limit",
            "512",
        ])
        .arg("--dir")
        .arg(dir)
        .arg("--json")
        .arg(json)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let cannot = ["can't be evicted", "cachestat failed"];
    if cannot.iter().any(|reason| errors.contains(reason)) {
        eprintln!("skipped: {errors}");
        return None;
    }
    assert!(output.status.success(), "{errors}");
    let text = std::fs::read_to_string(json).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

#[test]
fn every_work_has_samples_of_each_store_cold_and_cached() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(results) = measured(dir.path(), &dir.path().join("tpch.json")) else {
        return;
    };
    let works = results["works"].as_array().unwrap();
    let names: Vec<_> = works
        .iter()
        .map(|work| {
            (
                work["work"].as_str().unwrap(),
                work["cached"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("q6", false),
            ("q6", true),
            ("scan-all", false),
            ("scan-all", true)
        ]
    );
    for work in works {
        let stores = work["stores"].as_array().unwrap();
        let names: Vec<_> = stores.iter().map(|store| &store["store"]).collect();
        assert_eq!(names, ["local", "kaio", "kaio-without-prefetch"]);
        for store in stores {
            for quantity in ["wall_ms", "cpu_ms", "read_bytes", "cached_bytes"] {
                assert_eq!(store[quantity].as_array().unwrap().len(), 2);
            }
        }
    }
    // Eviction is real, and so are direct reads: a cold scan leaves the data in the page cache over one store
    // only.
    let cached = |store: usize| {
        works[2]["stores"][store]["cached_bytes"][0]
            .as_u64()
            .unwrap()
    };
    assert!(cached(0) > 0, "{works:?}");
    assert_eq!(works[2]["rows"], 6_005);
    // Data stays, to be used again, and nothing else.
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.len() == 2 && names.iter().any(|name| name == "tpch-0.001-zstd-1000-1"),
        "{names:?}"
    );
}

#[test]
fn errors_name_the_work_or_the_directory() {
    let list = bench().args(["run", "--list"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(
        list.lines().count() == 27 && list.contains("scan-keys"),
        "{list}"
    );
    for (arguments, part) in [
        (["run", "--only", "q23"], "\"q23\""),
        (["run", "--dir", "/nonexistent"], "/nonexistent"),
    ] {
        let output = bench().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(part), "{error}");
    }
}
