//! [`copy`]: a second name for the file of an object, which replaces another object.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use crate::blocking_call::run_blocking;
use crate::parent_dirs::{create_parent_dirs, sync_dir};
use crate::store_fault::StoreFault;

/// How often the directory of the copy is created again, if other calls remove it meanwhile because it is
/// empty.
const ATTEMPTS: usize = 100;

/// Links the file `from` to `to`, and replaces what is there. Makes the directories of `to`, if they are missing.
///
/// Not by `LocalFileSystem`: its temporary name stays if `to` is a link to the same file already, because
/// `rename(2)` does nothing then.
///
/// # Cancel safety
///
/// The copy is there, or not; no temporary name stays.
pub(crate) async fn copy(from: PathBuf, to: PathBuf, sync: bool) -> Result<(), StoreFault> {
    run_blocking(move || copy_blocking(&from, &to, sync)).await
}

fn copy_blocking(from: &Path, to: &Path, sync: bool) -> Result<(), StoreFault> {
    // At random, so that the name is no other call's. Lists hide names that end in a number.
    let random = || RandomState::new().hash_one(());
    let mut number = random();
    let staged_name = |number: u64| {
        let mut staged = to.as_os_str().to_owned();
        staged.push(format!("#{number}"));
        PathBuf::from(staged)
    };
    let mut staged = staged_name(number);
    let mut attempts = 0;
    loop {
        match fs::hard_link(from, &staged) {
            Ok(()) => break,
            // A long name leaves room for a few digits only.
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) && number >= 10 => {
                number /= 10;
                staged = staged_name(number);
            }
            // The short name is that of another call.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < ATTEMPTS => {
                attempts += 1;
                number = random();
                staged = staged_name(number);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {
                if !from.exists() {
                    return Err(StoreFault::of("copy", from, error));
                }
                attempts += 1;
                create_parent_dirs(to, sync)?;
            }
            Err(error) if from.exists() => {
                return Err(StoreFault::of_new("copy an object to", to, error));
            }
            Err(error) => return Err(StoreFault::of("copy", from, error)),
        }
    }
    let renamed = fs::rename(&staged, to);
    // It is still there if the rename has failed, or has found that both are the same file.
    let _ = fs::remove_file(&staged);
    renamed.map_err(|error| StoreFault::of("replace", to, error))?;
    match to.parent() {
        Some(parent) if sync => sync_dir(parent),
        _ => Ok(()),
    }
}
