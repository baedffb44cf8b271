//! Opens files of a simulated disk by the options of the standard library.

use std::fs::OpenOptions;
use std::io;

use super::File;
use super::direct::NotDirect;
use super::file_facts::FileFacts;
use super::open_flags::OpenFlags;
use crate::op::OpenFile;
use crate::simulation::{Access, OpenMode, OpenedFile, SimulatedPath};
use crate::{Alignment, AlignmentSource};

/// Opens the file at `path`.
///
/// # Errors
///
/// `Unsupported`: the options can't be read.
pub(super) fn open_simulated(options: &OpenOptions, path: &SimulatedPath) -> io::Result<File> {
    let flags = read_flags(options)?;
    let access = access(&flags)?;
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

/// Reads the settings of `options`.
///
/// # Errors
///
/// `Unsupported`: they can't be read.
fn read_flags(options: &OpenOptions) -> io::Result<OpenFlags> {
    OpenFlags::of(options).ok_or_else(|| {
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
fn access(flags: &OpenFlags) -> io::Result<Access> {
    let writes = flags.write || flags.append;
    let makes = flags.truncate || flags.create || flags.create_new;
    let is_refused =
        (makes || !flags.read) && !writes || flags.append && flags.truncate && !flags.create_new;
    if is_refused {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(Access {
        read: flags.read,
        write: writes,
        append: flags.append,
        dsync: flags.custom & (libc::O_SYNC | libc::O_DSYNC) != 0,
        sync: flags.custom & libc::O_SYNC == libc::O_SYNC,
        direct: true,
    })
}
