//! [`OpenFlags`]: the settings of [`OpenOptions`], read from their `Debug` output.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

/// The settings of [`OpenOptions`], which have no getters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFlags {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    pub(super) truncate: bool,
    pub(super) create: bool,
    pub(super) create_new: bool,
    pub(super) custom: i32,
    mode: u32,
}

impl OpenFlags {
    /// Reads the settings of `options`. `None`: their `Debug` output has another form than that of the standard
    /// library of Rust 1.85 to 1.95.
    ///
    /// That form is not stable, so the result is checked: options that are made with these settings print the
    /// same. That each setting is printed is checked once.
    pub(super) fn of(options: &OpenOptions) -> Option<OpenFlags> {
        static IS_KNOWN_FORM: OnceLock<bool> = OnceLock::new();
        IS_KNOWN_FORM
            .get_or_init(is_known_form)
            .then(|| OpenFlags::parsed(options))?
    }

    fn parsed(options: &OpenOptions) -> Option<OpenFlags> {
        let printed = format!("{options:?}");
        let text_of = |name: &str| Some(printed.split_once(name)?.1);
        let flag = |name: &str| {
            let text = text_of(name)?;
            let (is_on, is_off) = (text.starts_with("true"), text.starts_with("false"));
            (is_on || is_off).then_some(is_on)
        };
        let flags = OpenFlags {
            read: flag(" read: ")?,
            write: flag(" write: ")?,
            append: flag(" append: ")?,
            truncate: flag(" truncate: ")?,
            create: flag(" create: ")?,
            create_new: flag(" create_new: ")?,
            custom: number(text_of(" custom_flags: ")?)?,
            mode: number(text_of(" mode: ")?)?,
        };
        (format!("{:?}", flags.options()) == printed).then_some(flags)
    }

    /// Options with these settings.
    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options
            .read(self.read)
            .write(self.write)
            .append(self.append)
            .truncate(self.truncate)
            .create(self.create)
            .create_new(self.create_new)
            .custom_flags(self.custom)
            .mode(self.mode);
        options
    }

    /// The flags and the mode of `open(2)`, as the standard library passes them. `None`: it refuses the
    /// combination.
    pub(super) fn for_open(&self) -> Option<(i32, u32)> {
        let writes = self.write || self.append;
        let access = match (self.read, writes) {
            (true, false) => libc::O_RDONLY,
            (false, true) => libc::O_WRONLY,
            (true, true) => libc::O_RDWR,
            (false, false) => return None,
        };
        let creates = self.create || self.create_new;
        if (creates || self.truncate) && !writes {
            return None;
        }
        if self.append && self.truncate && !self.create_new {
            return None;
        }
        let mut flags = access | libc::O_CLOEXEC | libc::O_LARGEFILE;
        if self.append {
            flags |= libc::O_APPEND;
        }
        flags |= match (self.create, self.truncate, self.create_new) {
            (_, _, true) => libc::O_CREAT | libc::O_EXCL,
            (true, true, false) => libc::O_CREAT | libc::O_TRUNC,
            (true, false, false) => libc::O_CREAT,
            (false, true, false) => libc::O_TRUNC,
            (false, false, false) => 0,
        };
        Some((flags | self.custom & !libc::O_ACCMODE, self.mode))
    }
}

/// Whether each setting is printed, in the form that [`OpenFlags::parsed`] reads.
fn is_known_form() -> bool {
    let is_read = |flags: OpenFlags| OpenFlags::parsed(&flags.options()) == Some(flags);
    let none = OpenFlags {
        read: false,
        write: false,
        append: false,
        truncate: false,
        create: false,
        create_new: false,
        custom: 0,
        mode: 0,
    };
    let flags = (0..6).map(|flag| OpenFlags {
        read: flag == 0,
        write: flag == 1,
        append: flag == 2,
        truncate: flag == 3,
        create: flag == 4,
        create_new: flag == 5,
        ..none
    });
    let bits = (0..32).flat_map(|bit| {
        let (custom, mode) = (1 << bit, 1 << bit);
        [OpenFlags { custom, ..none }, OpenFlags { mode, ..none }]
    });
    std::iter::once(none).chain(flags).chain(bits).all(is_read)
}

/// The number at the start of `text`, decimal, or octal with the prefix `0o`.
fn number<N: TryFrom<i64>>(text: &str) -> Option<N> {
    let (digits, radix) = match text.strip_prefix("0o") {
        Some(octal) => (octal, 8),
        None => (text, 10),
    };
    let end = digits.find(|c: char| c != '-' && !c.is_ascii_digit())?;
    let number = i64::from_str_radix(&digits[..end], radix).ok()?;
    N::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_are_read() {
        for bits in 0..64_u32 {
            for (custom, mode) in [
                (0, 0o666),
                (libc::O_NOFOLLOW, 0o7123),
                (-1, 0),
                (1, u32::MAX),
            ] {
                let is_set = |index: u32| bits & 1 << index != 0;
                let flags = OpenFlags {
                    read: is_set(0),
                    write: is_set(1),
                    append: is_set(2),
                    truncate: is_set(3),
                    create: is_set(4),
                    create_new: is_set(5),
                    custom,
                    mode,
                };
                assert_eq!(OpenFlags::of(&flags.options()), Some(flags));
            }
        }
    }

    /// The standard library opens with the flags that are found here, and refuses what is refused here.
    #[test]
    #[cfg_attr(miri, ignore)] // reads /proc
    fn flags_are_those_of_the_standard_library() {
        let dir = tempfile::tempdir().unwrap();
        for bits in 0..64_u32 {
            let path = dir.path().join(bits.to_string());
            let is_set = |index: u32| bits & 1 << index != 0;
            let creates_new = is_set(5);
            if !creates_new {
                std::fs::write(&path, b"data").unwrap();
            }
            let mut options = OpenOptions::new();
            options.read(is_set(0)).write(is_set(1)).append(is_set(2));
            options.truncate(is_set(3)).create(is_set(4));
            options.create_new(creates_new).mode(0o640);
            options.custom_flags(libc::O_NOATIME | libc::O_WRONLY);
            let found = OpenFlags::of(&options).unwrap().for_open();
            let opened = options.open(&path);
            let Some((flags, mode)) = found else {
                let error = opened.unwrap_err();
                // Newer ones say why, and have no errno.
                assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::InvalidInput,
                    "{options:?}"
                );
                continue;
            };
            let ours = status_of(&opened.unwrap());
            let len = std::fs::metadata(&path).unwrap().len();
            if creates_new {
                std::fs::remove_file(&path).unwrap();
            } else {
                std::fs::write(&path, b"data").unwrap();
            }
            let path_text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
            #[allow(unsafe_code)]
            // SAFETY: the path ends with a 0.
            let fd = unsafe { libc::open(path_text.as_ptr(), flags, mode) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            #[allow(unsafe_code)]
            // SAFETY: it was just opened.
            let file = unsafe { <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
            assert_eq!(status_of(&file), ours, "{options:?}");
            assert_eq!(file.metadata().unwrap().len(), len, "{options:?}");
        }
    }

    /// The flags of an open file, with `O_CLOEXEC`.
    fn status_of(file: &std::fs::File) -> String {
        let fd = std::os::fd::AsRawFd::as_raw_fd(file);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let flags = info.lines().find(|line| line.starts_with("flags:"));
        flags.unwrap().to_owned()
    }
}
