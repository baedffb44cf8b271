//! Errors in functions that return `io::Result`.

use std::error::Error;
use std::io::ErrorKind;

use super::*;

/// The source of `error`, whose text and source the `io::Error` has.
fn within_it<E: Error + Send + Sync + 'static>(error: io::Error) -> E {
    let text = error.to_string();
    let source = error.source().map(ToString::to_string);
    let original = error.downcast::<E>().unwrap();
    assert_eq!(original.to_string(), text);
    assert_eq!(original.source().map(ToString::to_string), source);
    original
}

async fn first_block(path: &Path, offset: u64) -> io::Result<LockedBuf> {
    let (context, handle) = aio_context(2, true)?;
    let mut buffer = LockedBuf::with_size(BLOCK)?;
    let file = File::open(path, false).await?;
    let read = file.read_exact_at(&handle, offset, &mut buffer, LEN, ReadFlags::empty());
    read.await?;
    context.close().await;
    Ok(buffer)
}

#[tokio::test]
async fn every_error_converts_to_an_io_error_with_a_question_mark() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    write_patterned(&path, 1);
    let block = with_hang_guard(first_block(&path, 0)).await.unwrap();
    assert!(is_pattern(0, &block));

    let end = with_hang_guard(first_block(&path, LEN)).await.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
    assert!(matches!(
        within_it(end),
        AioCommandError::BadResult(within) if within.kind() == ErrorKind::UnexpectedEof
    ));
    let beyond = with_hang_guard(first_block(&path, 1 << 63))
        .await
        .unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::InvalidInput);
    let beyond: AioCommandError = within_it(beyond);
    assert_eq!(beyond.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn an_exact_read_says_where_the_file_ends_as_far_as_it_knows() {
    Fixture::new(2).everywhere().blocks(2).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut bytes = buffer(2 * BLOCK);
        for (offset, expected) in [
            (
                LEN,
                "the file ends at offset 8192, after 4096 bytes of the 8192 requested",
            ),
            (
                2 * LEN,
                "the file ends at or before offset 8192, where 8192 bytes were requested",
            ),
            (
                9 * LEN,
                "the file ends at or before offset 36864, where 8192 bytes were requested",
            ),
        ] {
            let flags = ReadFlags::empty();
            let read = file.read_exact_at(&handle, offset, &mut bytes, 2 * LEN, flags);
            let error = read.await.unwrap_err();
            assert!(error.is_unexpected_eof());
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert!(error.to_string().ends_with(expected), "{error}");
        }
    });
}

#[tokio::test]
async fn an_error_has_the_kind_of_the_io_error_that_it_converts_to() {
    let io = || io::Error::from_raw_os_error(libc::ENOSPC);
    for (error, kind) in [
        (AioCommandError::IoSubmit(io()), ErrorKind::StorageFull),
        (AioCommandError::BadResult(io()), ErrorKind::StorageFull),
        (AioCommandError::TimedOut, ErrorKind::TimedOut),
        (AioCommandError::CapacityExceeded, ErrorKind::WouldBlock),
        (AioCommandError::AioStopped, ErrorKind::Other),
        (AioCommandError::NonZeroCode, ErrorKind::Other),
    ] {
        assert_eq!(error.kind(), kind);
        assert!(!error.is_unexpected_eof());
        assert_eq!(io::Error::from(error).kind(), kind);
    }
}

#[tokio::test]
async fn a_missing_file_names_its_path_in_every_way_to_open() {
    let dir = disk_dir();
    let (missing, below_a_file) = (dir.path().join("missing"), dir.path().join("data/below"));
    std::fs::write(dir.path().join("data"), b"").unwrap();
    let options = std::fs::OpenOptions::new().read(true).clone();
    for (path, errno) in [(missing, libc::ENOENT), (below_a_file, libc::ENOTDIR)] {
        let kind = io::Error::from_raw_os_error(errno).kind();
        let opened = [
            File::open(&path, false).await,
            File::open_with(&options, &path, true).await,
            options.clone().aio_open(path.clone(), false).await,
            options
                .clone()
                .aio_open_or_buffered(path.clone(), false)
                .await,
            File::create(path.join("below"), false).await,
            File::open_blocking(&path, false),
            options.clone().aio_open_blocking(&path, false),
            options.clone().aio_open_or_buffered_blocking(&path, true),
            File::create_blocking(path.join("below"), false),
        ];
        for opened in opened {
            let error = opened.unwrap_err();
            assert_eq!(error.kind(), kind);
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert!(text.contains(&format!("os error {errno}")), "{text}");
        }
    }
}

#[test]
fn the_debug_form_of_a_misalignment_error_has_no_address() {
    Fixture::new(2).blocks(1).run(async |case| {
        let mut bytes = buffer(2 * BLOCK);
        let address = bytes.as_ptr().addr();
        let read = case
            .file
            .read_at(&case.handle, 1, &mut bytes, LEN, ReadFlags::empty());
        let error = format!("{:?}", read.await.unwrap_err());
        if wanted_alignment(&case.file).is_some() {
            assert!(error.contains("Misaligned"), "{error}");
        }
        assert!(!error.contains(&address.to_string()), "{error}");
    });
}

#[test]
fn a_misalignment_error_keeps_its_explanation_and_errno_as_an_io_error() {
    Fixture::new(2).blocks(1).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let mut bytes = buffer(BLOCK);
        let read = file.read_at(&handle, 1, &mut bytes, LEN, ReadFlags::empty());
        let error = io::Error::from(read.await.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        if wanted_alignment(&file).is_some() {
            assert!(error.to_string().contains("multiples of"), "{error}");
        }
        let original: AioCommandError = within_it(error);
        assert_eq!(original.raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
fn an_operations_io_error_has_the_kind_of_its_source_or_a_fitting_one() {
    let os = io::Error::from_raw_os_error;
    for (error, kind, errno) in [
        (
            AioCommandError::IoSubmit(os(libc::EPERM)),
            ErrorKind::PermissionDenied,
            Some(libc::EPERM),
        ),
        (
            AioCommandError::BadResult(os(libc::ENOSPC)),
            ErrorKind::StorageFull,
            Some(libc::ENOSPC),
        ),
        (AioCommandError::TimedOut, ErrorKind::TimedOut, None),
        (
            AioCommandError::CapacityExceeded,
            ErrorKind::WouldBlock,
            None,
        ),
        (AioCommandError::AioStopped, ErrorKind::Other, None),
        (AioCommandError::NonZeroCode, ErrorKind::Other, None),
    ] {
        let error = io::Error::from(error);
        assert_eq!(error.kind(), kind, "{error}");
        let original: AioCommandError = within_it(error);
        assert_eq!(original.raw_os_error(), errno, "{original}");
    }
}

#[tokio::test]
async fn setup_errors_keep_the_kernels_error_kind() {
    let context = io::Error::from(aio_context(0, true).map(drop).unwrap_err());
    assert_eq!(context.kind(), ErrorKind::InvalidInput);
    assert!(matches!(within_it(context), AioContextError::IoSetup(_)));

    let buffer = io::Error::from(LockedBuf::new(1 << 60).unwrap_err());
    assert_eq!(buffer.kind(), ErrorKind::OutOfMemory);
    assert!(matches!(within_it(buffer), LockedBufError::MapAnon(_)));

    let too_many = || EventFd::new(usize::MAX, false).unwrap_err();
    let counter = io::Error::from(too_many());
    assert_eq!(counter.kind(), ErrorKind::InvalidInput);
    assert!(matches!(within_it(counter), EventFdError::CreateError(_)));
    let of_context = io::Error::from(AioContextError::from(too_many()));
    assert_eq!(of_context.kind(), ErrorKind::InvalidInput);
    assert!(matches!(within_it(of_context), AioContextError::EventFd(_)));
}
