//! [`FileAttributes`]: modes, owners, times and extended attributes.

use std::ffi::OsString;
use std::fs::{self, FileTimes, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use xattr::FileExt;

/// An extended attribute.
type Attribute = (OsString, Vec<u8>);

/// The attributes that a new file or directory gets.
#[derive(Debug)]
pub(super) struct FileAttributes {
    owner: Option<(u32, u32)>,
    mode: u32,
    /// Mode bits that are set only if the owner could be set.
    owner_mode: u32,
    /// Mode bits that a new directory keeps from its parent.
    inherited: u32,
    times: Option<FileTimes>,
    attributes: Vec<Attribute>,
    /// Removes the ACL that the file has inherited from its directory, unless it gets one.
    replaces_acl: bool,
    /// Reports attributes that can't be set.
    reports_lost: bool,
}

/// The attributes that files and directories inherit through a default ACL.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// The permission bits, without setuid, setgid and sticky, which are copied only with `--preserve`.
const PLAIN: u32 = 0o777;
const SPECIAL: u32 = 0o7000;
const SET_GROUP: u32 = 0o2000;

impl FileAttributes {
    /// The attributes of the copy of a file. With `preserve`, these are those of the source. A file that is
    /// `replaced`, at `path`, passes its own on.
    ///
    /// # Errors
    ///
    /// The extended attributes of the source can't be read.
    pub(super) fn of_copy(
        (metadata, source): (&Metadata, &impl FileExt),
        replaced: Option<&Metadata>,
        path: &Path,
        preserve: bool,
        umask: u32,
    ) -> io::Result<FileAttributes> {
        match replaced {
            _ if preserve => FileAttributes::preserved(metadata, source),
            Some(replaced) => Ok(FileAttributes::for_replaced(replaced, path)),
            None => Ok(FileAttributes::for_new(metadata, umask)),
        }
    }

    /// The attributes of a copy without `--preserve`.
    pub(super) fn for_new(source: &Metadata, umask: u32) -> FileAttributes {
        let most = if source.is_file() || source.is_dir() {
            PLAIN
        } else {
            0o666
        };
        FileAttributes {
            owner: None,
            mode: source.mode() & most & !umask,
            owner_mode: 0,
            inherited: if source.is_dir() { SET_GROUP } else { 0 },
            times: None,
            attributes: Vec::new(),
            replaces_acl: false,
            reports_lost: false,
        }
    }

    /// The attributes of a copy of a pipe, which has none itself.
    pub(super) fn for_content(umask: u32) -> FileAttributes {
        FileAttributes {
            owner: None,
            mode: 0o666 & !umask,
            owner_mode: 0,
            inherited: 0,
            times: None,
            attributes: Vec::new(),
            replaces_acl: false,
            reports_lost: false,
        }
    }

    /// The attributes of a copy with `--preserve`.
    pub(super) fn preserved(
        metadata: &Metadata,
        source: &impl FileExt,
    ) -> io::Result<FileAttributes> {
        FileAttributes::all_of(metadata, attributes(source)?)
    }

    /// The attributes of a copy with `--preserve`, if the source can't be opened.
    pub(super) fn preserved_unopened(path: &Path) -> io::Result<FileAttributes> {
        FileAttributes::all_of(&fs::symlink_metadata(path)?, readable(path))
    }

    fn all_of(metadata: &Metadata, attributes: Vec<Attribute>) -> io::Result<FileAttributes> {
        let times = FileTimes::new().set_accessed(metadata.accessed()?);
        Ok(FileAttributes {
            owner: Some((metadata.uid(), metadata.gid())),
            mode: metadata.mode() & PLAIN,
            owner_mode: metadata.mode() & SPECIAL,
            inherited: 0,
            times: Some(times.set_modified(metadata.modified()?)),
            attributes,
            replaces_acl: true,
            reports_lost: true,
        })
    }

    /// The attributes of the file that the copy replaces, with its ACL. Capabilities are left out, because
    /// they were granted to the old content.
    pub(super) fn for_replaced(metadata: &Metadata, path: &Path) -> FileAttributes {
        let mut attributes = readable(path);
        attributes.retain(|(name, _)| name != "security.capability");
        FileAttributes {
            owner: Some((metadata.uid(), metadata.gid())),
            mode: metadata.mode() & PLAIN,
            owner_mode: 0,
            inherited: 0,
            times: None,
            attributes,
            replaces_acl: true,
            reports_lost: false,
        }
    }

    /// Sets the attributes on `file`, and returns the extended attributes that could not be set.
    ///
    /// # Errors
    ///
    /// Mode or times can't be set. A failure to set the owner is ignored: only root can give files away.
    pub(super) fn apply(&self, file: &fs::File) -> io::Result<Vec<String>> {
        let mut mode = self.mode;
        if self.owner.is_some() || self.inherited != 0 {
            let now = file.metadata()?;
            mode |= now.mode() & self.inherited;
            if self.set_owner(file, &now) {
                mode |= self.owner_mode;
            }
        }
        if self.replaces_acl {
            let is_set = |acl: &&str| self.attributes.iter().any(|(name, _)| name == acl);
            for acl in ACLS.iter().filter(|acl| !is_set(acl)) {
                let _ = file.remove_xattr(acl); // most files have none
            }
        }
        // A change of the owner removes capabilities, so extended attributes are set after it.
        let mut lost = Vec::new();
        for (name, value) in &self.attributes {
            let set = file.set_xattr(name, value);
            if set.is_err_and(|error| !is_privileged(name, &error)) && self.reports_lost {
                lost.push(name.to_string_lossy().into_owned());
            }
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        if let Some(times) = self.times {
            file.set_times(times)?;
        }
        Ok(lost)
    }

    /// Sets the owner, and returns whether the file has it.
    fn set_owner(&self, file: &fs::File, now: &Metadata) -> bool {
        match self.owner {
            Some((user, group)) if (user, group) != (now.uid(), now.gid()) => {
                let is_set = fchown(file, Some(user), Some(group)).is_ok();
                if !is_set {
                    // The user may be a member of the group.
                    let _ = fchown(file, None, Some(group));
                }
                is_set
            }
            Some(_) => true,
            None => false,
        }
    }
}

/// Sets owner and times of a symbolic link.
pub(super) fn copy_symlink_attributes(metadata: &Metadata, link: &Path) -> io::Result<()> {
    // Fails without root, as for files.
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
        // `None`: it was removed meanwhile.
        if let Some(value) = file.get_xattr(&name)? {
            attributes.push((name, value));
        }
    }
    Ok(attributes)
}

/// The extended attributes that can be read by path, without opening the file.
fn readable(path: &Path) -> Vec<Attribute> {
    let names = xattr::list(path).into_iter().flatten();
    let value = |name: &OsString| xattr::get(path, name).ok().flatten();
    names
        .filter_map(|name| value(&name).map(|value| (name, value)))
        .collect()
}

/// Whether only root or the system may set the attribute.
fn is_privileged(name: &OsString, error: &io::Error) -> bool {
    let name = name.as_encoded_bytes();
    error.kind() == ErrorKind::PermissionDenied
        && (name.starts_with(b"trusted.") || name.starts_with(b"security."))
}
