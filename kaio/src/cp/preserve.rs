//! Modes, owners, times and extended attributes.

use std::ffi::OsString;
use std::fs::{self, FileTimes, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use xattr::FileExt;

/// An extended attribute.
type Attribute = (OsString, Vec<u8>);

/// What a new file or directory is to be like.
#[derive(Debug)]
pub(super) struct Likeness {
    owner: Option<(u32, u32)>,
    mode: u32,
    /// Bits of the mode that count only if it has its owner.
    owners_mode: u32,
    /// Those that a directory got from the one that it is in stay.
    keeps: u32,
    times: Option<FileTimes>,
    attributes: Vec<Attribute>,
    /// An ACL that it has of the directory that it is in goes, unless it is to have one.
    own_acl: bool,
    /// Attributes that can't be set are told.
    tells: bool,
}

/// What a new file has of its directory's default ACL, and a new directory too.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Setuid, setgid and sticky are not given to a copy without being asked for.
const PLAIN: u32 = 0o777;
const SPECIAL: u32 = 0o7000;
const SET_GROUP: u32 = 0o2000;

impl Likeness {
    /// What a copy has of its source without `--preserve`.
    pub(super) fn of_new(source: &Metadata, umask: u32) -> Likeness {
        let most = if source.is_file() || source.is_dir() {
            PLAIN
        } else {
            0o666
        };
        Likeness {
            owner: None,
            mode: source.mode() & most & !umask,
            owners_mode: 0,
            keeps: if source.is_dir() { SET_GROUP } else { 0 },
            times: None,
            attributes: Vec::new(),
            own_acl: false,
            tells: false,
        }
    }

    /// With `--preserve`.
    pub(super) fn preserved(metadata: &Metadata, source: &fs::File) -> io::Result<Likeness> {
        Likeness::like(metadata, attributes(source)?)
    }

    /// With `--preserve`, of what may not be opened.
    pub(super) fn preserved_unopened(path: &Path) -> io::Result<Likeness> {
        Likeness::like(&fs::symlink_metadata(path)?, readable(path))
    }

    fn like(metadata: &Metadata, attributes: Vec<Attribute>) -> io::Result<Likeness> {
        let times = FileTimes::new().set_accessed(metadata.accessed()?);
        Ok(Likeness {
            owner: Some((metadata.uid(), metadata.gid())),
            mode: metadata.mode() & PLAIN,
            owners_mode: metadata.mode() & SPECIAL,
            keeps: 0,
            times: Some(times.set_modified(metadata.modified()?)),
            attributes,
            own_acl: true,
            tells: true,
        })
    }

    /// What was at the target before. Its ACL is part of its mode; capabilities are of the old content.
    pub(super) fn of_replaced(metadata: &Metadata, path: &Path) -> Likeness {
        let mut attributes = readable(path);
        attributes.retain(|(name, _)| name != "security.capability");
        Likeness {
            owner: Some((metadata.uid(), metadata.gid())),
            mode: metadata.mode() & PLAIN,
            owners_mode: 0,
            keeps: 0,
            times: None,
            attributes,
            own_acl: true,
            tells: false,
        }
    }

    /// Gives `file` all that; returns the attributes that it can't have.
    ///
    /// # Errors
    ///
    /// Mode or times can't be set. That the owner can't is no error: who is not root may not give files
    /// away.
    pub(super) fn give(&self, file: &fs::File) -> io::Result<Vec<String>> {
        let mut mode = self.mode;
        let now = file.metadata()?;
        match self.owner {
            Some((user, group)) if (user, group) != (now.uid(), now.gid()) => {
                match fchown(file, Some(user), Some(group)) {
                    Ok(()) => mode |= self.owners_mode,
                    // The group may still be one of ours.
                    Err(_) => _ = fchown(file, None, Some(group)),
                }
            }
            Some(_) => mode |= self.owners_mode,
            None => {}
        }
        if self.own_acl {
            let is_its_own = |acl: &&str| self.attributes.iter().any(|(name, _)| name == acl);
            for acl in ACLS.iter().filter(|acl| !is_its_own(acl)) {
                let _ = file.remove_xattr(acl); // most have none
            }
        }
        // The owner's change takes capabilities away, so attributes are after it.
        let mut lost = Vec::new();
        for (name, value) in &self.attributes {
            let set = file.set_xattr(name, value);
            if set.is_err_and(|error| !is_not_ours(name, &error)) && self.tells {
                lost.push(name.to_string_lossy().into_owned());
            }
        }
        file.set_permissions(Permissions::from_mode(mode | (now.mode() & self.keeps)))?;
        if let Some(times) = self.times {
            file.set_times(times)?;
        }
        Ok(lost)
    }
}

/// Gives a symbolic link the owner and times of another.
pub(super) fn like_symlink(metadata: &Metadata, link: &Path) -> io::Result<()> {
    // As with files: who is not root may not.
    let _ = lchown(link, Some(metadata.uid()), Some(metadata.gid()));
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    Ok(utimensat(CWD, link, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn attributes(file: &impl FileExt) -> io::Result<Vec<Attribute>> {
    let names = match file.list_xattr() {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Vec::new()),
        names => names?,
    };
    let mut attributes = Vec::new();
    for name in names {
        // One that is gone since is none.
        if let Some(value) = file.get_xattr(&name)? {
            attributes.push((name, value));
        }
    }
    Ok(attributes)
}

/// Those that can be read by the name alone: who may not open a file may still ask for its ACL.
fn readable(path: &Path) -> Vec<Attribute> {
    let names = xattr::list(path).into_iter().flatten();
    let value = |name: &OsString| xattr::get(path, name).ok().flatten();
    names
        .filter_map(|name| value(&name).map(|value| (name, value)))
        .collect()
}

/// What only root or the system sets.
fn is_not_ours(name: &OsString, error: &io::Error) -> bool {
    let name = name.as_encoded_bytes();
    error.kind() == ErrorKind::PermissionDenied
        && (name.starts_with(b"trusted.") || name.starts_with(b"security."))
}
