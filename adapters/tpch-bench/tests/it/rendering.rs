//! `render`.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

use crate::measuring::{bench, measured};

const STORE_RESULTS: &str = r#"{"works": [{
    "work": "stream", "about": "get 256 MiB", "cache": "cold",
    "ratios": {
        "wall": {"q1": 0.1, "median": 0.2, "q3": 0.3},
        "cpu": {"q1": 0.01, "median": 0.02, "q3": 0.03}
    }
}]}"#;

fn render(dir: &Path) -> Command {
    let mut command = bench();
    command
        .current_dir(dir)
        .args(["render", "--tpch", "tpch.json"]);
    command.args([
        "--object-store",
        "object-store.json",
        "--page",
        "page.md",
        "--images",
        "img",
    ]);
    command
}

#[test]
fn the_page_of_this_repository_gets_its_tables_and_images() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    if measured(dir, &dir.join("tpch.json")).is_none() {
        return;
    }
    fs::write(dir.join("object-store.json"), STORE_RESULTS).unwrap();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ecosystem.md");
    let page = fs::read_to_string(page).unwrap();
    fs::write(dir.join("page.md"), &page).unwrap();
    render(dir).assert().success();
    let rendered = fs::read_to_string(dir.join("page.md")).unwrap();
    for row in [
        "| Q6 forecasting revenue change |",
        "| get 256 MiB | cold | 0.20 (0.10–0.30) |",
    ] {
        assert!(rendered.contains(row), "{row} is missing in {rendered}");
    }
    // Every image that the page shows is there, except one that is made as root only.
    let images = page
        .split("](img/")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap());
    for name in images.filter(|name| *name != "ecosystem-limited.svg") {
        let image = fs::read_to_string(dir.join("img").join(name)).unwrap();
        assert!(
            image.contains("</svg>") && image.contains("LocalFileSystem"),
            "{name}"
        );
    }
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    let output = render(dir).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("tpch.json"),
        "{error}"
    );
}
