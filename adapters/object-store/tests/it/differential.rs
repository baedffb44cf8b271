//! The same random calls to the store and to `LocalFileSystem`, each with a directory of its own.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path as FsPath;

use futures::TryStreamExt;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::object_store::local::LocalFileSystem;
use super::object_store::path::Path;
use super::object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RenameOptions, RenameTargetMode,
};
use super::{KaioFileSystem, KaioFileSystemBuilder};
use crate::fixture::{data, files_below, test_dirs};

type Settings = fn(KaioFileSystemBuilder) -> KaioFileSystemBuilder;

/// A call of a store, or a change by another program.
#[derive(Clone, Debug)]
enum Call {
    Put(Path, usize, u64, bool),
    Multipart(Path, Vec<usize>, u64, bool),
    Get(Path, Option<GetRange>, bool),
    Ranges(Path, Vec<Range<u64>>),
    Delete(Path),
    Copy(Path, Path, bool),
    Rename(Path, Path, bool),
    List(Option<Path>),
    ListFrom(Option<Path>, Path),
    ListDirs(Option<Path>),
    Truncate(&'static str, u64),
    Rewrite(&'static str, u64, usize, u64),
    Replace(&'static str, usize, u64),
    MakeDir(&'static str),
    Link(&'static str, &'static str),
    Remove(&'static str),
}

const FILES: [&str; 9] = ["a", "b", "d/x", "d/y", "d/e/z", "a/below", "l", "m/x", "d"];

/// Describes a result, without what differs between stores. Of an error that is its variant.
fn describe(result: &Result<String, Error>) -> String {
    match result {
        Ok(result) => format!("Ok: {result}"),
        Err(error) => format!("{error:?}")
            .split([' ', '('])
            .next()
            .unwrap()
            .into(),
    }
}

/// Whether the documentation of the store announces a difference: a missing permission, as that to link a
/// directory, and reads below a file.
fn is_documented(call: &Call, here: &str, there: &str) -> bool {
    let reads = matches!(call, Call::Get(..) | Call::Ranges(..) | Call::Copy(..));
    match (here, there) {
        ("PermissionDenied", "Generic") => true,
        ("NotFound", "Generic") => reads,
        _ => false,
    }
}

/// Whether a file has the name of a temporary file.
fn is_temporary(path: &FsPath) -> bool {
    let name = path.to_string_lossy();
    let digits = name.rsplit_once('#').map(|(_, digits)| digits);
    digits.is_some_and(|digits| digits.parse::<u64>().is_ok())
}

fn random_call(random: &mut SmallRng) -> Call {
    let long = |random: &mut SmallRng| "n".repeat(random.random_range(230..257));
    let location = |random: &mut SmallRng| match random.random_range(0..40) {
        0 => Path::from(long(random)),
        1 => Path::from("x#1"),
        2 => Path::from("x#"),
        3 => Path::from("x#1a"),
        4 => Path::default(),
        5 => Path::from("odd ü%25?name"),
        _ => Path::from(FILES[random.random_range(0..FILES.len())]),
    };
    let file = |random: &mut SmallRng| FILES[random.random_range(0..FILES.len())];
    let len = |random: &mut SmallRng| match random.random_range(0..6) {
        0 => 0,
        1 => random.random_range(0..20),
        2 => random.random_range(16_000..17_000),
        3 => 4096 * random.random_range(1..30),
        _ => random.random_range(0..200_000),
    };
    let offset = |random: &mut SmallRng| match random.random_range(0..12) {
        0 => u64::MAX - random.random_range(0..2),
        1 => 4096 * random.random_range(0..40),
        2 => 1 << random.random_range(0..63),
        _ => random.random_range(0..120_000),
    };
    let flag = |random: &mut SmallRng| random.random_bool(0.5);
    match random.random_range(0..24) {
        0..3 => Call::Put(location(random), len(random), random.random(), flag(random)),
        3 => {
            let parts = (0..random.random_range(0..5))
                .map(|_| len(random))
                .collect();
            Call::Multipart(
                location(random),
                parts,
                random.random(),
                random.random_bool(0.8),
            )
        }
        4..8 => {
            let range = match random.random_range(0..5) {
                0 => None,
                1 => Some(GetRange::Suffix(offset(random))),
                2 => Some(GetRange::Offset(offset(random))),
                _ => Some(GetRange::Bounded(offset(random)..offset(random))),
            };
            Call::Get(location(random), range, random.random_bool(0.2))
        }
        8..12 => {
            let range = |_| {
                let start = offset(random) % 150_000;
                start..start + random.random_range(1..3000)
            };
            let mut ranges: Vec<_> = (0..3).map(range).collect();
            ranges.truncate(random.random_range(1..4));
            Call::Ranges(location(random), ranges)
        }
        12 => Call::Delete(location(random)),
        13..15 => Call::Copy(location(random), location(random), flag(random)),
        15 => Call::Rename(location(random), location(random), flag(random)),
        16 => Call::List(flag(random).then(|| location(random))),
        17 => match flag(random) {
            true => Call::ListFrom(flag(random).then(|| location(random)), location(random)),
            false => Call::ListDirs(flag(random).then(|| location(random))),
        },
        18 => Call::Truncate(file(random), offset(random) % 200_000),
        19 => Call::Rewrite(
            file(random),
            offset(random) % 100_000,
            len(random),
            random.random(),
        ),
        20 => Call::Replace(file(random), len(random), random.random()),
        21 => Call::MakeDir(file(random)),
        22 => Call::Link(
            ["a", "d", "d/x", "nothing", "l"][random.random_range(0..5)],
            ["l", "m"][random.random_range(0..2)],
        ),
        _ => Call::Remove(file(random)),
    }
}

/// Makes a call. Returns a description of its result, without what differs between directories.
async fn make(call: &Call, store: &dyn ObjectStore, dir: &FsPath) -> Result<String, Error> {
    let hash = |bytes: &[u8]| {
        let mut state = bytes.len() as u64;
        for byte in bytes {
            state = state.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte);
        }
        format!("{} bytes, {state:x}", bytes.len())
    };
    let entry = |meta: super::object_store::ObjectMeta| format!("{} {}", meta.location, meta.size);
    let io =
        |result: std::io::Result<()>| Ok(format!("{:?}", result.map_err(|error| error.kind())));
    let mode = |create: bool| match create {
        true => CopyMode::Create,
        false => CopyMode::Overwrite,
    };
    match call.clone() {
        Call::Put(location, len, seed, create) => {
            let mut options = PutOptions::default();
            if create {
                options.mode = PutMode::Create;
            }
            let content = data(len, seed);
            let payload = content
                .chunks(7001)
                .map(|chunk| chunk.to_vec().into())
                .collect::<Vec<bytes::Bytes>>();
            let put = store
                .put_opts(&location, PutPayload::from_iter(payload), options)
                .await?;
            let head = store.head(&location).await?;
            assert_eq!(put.e_tag, head.e_tag);
            Ok(String::new())
        }
        Call::Multipart(location, parts, seed, complete) => {
            let mut upload = store.put_multipart(&location).await?;
            let parts: Vec<_> = parts
                .iter()
                .map(|len| upload.put_part(data(*len, seed).into()))
                .collect();
            for part in parts.into_iter().rev() {
                part.await?;
            }
            match complete {
                true => drop(upload.complete().await?),
                false => upload.abort().await?,
            }
            Ok(String::new())
        }
        Call::Get(location, range, head) => {
            let options = GetOptions {
                range,
                head,
                ..Default::default()
            };
            let result = store.get_opts(&location, options).await?;
            let (range, size) = (result.range.clone(), result.meta.size);
            let bytes = match head {
                true => String::new(),
                false => hash(&result.bytes().await?),
            };
            Ok(format!("{range:?} of {size}: {bytes}"))
        }
        Call::Ranges(location, ranges) => {
            let read = store.get_ranges(&location, &ranges).await?;
            Ok(read
                .iter()
                .map(|bytes| hash(bytes))
                .collect::<Vec<_>>()
                .join("; "))
        }
        Call::Delete(location) => store.delete(&location).await.map(|()| String::new()),
        Call::Copy(from, to, create) => {
            let options = CopyOptions::new().with_mode(mode(create));
            store
                .copy_opts(&from, &to, options)
                .await
                .map(|()| String::new())
        }
        Call::Rename(from, to, create) => {
            let target = match create {
                true => RenameTargetMode::Create,
                false => RenameTargetMode::Overwrite,
            };
            let options = RenameOptions::new().with_target_mode(target);
            store
                .rename_opts(&from, &to, options)
                .await
                .map(|()| String::new())
        }
        Call::List(prefix) => {
            let list: Vec<_> = store
                .list(prefix.as_ref())
                .map_ok(entry)
                .try_collect()
                .await?;
            let mut list = list;
            list.sort();
            Ok(list.join("; "))
        }
        Call::ListFrom(prefix, offset) => {
            let list = store.list_with_offset(prefix.as_ref(), &offset);
            let mut list: Vec<_> = list.map_ok(entry).try_collect().await?;
            list.sort();
            Ok(list.join("; "))
        }
        Call::ListDirs(prefix) => {
            let result = store.list_with_delimiter(prefix.as_ref()).await?;
            let mut list: Vec<_> = result.objects.into_iter().map(entry).collect();
            list.extend(result.common_prefixes.iter().map(ToString::to_string));
            list.sort();
            Ok(list.join("; "))
        }
        Call::Truncate(name, len) => {
            let file = fs::File::options().write(true).open(dir.join(name));
            io(file.and_then(|file| file.set_len(len)))
        }
        Call::Rewrite(name, at, len, seed) => {
            let file = fs::File::options().write(true).open(dir.join(name));
            io(file.and_then(|file| file.write_all_at(&data(len, seed), at)))
        }
        Call::Replace(name, len, seed) => {
            fs::write(dir.join("new"), data(len, seed)).unwrap();
            let renamed = fs::rename(dir.join("new"), dir.join(name));
            let _ = fs::remove_file(dir.join("new"));
            io(renamed)
        }
        Call::MakeDir(name) => io(fs::create_dir_all(dir.join(name))),
        Call::Link(to, name) => io(symlink(dir.join(to), dir.join(name))),
        Call::Remove(name) => {
            let path = dir.join(name);
            io(fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)))
        }
    }
}

#[tokio::test]
async fn random_calls_have_the_results_of_local_file_system() {
    let settings: [Settings; 4] = [
        |builder| builder,
        |builder| builder.with_cached_reads(false).with_small_object_size(0),
        |builder| {
            let builder = builder.with_cached_reads(false).with_small_object_size(1);
            let builder = builder.with_coalesce_size(5000).with_chunk_size(4096);
            let builder = builder.with_depth(2).with_fsync(true);
            builder.with_direct_upload_size(1)
        },
        |builder| builder.with_automatic_cleanup(true).with_descriptors(1),
    ];
    for seed in 0..12 {
        let mode = seed as usize % settings.len();
        for (own, other) in test_dirs().into_iter().zip(test_dirs()) {
            let builder = KaioFileSystem::builder().with_prefix(own.path());
            let store = settings[mode](builder).build().unwrap();
            let local = LocalFileSystem::new_with_prefix(other.path()).unwrap();
            let local = local.with_automatic_cleanup(mode == 3);
            let mut random = SmallRng::seed_from_u64(seed);
            for step in 0..200 {
                let call = random_call(&mut random);
                let here = make(&call, &store, own.path()).await;
                let there = make(&call, &local, other.path()).await;
                let (is, should) = (describe(&here), describe(&there));
                assert!(
                    is == should || is_documented(&call, &is, &should),
                    "seed {seed}, step {step}: {call:?}\n{here:?}\n{there:?}"
                );
            }
            let left = files_below(own.path());
            assert!(!left.iter().any(|path| is_temporary(path)), "{left:?}");
        }
    }
}
