//! Names, links and what is no object: as `LocalFileSystem` treats them.

use std::fs;
use std::os::unix::fs::symlink;

use futures::TryStreamExt;

use super::KaioFileSystem;
use super::object_store::local::LocalFileSystem;
use super::object_store::path::Path;
use super::object_store::{Error, ObjectStore, ObjectStoreExt};
use crate::fixture::{data, disk_dir, files_below};

async fn listed(store: &KaioFileSystem, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Path::from);
    let list: Vec<_> = store.list(prefix.as_ref()).try_collect().await.unwrap();
    let mut list: Vec<_> = list
        .into_iter()
        .map(|meta| meta.location.to_string())
        .collect();
    list.sort();
    list
}

#[tokio::test]
async fn the_store_is_named_after_its_directory() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let local = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    assert_eq!(
        store.to_string(),
        local.to_string().replace("Local", "Kaio")
    );
    assert!(store.to_string().starts_with("KaioFileSystem(file:///"));
    assert!(format!("{store:?}").contains("KaioFileSystem"));
}

#[tokio::test]
async fn a_store_without_prefix_begins_at_the_root_directory() {
    let dir = disk_dir();
    let path = dir.path().canonicalize().unwrap().join("object");
    fs::write(&path, data(20_000, 1)).unwrap();
    let store = KaioFileSystem::default();
    let location = Path::from_filesystem_path(&path).unwrap();
    assert_eq!(store.path_to_filesystem(&location).unwrap(), path);
    assert!(store.get(&location).await.unwrap().bytes().await.unwrap() == data(20_000, 1));
    store.list_with_delimiter(None).await.unwrap();
}

#[tokio::test]
async fn a_prefix_has_to_exist_and_may_be_relative() {
    let dir = disk_dir();
    KaioFileSystem::new_with_prefix(dir.path().join("missing")).unwrap_err();
    KaioFileSystem::builder()
        .with_prefix("missing")
        .build()
        .unwrap_err();
    KaioFileSystem::new_with_prefix(".").unwrap();
    KaioFileSystem::builder().with_prefix("..").build().unwrap();
}

#[tokio::test]
async fn links_are_followed_and_broken_links_are_not_listed() {
    let (dir, other) = (disk_dir(), disk_dir());
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("a/object"), data(20_000, 1)).unwrap();
    fs::write(other.path().join("outside"), data(20_000, 2)).unwrap();
    symlink(other.path().join("outside"), dir.path().join("link")).unwrap();
    symlink(dir.path().join("a"), dir.path().join("b")).unwrap();
    symlink(dir.path().join("nothing"), dir.path().join("broken")).unwrap();
    assert_eq!(listed(&store, None).await, ["a/object", "b/object", "link"]);
    assert_eq!(listed(&store, Some("b")).await, ["b/object"]);
    for (location, seed) in [("a/object", 1), ("b/object", 1), ("link", 2)] {
        let read = store
            .get(&Path::from(location))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert!(read == data(20_000, seed), "{location}");
    }
    let broken = store.get(&Path::from("broken")).await;
    assert!(matches!(broken, Err(Error::NotFound { .. })), "{broken:?}");

    // A write through a linked directory is seen on both paths; a write to a link replaces the link.
    store
        .put(&Path::from("b/new"), "content".into())
        .await
        .unwrap();
    assert_eq!(fs::read(dir.path().join("a/new")).unwrap(), b"content");
    store
        .put(&Path::from("link"), "content".into())
        .await
        .unwrap();
    assert!(fs::read(other.path().join("outside")).unwrap() == data(20_000, 2));

    // A link is removed, not what it leads to.
    symlink(other.path().join("outside"), dir.path().join("second")).unwrap();
    store.delete(&Path::from("second")).await.unwrap();
    assert!(other.path().join("outside").exists());
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_is_read_from_there() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    for seed in 0..4 {
        let target = dir.path().join(format!("target-{seed}"));
        fs::write(&target, data(20_000, seed)).unwrap();
        symlink(&target, dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("link")).unwrap();
        let read = store
            .get(&Path::from("link"))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert!(read == data(20_000, seed), "{seed}");
    }
}

#[tokio::test]
async fn lists_are_those_of_local_file_system() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let local = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    for name in ["a", "b/1", "b/2", "b/c/3", "bb", "d e/4", "f#1/5", "z"] {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), name).unwrap();
    }
    fs::write(dir.path().join("b/1#7"), "a temporary file").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let of = async |store: &dyn ObjectStore| {
        let mut lists = Vec::new();
        for prefix in [
            None,
            Some("b"),
            Some("b/c"),
            Some("missing"),
            Some("a"),
            Some("d e"),
        ] {
            let prefix = prefix.map(Path::from);
            let prefix = prefix.as_ref();
            let mut all: Vec<_> = store.list(prefix).try_collect().await.unwrap();
            all.sort_by(|a, b| a.location.cmp(&b.location));
            lists.push(all);
            for offset in ["a", "b/1", "b/11", "b/c", "bb", "y", "zz"] {
                let after = store.list_with_offset(prefix, &Path::from(offset));
                let mut after: Vec<_> = after.try_collect().await.unwrap();
                after.sort_by(|a, b| a.location.cmp(&b.location));
                lists.push(after);
            }
            let mut level = store.list_with_delimiter(prefix).await.unwrap();
            level.objects.sort_by(|a, b| a.location.cmp(&b.location));
            level.common_prefixes.sort();
            for dir in level.common_prefixes {
                let meta = level.objects.first().cloned();
                lists.push(meta.into_iter().collect());
                assert!(!dir.as_ref().is_empty());
            }
            lists.push(level.objects);
        }
        lists
    };
    let (ours, expected) = (of(&store).await, of(&local).await);
    assert!(expected[0].len() == 8, "{:?}", expected[0]);
    assert_eq!(ours, expected);
}

#[tokio::test]
async fn a_directory_that_can_not_be_read_is_an_error_of_a_list() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    // A name that is too long can't be read by anyone, not even by root.
    let long = Path::from("x".repeat(300));
    let listed: Result<Vec<_>, _> = store.list(Some(&long)).try_collect().await;
    assert!(matches!(listed, Err(Error::Generic { .. })), "{listed:?}");
    let got = store.get(&long).await;
    assert!(matches!(got, Err(Error::Generic { .. })), "{got:?}");
    let put = store.put(&long, "content".into()).await;
    assert!(matches!(put, Err(Error::Generic { .. })), "{put:?}");
    assert!(files_below(dir.path()).is_empty());
}

#[tokio::test]
async fn names_may_have_any_characters_except_those_of_temporary_files() {
    let root = disk_dir();
    let dir = root.path().join("🙀 #1");
    fs::create_dir(&dir).unwrap();
    let store = KaioFileSystem::new_with_prefix(&dir).unwrap();
    for name in [
        "a b",
        "L%3ABC.parquet",
        "💀",
        "-x",
        "foo#123.txt",
        "x=1#12/y",
        "#",
        "a:b",
    ] {
        let location = Path::parse(name).unwrap();
        store.put(&location, data(20_000, 1).into()).await.unwrap();
        assert!(dir.join(name).exists(), "{name}");
        let read = store.get(&location).await.unwrap().bytes().await.unwrap();
        assert!(read == data(20_000, 1), "{name}");
        assert_eq!(listed(&store, None).await, [name]);
        store.delete(&location).await.unwrap();
    }
    let staged = Path::parse("object#123").unwrap();
    fs::write(dir.join("object#123"), "content").unwrap();
    assert!(listed(&store, None).await.is_empty());
    store.get(&staged).await.unwrap_err();
    store.get_ranges(&staged, &[]).await.unwrap_err();
    store.put(&staged, "content".into()).await.unwrap_err();
    store.head(&staged).await.unwrap_err();
    assert!(store.put_multipart(&staged).await.is_err());
}

#[tokio::test]
async fn a_temporary_name_that_is_taken_is_left_alone() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    fs::write(dir.path().join("object#1"), "of another upload").unwrap();
    store
        .put(&Path::from("object"), "content".into())
        .await
        .unwrap();
    assert_eq!(
        fs::read(dir.path().join("object#1")).unwrap(),
        b"of another upload"
    );
    assert_eq!(files_below(dir.path()).len(), 2);
}

#[tokio::test]
async fn directories_and_paths_through_files_are_no_objects() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    for location in ["dir", "missing", "dir/missing", "file/below"] {
        let location = Path::from(location);
        let is_missing = |error: &Error| matches!(error, Error::NotFound { .. });
        assert!(
            is_missing(&store.get(&location).await.unwrap_err()),
            "{location}"
        );
        assert!(
            is_missing(&store.head(&location).await.unwrap_err()),
            "{location}"
        );
        let ranges = store.get_ranges(&location, &[0..1]).await;
        assert!(is_missing(&ranges.unwrap_err()), "{location}");
    }
    store
        .put(&Path::from("dir"), "content".into())
        .await
        .unwrap_err();
    store
        .put(&Path::from("file/below"), "content".into())
        .await
        .unwrap_err();
    assert_eq!(files_below(dir.path()), [std::path::Path::new("file")]);
}

#[tokio::test]
async fn a_pipe_is_left_to_local_file_system() {
    let dir = disk_dir();
    let path = dir.path().join("pipe");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    assert!(listed(&store, None).await.is_empty());
    let location = Path::from("pipe");
    assert_eq!(store.head(&location).await.unwrap().size, 0); // does not open it
    let writer = tokio::task::spawn_blocking(|| fs::OpenOptions::new().write(true).open(path));
    store.get(&location).await.unwrap(); // opens it, and so does the writer
    writer.await.unwrap().unwrap();
    assert_eq!(store.metrics().delegated, 1);
}

#[tokio::test]
async fn an_object_is_copied_to_the_longest_name() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let from = Path::from("object");
    store.put(&from, "content".into()).await.unwrap();
    for len in [230, 245, 253] {
        let to = Path::from("n".repeat(len));
        for _ in 0..2 {
            store.copy(&from, &to).await.unwrap();
            let read = store.get(&to).await.unwrap().bytes().await.unwrap();
            assert_eq!(read, "content");
        }
        store.delete(&to).await.unwrap();
    }
    let too_long = store.copy(&from, &Path::from("n".repeat(256))).await;
    assert!(
        matches!(too_long, Err(Error::Generic { .. })),
        "{too_long:?}"
    );
    assert_eq!(files_below(dir.path()), [std::path::Path::new("object")]);
}

#[tokio::test]
async fn what_is_written_below_a_file_is_not_reported_as_missing() {
    let dir = disk_dir();
    let store = KaioFileSystem::new_with_prefix(dir.path()).unwrap();
    let (file, below) = (Path::from("file"), Path::from("file/below/it"));
    store.put(&file, "content".into()).await.unwrap();
    let errors = [
        store.put(&below, "content".into()).await.map(drop),
        store.put_multipart(&below).await.map(drop),
        store.copy(&file, &below).await,
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::Generic { .. })), "{error:?}");
    }
    let missing = store.get(&below).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
}
