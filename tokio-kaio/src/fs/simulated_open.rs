//! Opens files of a simulated disk by the options of the standard library.

use std::fs::OpenOptions;
use std::io;

use super::File;
use super::direct::NotDirect;
use super::file_facts::FileFacts;
use super::open_options::custom_flags;
use crate::op::OpenFile;
use crate::simulation::{Access, OpenMode, OpenedFile, SimulatedPath};
use crate::{Alignment, AlignmentSource};

/// Opens the file at `path`.
///
/// # Errors
///
/// `Unsupported`: the options can't be read.
pub(super) fn open_simulated(options: &OpenOptions, path: &SimulatedPath) -> io::Result<File> {
    let flags = OpenFlags::of(options)?;
    let access = flags.access()?;
    let is_dir = path.is_dir()?;
    if flags.custom & libc::O_TMPFILE == libc::O_TMPFILE {
        return file_of(path.open_unnamed(access)?);
    }
    if is_dir == Some(true) && !flags.create_new {
        return Err(match access.write || flags.create {
            true => io::Error::from_raw_os_error(libc::EISDIR),
            false => NotDirect::FileType.into_error(path.to_path_buf()),
        });
    }
    let opened = path.open(
        OpenMode {
            read: access.read,
            write: access.write,
            create: flags.create,
            create_new: flags.create_new,
            truncate: flags.truncate,
            directory: flags.custom & libc::O_DIRECTORY != 0,
        },
        access,
    );
    file_of(opened?)
}

/// Makes the [`File`] of an open file.
pub(super) fn file_of(opened: OpenedFile) -> io::Result<File> {
    let access = opened.simulated.access();
    let mut flags = match (access.read, access.write) {
        (_, false) => libc::O_RDONLY,
        (false, true) => libc::O_WRONLY,
        (true, true) => libc::O_RDWR,
    };
    flags |= libc::O_DIRECT;
    if access.append {
        flags |= libc::O_APPEND;
    }
    let sector = opened.simulated.sector();
    let facts = FileFacts {
        metadata: opened.placeholder.metadata()?,
        flags,
        alignment: Some(Alignment::of(sector, AlignmentSource::BlockDevice)),
    };
    Ok(File::of_open_file(OpenFile::on_disk(opened), facts))
}

/// The flags of [`OpenOptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenFlags {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    custom: i32,
}

type Setter = fn(&mut OpenOptions, bool) -> &mut OpenOptions;

impl OpenFlags {
    /// Reads the flags of `options` from their `Debug` output, the only place that has them.
    fn of(options: &OpenOptions) -> io::Result<OpenFlags> {
        let flags = || {
            Some(OpenFlags {
                read: flag(options, "read", OpenOptions::read)?,
                write: flag(options, "write", OpenOptions::write)?,
                append: flag(options, "append", OpenOptions::append)?,
                truncate: flag(options, "truncate", OpenOptions::truncate)?,
                create: flag(options, "create", OpenOptions::create)?,
                create_new: flag(options, "create_new", OpenOptions::create_new)?,
                custom: custom_flags(options)?,
            })
        };
        flags().ok_or_else(|| {
            let text = "these OpenOptions can't be read, as a simulated disk has to: their Debug output has \
                        another form than that of the standard library of Rust 1.85 to 1.95";
            io::Error::new(io::ErrorKind::Unsupported, text)
        })
    }

    /// Returns how the file is accessed.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the combination is one that the standard library refuses.
    fn access(self) -> io::Result<Access> {
        let writes = self.write || self.append;
        let makes = self.truncate || self.create || self.create_new;
        let is_refused =
            (makes || !self.read) && !writes || self.append && self.truncate && !self.create_new;
        if is_refused {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Access {
            read: self.read,
            write: writes,
            append: self.append,
            dsync: self.custom & (libc::O_SYNC | libc::O_DSYNC) != 0,
            sync: self.custom & libc::O_SYNC == libc::O_SYNC,
            direct: true,
        })
    }
}

/// Reads one flag. `None`: it can't be read.
fn flag(options: &OpenOptions, name: &str, set: Setter) -> Option<bool> {
    let print_with = |value| format!("{:?}", set(&mut options.clone(), value));
    let printed = format!("{options:?}");
    let (on, off) = (print_with(true), print_with(false));
    let shows = |text: &str, value: bool| text.contains(&format!("{name}: {value}"));
    if on == off || !shows(&on, true) || !shows(&off, false) {
        return None;
    }
    match (printed == on, printed == off) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    type Getter = fn(&OpenFlags) -> bool;

    #[test]
    fn all_flags_of_open_options_are_read() {
        let setters: [(Setter, Getter); 6] = [
            (OpenOptions::read, |flags| flags.read),
            (OpenOptions::write, |flags| flags.write),
            (OpenOptions::append, |flags| flags.append),
            (OpenOptions::truncate, |flags| flags.truncate),
            (OpenOptions::create, |flags| flags.create),
            (OpenOptions::create_new, |flags| flags.create_new),
        ];
        for bits in 0..64_u32 {
            let is_set = |index: usize| bits & 1 << index != 0;
            let mut options = OpenOptions::new();
            options.mode(0o600).custom_flags(libc::O_SYNC);
            for (index, (set, _)) in setters.iter().enumerate() {
                set(&mut options, is_set(index));
            }
            let flags = OpenFlags::of(&options).unwrap();
            for (index, (_, get)) in setters.iter().enumerate() {
                assert_eq!(get(&flags), is_set(index), "{options:?}");
            }
            assert_eq!(flags.custom, libc::O_SYNC);
        }
    }
}
