//! Disks that fail: full, limited, broken.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[test]
fn a_write_past_the_file_size_limit_is_efbig_and_affects_no_other() {
    if !in_child!() {
        return;
    }
    // SAFETY: the signal that comes along is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    run(async {
        let dirs = test_dirs();
        for (dir, mode) in dirs
            .iter()
            .flat_map(|dir| modes().map(move |mode| (dir, mode)))
        {
            write_patterned(&dir.path().join("data"), 8);
            set_limit(libc::RLIMIT_FSIZE, 16 * LEN);
            let before = open_resources();
            let (context, handle) = context_in(mode, 32);
            let file = open_rw(dir, "data").await;
            let far = patterned_buffer(1, BLOCK);
            for _wave in 0..3 {
                let past = async {
                    assert_eq!(
                        result_errno(write(&handle, &file, 16, &far).await),
                        Some(libc::EFBIG)
                    );
                };
                let beside = join_all((0..8).map(|i| read_is_served(&handle, &file, i)));
                let after = async {
                    assert_eq!(
                        result_errno(write(&handle, &file, 99, &far).await),
                        Some(libc::EFBIG)
                    );
                };
                futures::future::join3(past, beside, after).await;
            }
            let across = write(&handle, &file, 15, &patterned_buffer(2, 2 * BLOCK)).await;
            assert_eq!(across.unwrap(), LEN, "a write across the limit is short");
            drop(file);
            nothing_is_left(context, handle, 6, before).await;
            set_limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
        }
    });
}

/// Mounts a file system at `at`, visible to this process only. `false`, with a line that says so,
/// if that is not possible.
fn mount(source: &Path, at: &Path, kind: &str, options: &str) -> bool {
    let source = CString::new(source.as_os_str().as_bytes()).unwrap();
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    let [kind_name, options] = [kind, options].map(|text| CString::new(text).unwrap());
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: this thread, and those that it starts from now on, get mounts of their own.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
    let none = std::ptr::null();
    // SAFETY: strings that live through the call; null where it takes none.
    let kept_apart =
        unshared && unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) } == 0;
    let (source, kind_name, options) = (source.as_ptr(), kind_name.as_ptr(), options.as_ptr());
    // SAFETY: as above.
    let mounted = kept_apart
        && unsafe { libc::mount(source, at.as_ptr(), kind_name, 0, options.cast()) } == 0;
    if !mounted {
        eprintln!(
            "skipped: can't mount a small {kind}: {}",
            io::Error::last_os_error()
        );
    }
    mounted
}

/// A mount point in `dir`.
fn mount_point(dir: &TempDir) -> PathBuf {
    let at = dir.path().join("small");
    fs::create_dir(&at).unwrap();
    at
}

/// Unmounts it, so that its directory can be removed.
fn unmount(at: &Path) {
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    // SAFETY: a string that lives through the call.
    assert_eq!(unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) }, 0);
}

#[test]
fn a_full_tmpfs_is_enospc_and_affects_no_other_request() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let small = mount_point(&dir);
    let options = format!("size={}", 16 * BLOCK);
    if mount(Path::new("tmpfs"), &small, "tmpfs", &options) {
        modes().for_each(|mode| run(fills_up(&small, mode)));
        unmount(&small);
    }
}

#[test]
fn a_full_ext4_is_enospc_and_affects_no_other_request() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let path = dir.path().join("backing");
    let backing = fs::File::create_new(&path).unwrap();
    backing.set_len(4 << 20).unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&path)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no mkfs.ext4");
        return;
    }
    let backing = fs::File::options().read(true).write(true).open(&path);
    let Some((device, name)) = loop_device(&backing.unwrap()) else {
        return;
    };
    let small = mount_point(&dir);
    if mount(&name, &small, "ext4", "") {
        modes().for_each(|mode| run(fills_up(&small, mode)));
        unmount(&small);
    }
    drop(device);
}

/// Fills the file system at `small`, and checks that other requests still work.
async fn fills_up(small: &Path, mode: Mode) {
    let before = open_resources();
    let free = || free_blocks(small);
    let free_before = free();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    let file = match options.aio_open(small.join("data"), false).await {
        Ok(file) => file,
        Err(error) => {
            eprintln!("skipped: {} can't do direct I/O: {error}", small.display());
            return;
        }
    };
    let (context, handle) = context_in(mode, 32);
    for i in 0..8 {
        let written = write(&handle, &file, i, &patterned_buffer(i, BLOCK)).await;
        assert_eq!(written.unwrap(), LEN);
    }
    // Large ones until one is short, or there is nothing left at all; then single ones.
    let (mut end, mut failed) = (8, 0);
    for blocks in [64, 1] {
        let rest = buffer(blocks * BLOCK);
        loop {
            let written = match write(&handle, &file, end, &rest).await {
                Ok(written) => written / LEN,
                full => {
                    assert_eq!(result_errno(full), Some(libc::ENOSPC), "{mode:?}");
                    failed += 1;
                    break;
                }
            };
            end += written;
            if written < blocks as u64 {
                break;
            }
        }
    }
    let more = patterned_buffer(5, BLOCK);
    for _wave in 0..3 {
        let full = join_all((0..4).map(async |i| {
            let refused = write(&handle, &file, end + 100 + i, &more).await;
            let text = format!("{refused:?}");
            assert_eq!(result_errno(refused), Some(libc::ENOSPC), "{mode:?}");
            assert!(text.contains("No space left"), "{text}");
        }));
        let beside = join_all((0..8).map(|i| read_is_served(&handle, &file, i)));
        let overwrite = async {
            assert_eq!(write(&handle, &file, 5, &more).await.unwrap(), LEN);
        };
        futures::future::join3(full, beside, overwrite).await;
    }
    // A stream of bytes: the error is that of the next call, and of the last one.
    let so_far = handle.metrics().failed;
    let mut writer = file.writer(&handle).with_offset((end + 200) * LEN + 7);
    let error = loop {
        if let Err(error) = writer.write_all(&[7; 3 * BLOCK]).await {
            break error;
        }
    };
    assert_eq!(
        error.kind(),
        io::ErrorKind::StorageFull,
        "{mode:?}: {error}"
    );
    let error = writer.finish().await.unwrap_err();
    assert_eq!(
        error.kind(),
        io::ErrorKind::StorageFull,
        "{mode:?}: {error}"
    );
    let of_writer = handle.metrics().failed - so_far;
    drop(file);
    fs::remove_file(small.join("data")).unwrap();
    nothing_is_left(context, handle, failed + 12 + of_writer, before).await;
    // The kernel frees the blocks of the file when its own last reference is gone, maybe in the background. Blocks
    // that become free while the next file fills the file system would let its last writes succeed.
    wait_until(|| free() >= free_before, || (free(), free_before)).await;
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// `lo_device` to `lo_sizelimit`.
    places: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    /// Names, key and the rest.
    rest: [u64; 22],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// A loop device over `file`: an open descriptor and its path. It ends with the descriptor. `None`,
/// with a line that says so, if there is none.
fn loop_device(file: &fs::File) -> Option<(fs::File, PathBuf)> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
    const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    let skipped = |why: &dyn std::fmt::Display| eprintln!("skipped: no loop device: {why}");
    if !is_root() {
        skipped(&"needs root");
        return None;
    }
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
    let control = open("/dev/loop-control")
        .map_err(|error| skipped(&error))
        .ok()?;
    // Another process may take the free one first.
    for _attempt in 0..10 {
        // SAFETY: returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        let path = format!("/dev/loop{number}");
        let device = open(&path).map_err(|error| skipped(&error)).ok()?;
        let config = LoopConfig {
            fd: file.as_raw_fd() as u32,
            block_size: 0,
            places: [0; 5],
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_AUTOCLEAR,
            rest: [0; 22],
            reserved: [0; 8],
        };
        // SAFETY: the kernel reads a structure of ours.
        let code =
            unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
        if code == 0 {
            return Some((device, path.into()));
        }
    }
    skipped(&io::Error::last_os_error());
    None
}

#[test]
fn a_device_error_is_eio_and_affects_no_other_request() {
    // The loop device ends with the child process, whatever happens.
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    let path = dir.path().join("backing");
    write_patterned(&path, 64);
    let backing = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let Some((device, name)) = loop_device(&backing) else {
        return;
    };
    for mode in modes() {
        write_patterned(&path, 64);
        run(loses_its_second_half(&backing, &name, mode));
    }
    drop(device);
}

async fn loses_its_second_half(backing: &fs::File, device: &Path, mode: Mode) {
    let before = open_resources();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = options.aio_open(device.into(), false).await.unwrap();
    let (context, handle) = context_in(mode, 64);
    join_all((0..64).map(|i| read_is_served(&handle, &file, i))).await;
    backing.set_len(32 * LEN).unwrap(); // the device loses its second half
    for _wave in 0..3 {
        let requests = (0..64).map(|i| {
            let (handle, file) = (&handle, &file);
            async move {
                if i < 32 {
                    return read_is_served(handle, file, i).await;
                }
                let mut bytes = buffer(BLOCK);
                let lost = read(handle, file, i, &mut bytes).await;
                assert_eq!(result_errno(lost), Some(libc::EIO), "block {i}");
                assert_eq!(bytes.size(), BLOCK, "the buffer is back");
            }
        });
        join_all(requests).await;
        assert_eq!(handle.available_slots(), Some(64));
    }
    // A stream of bytes: what was read before the error comes first.
    let so_far = handle.metrics().failed;
    let reader = file.reader(&handle).with_chunk_size(4 * BLOCK);
    let (mut reader, mut bytes) = (reader.with_depth(3), Vec::new());
    let error = reader.read_to_end(&mut bytes).await.unwrap_err();
    drop(reader);
    let io_error = io::Error::from_raw_os_error(libc::EIO);
    assert_eq!(error.kind(), io_error.kind(), "{error}");
    assert!(error.to_string().contains(&io_error.to_string()), "{error}");
    let blocks = bytes.chunks(BLOCK).enumerate();
    assert_eq!(blocks.len(), 32);
    blocks.for_each(|(block, bytes)| assert!(is_pattern(block as u64, bytes)));
    file.drain(&handle).await;
    let of_reader = handle.metrics().failed - so_far;
    let past = write(&handle, &file, 64, &buffer(BLOCK)).await;
    assert_eq!(
        result_errno(past),
        Some(libc::ENOSPC),
        "past the end of the device"
    );
    assert_eq!(
        read(&handle, &file, 64, &mut buffer(BLOCK)).await.unwrap(),
        0
    );
    drop(file);
    nothing_is_left(context, handle, 3 * 32 + 1 + of_reader, before).await;
}
