//! The public surface as types: names, call shapes, and what is `Send`, `Sync`, `Clone`, `Debug`.
//!
//! The functions are written as code for `linux-aio-tokio` 0.4 has them; that they compile is most
//! of the test.
#![allow(clippy::unnecessary_mut_passed)] // as existing code has it

use std::fmt::Debug;
use std::fs::{Metadata, OpenOptions, Permissions};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{locked_buffer as buffer, *};
use futures::Stream;
use intrusive_collections::linked_list::{Link, LinkedListOps};
use intrusive_collections::{Adapter, DefaultLinkOps, DefaultPointerOps};
use lock_api::RawMutex;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextError, AioContextHandle, AioOpenOptionsExt, AtomicLink,
    EventFd, File, GenericAioContext, GenericAioContextHandle, IntrusiveAdapter, LocalAioContext,
    LocalAioContextHandle, LocalRequestAdapter, LockedBuf, LockedBufError, NoopLock, PublishError,
    RawCommand, ReadFlags, Request, StagedFile, StagedFileBuilder, SyncRequestAdapter, WriteFlags,
    aio_context, generic_aio_context, local_aio_context,
};

/// Does not compile if the type has the trait: then both implementations fit.
macro_rules! assert_not {
    ($type:ty: $bound:path) => {
        const _: () = {
            struct Has;
            trait Either<T> {
                fn which() {}
            }
            impl<T: ?Sized> Either<()> for T {}
            impl<T: ?Sized + $bound> Either<Has> for T {}
            let _ = <$type as Either<_>>::which;
        };
    };
}

assert_not!(LocalAioContext: Send);
assert_not!(LocalAioContext: Sync);
assert_not!(LocalAioContextHandle: Send);
assert_not!(LocalAioContextHandle: Sync);
assert_not!(NoopLock: Send);
assert_not!(NoopLock: Sync);
assert_not!(AioContext: Clone);
assert_not!(LockedBuf: Clone);
assert_not!(EventFd: Clone);

/// Whether the type of a value, which may have no name, is `Send`.
struct Probe<'a, T>(&'a T);

trait NotSend {
    fn is_send(&self) -> bool {
        false
    }
}

impl<T> NotSend for Probe<'_, T> {}

impl<T: Send> Probe<'_, T> {
    /// Takes precedence over the trait's method if it applies.
    fn is_send(&self) -> bool {
        let Probe(_value) = self;
        true
    }
}

fn send_sync<T: Send + Sync + Debug + 'static>() {}
fn errors<T: std::error::Error + Send + Sync + 'static>() {}
fn send<F: Future + Send>(future: F) -> F {
    future
}

#[test]
fn the_shareable_types_are_send_and_sync() {
    send_sync::<AioContext>();
    send_sync::<AioContextHandle>();
    send_sync::<File>();
    send_sync::<StagedFile>();
    send_sync::<StagedFileBuilder>();
    send_sync::<LockedBuf>();
    send_sync::<EventFd>();
    send_sync::<ReadFlags>();
    send_sync::<WriteFlags>();
    send_sync::<RawCommand<'static>>();
    errors::<AioCommandError>();
    errors::<AioContextError>();
    errors::<LockedBufError>();
    errors::<PublishError>();
}

#[tokio::test]
async fn the_futures_of_an_aio_context_are_send() {
    let dir = disk_dir();
    let (context, handle) = aio_context(4, true).unwrap();
    let file = open_rw(&dir, "data").await;
    let mut read_to = buffer(BLOCK);
    let write_from = buffer(BLOCK);
    let len = BLOCK as u64;
    send(file.write_at(&handle, 0, &write_from, len, WriteFlags::empty()))
        .await
        .unwrap();
    send(file.read_at(&handle, 0, &mut read_to, len, ReadFlags::empty()))
        .await
        .unwrap();
    send(file.sync_all(&handle)).await.unwrap();
    send(file.sync_data(&handle)).await.unwrap();
    send(handle.submit_request(&file, RawCommand::Fsync))
        .await
        .unwrap();
    send(file.metadata()).await.unwrap();
    send(File::open(dir.path().join("data"), false))
        .await
        .unwrap();
    send(
        OpenOptions::new()
            .read(true)
            .clone()
            .aio_open(dir.path().join("data"), false),
    )
    .await
    .unwrap();
    send(context.close()).await;
}

#[tokio::test]
async fn the_futures_of_a_local_context_are_not_send() {
    let dir = disk_dir();
    let (context, handle, background) = local_aio_context(4, true).unwrap();
    let file = open_rw(&dir, "data").await;
    let mut target = buffer(BLOCK);
    assert!(!Probe(&background).is_send());
    {
        let read = file.read_at(&handle, 0, &mut target, BLOCK as u64, ReadFlags::empty());
        assert!(!Probe(&read).is_send());
    }
    assert!(!Probe(&handle.submit_request(&file, RawCommand::Fdsync)).is_send());
    assert!(Probe(&target).is_send(), "the probe tells the two apart");
    drop(context);
    background.await.unwrap();
}

#[test]
fn the_aliases_are_the_generic_types_over_their_parts() {
    fn same<T>(_: fn(T) -> T) {}
    same::<AioContext>(
        |it: GenericAioContext<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>| it,
    );
    same::<AioContextHandle>(
        |it: GenericAioContextHandle<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>| it,
    );
    same::<LocalAioContext>(|it: GenericAioContext<NoopLock, LocalRequestAdapter, Link>| it);
    same::<LocalAioContextHandle>(
        |it: GenericAioContextHandle<NoopLock, LocalRequestAdapter, Link>| it,
    );
}

#[test]
fn the_type_parameters_of_a_context_can_be_named_and_made() {
    fn part<M, A, L>() -> A
    where
        M: RawMutex,
        A: IntrusiveAdapter<M, L> + Adapter<PointerOps = DefaultPointerOps<Box<Request<M, L>>>>,
        L: DefaultLinkOps + Default,
    {
        A::new()
    }
    let _: SyncRequestAdapter = part::<parking_lot::RawMutex, _, AtomicLink>();
    let _: LocalRequestAdapter = part::<NoopLock, _, Link>();
    let link = AtomicLink::new();
    assert!(!link.is_linked());
    assert!(!AtomicLink::default().is_linked());
}

#[test]
fn a_noop_lock_can_not_be_taken_twice() {
    let lock = lock_api::Mutex::<NoopLock, u8>::new(1);
    let guard = lock.lock();
    assert!(lock.try_lock().is_none());
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(lock.lock())));
    assert!(again.is_err(), "waiting for oneself would never end");
    drop(guard);
    assert_eq!(lock.try_lock().map(|it| *it), Some(1));
}

#[test]
fn flags_are_bitflags_over_isize_with_the_kernel_s_values() {
    let reads: [(ReadFlags, isize); 2] = [(ReadFlags::HIPRI, 1), (ReadFlags::NOWAIT, 8)];
    let writes: [(WriteFlags, isize); 5] = [
        (WriteFlags::HIPRI, 1),
        (WriteFlags::DSYNC, 2),
        (WriteFlags::SYNC, 4),
        (WriteFlags::NOWAIT, 8),
        (WriteFlags::APPEND, 16),
    ];
    for (flag, bits) in reads {
        assert_eq!(flag.bits(), bits);
        assert_eq!(ReadFlags::from_bits(bits), Some(flag));
    }
    for (flag, bits) in writes {
        assert_eq!(flag.bits(), bits);
        assert_eq!(WriteFlags::from_bits(bits), Some(flag));
    }
    let both = WriteFlags::APPEND | WriteFlags::DSYNC;
    assert!(both.contains(WriteFlags::DSYNC) && !both.contains(WriteFlags::SYNC));
    assert!(ReadFlags::empty().is_empty());
}

#[tokio::test]
async fn the_debug_output_of_every_type_names_it() {
    let (context, handle) = aio_context(3, true).unwrap();
    assert!(format!("{context:?}").starts_with("AioContext"));
    assert!(format!("{handle:?}").starts_with("AioContextHandle"));
    let mut target = buffer(BLOCK);
    assert!(format!("{target:?}").contains("4096"));
    let command = RawCommand::Pread {
        offset: 77,
        buffer: &mut target,
        flags: ReadFlags::NOWAIT,
        len: 512,
    };
    let text = format!("{command:?}");
    assert!(
        text.contains("Pread") && text.contains("77") && text.contains("NOWAIT"),
        "{text}"
    );
    let counter = EventFd::new(0, false).unwrap();
    assert!(format!("{counter:?}").starts_with("EventFd"));
    context.close().await;
}

/// A user's type that works with every context.
struct Store<M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
    A::LinkOps: LinkedListOps + Default,
{
    handle: GenericAioContextHandle<M, A, L>,
    file: Arc<File>,
}

impl<M, A, L> Store<M, A, L>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
    A::LinkOps: LinkedListOps + Default,
{
    async fn put(&self, block: u64, bytes: &mut LockedBuf) -> Result<u64, AioCommandError> {
        let (offset, len) = (block * BLOCK as u64, bytes.size() as u64);
        // A `&mut` where `&` suffices, as in existing code.
        self.file
            .write_at(&self.handle, offset, bytes, len, WriteFlags::DSYNC)
            .await
    }

    async fn get(&self, block: u64, bytes: &mut LockedBuf) -> Result<u64, AioCommandError> {
        let (offset, len) = (block * BLOCK as u64, bytes.size() as u64);
        self.file
            .read_at(&self.handle, offset, bytes, len, ReadFlags::empty())
            .await
    }
}

/// A user's generic function, with the bounds that the types require.
async fn round_trip<M, A, L>(handle: &GenericAioContextHandle<M, A, L>, path: PathBuf)
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
    A::LinkOps: LinkedListOps + Default,
{
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    let store = Store {
        handle: handle.clone(),
        file: Arc::new(options.aio_open(path, false).await.unwrap()),
    };
    let mut bytes = patterned_buffer(9, BLOCK);
    assert_eq!(store.put(3, &mut bytes).await.unwrap(), BLOCK as u64);
    let mut back = buffer(BLOCK);
    assert_eq!(store.get(3, &mut back).await.unwrap(), BLOCK as u64);
    assert!(is_pattern(9, back.as_ref()));
    let fd: RawFd = store.file.as_raw_fd();
    assert!(fd >= 0 && AsRawFd::as_raw_fd(&&*store.file) == fd);
    assert_eq!(
        handle
            .submit_request(&*store.file, RawCommand::Fdsync)
            .await
            .unwrap(),
        0
    );
}

/// With no more bounds than existing code has.
fn made_by_generic_code<M, A, L>() -> Option<usize>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    let (_context, handle, _background) = generic_aio_context::<M, A, L>(3, true).unwrap();
    handle.available_slots()
}

#[tokio::test]
async fn generic_code_makes_contexts() {
    let of_any_thread =
        made_by_generic_code::<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>();
    let of_one_thread = made_by_generic_code::<NoopLock, LocalRequestAdapter, Link>();
    assert_eq!((of_any_thread, of_one_thread), (Some(3), Some(3)));
}

#[tokio::test]
async fn generic_code_accepts_the_handle_of_every_context() {
    let dir = disk_dir();
    let (context, handle) = aio_context(2, true).unwrap();
    round_trip(&handle, dir.path().join("shared")).await;
    context.close().await;

    let local = tokio::task::LocalSet::new();
    let (context, handle, background) = local_aio_context(2, true).unwrap();
    local.spawn_local(background);
    local
        .run_until(async {
            round_trip(&handle, dir.path().join("local")).await;
            context.close().await;
        })
        .await;

    let (context, handle, background) =
        generic_aio_context::<parking_lot::RawMutex, SyncRequestAdapter, AtomicLink>(2, true)
            .unwrap();
    let background = tokio::spawn(background);
    round_trip(&handle, dir.path().join("generic")).await;
    context.close().await;
    background.await.unwrap().unwrap();
}

/// The types of every call, spelled out.
#[tokio::test]
async fn call_signatures_match_existing_code() {
    let dir = disk_dir();
    let path: PathBuf = dir.path().join("data");
    let made: Result<(AioContext, AioContextHandle), AioContextError> = aio_context(5, true);
    let (context, handle) = made.unwrap();
    let slots: Option<usize> = context.available_slots();
    assert_eq!((slots, handle.available_slots()), (Some(5), Some(5)));

    let by_reference: &Path = &path;
    let file: File = File::create(by_reference, false).await.unwrap();
    let done: io::Result<()> = file.set_len(BLOCK as u64).await;
    done.unwrap();
    let metadata: Metadata = file.metadata().await.unwrap();
    let permissions: Permissions = metadata.permissions();
    file.set_permissions(permissions).await.unwrap();
    let _: File = File::open(path.to_str().unwrap(), true).await.unwrap();
    let _: File = File::open(&path, false).await.unwrap();

    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let opened: io::Result<File> = options.clone().aio_open(path.clone(), true).await;
    let file = opened.unwrap();

    let sized: Result<LockedBuf, LockedBufError> = LockedBuf::with_size(BLOCK);
    let mut bytes = sized.unwrap();
    let size: usize = bytes.size();
    let shared: &[u8] = bytes.as_ref();
    assert_eq!((size, shared.len()), (BLOCK, BLOCK));
    let exclusive: &mut [u8] = bytes.as_mut();
    exclusive.fill(1);

    let moved: Result<u64, AioCommandError> = file
        .write_at(&handle, 0, &mut bytes, BLOCK as _, WriteFlags::SYNC)
        .await;
    assert_eq!(moved.unwrap(), BLOCK as u64);
    let moved: Result<u64, AioCommandError> = file
        .read_at(&handle, 0, &mut bytes, BLOCK as _, ReadFlags::empty())
        .await;
    assert_eq!(moved.unwrap(), BLOCK as u64);
    let synced: Result<(), AioCommandError> = file.sync_all(&handle).await;
    synced.unwrap();
    let synced: Result<(), AioCommandError> = file.sync_data(&handle).await;
    synced.unwrap();

    let command = RawCommand::Pwrite {
        offset: 0,
        buffer: &bytes,
        flags: WriteFlags::empty(),
        len: BLOCK as u64,
    };
    let moved: Result<u64, AioCommandError> = handle.submit_request(&file, command).await;
    assert_eq!(moved.unwrap(), BLOCK as u64);
    let command = RawCommand::Pread {
        offset: 0,
        buffer: &mut bytes,
        flags: ReadFlags::empty(),
        len: BLOCK as u64,
    };
    // Anything with a descriptor is accepted: a reference to a file, a file of the standard
    // library.
    assert_eq!(
        handle.submit_request(&&file, command).await.unwrap(),
        BLOCK as u64
    );
    let plain = std::fs::File::open(&path).unwrap();
    assert_eq!(
        handle
            .submit_request(&plain, RawCommand::Fsync)
            .await
            .unwrap(),
        0
    );

    let () = context.close().await;
}

#[test]
fn error_variants_match_existing_code() {
    fn command(error: AioCommandError) -> &'static str {
        match error {
            AioCommandError::AioStopped => "stopped",
            AioCommandError::IoSubmit(error) => kind(error),
            AioCommandError::BadResult(error) => kind(error),
            AioCommandError::NonZeroCode => "non-zero",
            AioCommandError::CapacityExceeded => "capacity",
            #[allow(unreachable_patterns)] // it may grow
            _ => "new",
        }
    }
    fn context(error: AioContextError) -> String {
        match error {
            AioContextError::EventFd(error) => error.to_string(),
            AioContextError::IoSetup(error) => kind(error).into(),
        }
    }
    fn locked(error: LockedBufError) -> String {
        match error {
            LockedBufError::MapAnon(error) => error.to_string(),
            LockedBufError::MemLock(error) => error.to_string(),
        }
    }
    fn kind(_: io::Error) -> &'static str {
        "io"
    }
    let io = || io::Error::from_raw_os_error(libc::EIO);
    assert_eq!(command(AioCommandError::AioStopped), "stopped");
    assert_eq!(command(AioCommandError::IoSubmit(io())), "io");
    assert_eq!(command(AioCommandError::CapacityExceeded), "capacity");
    assert_eq!(context(AioContextError::IoSetup(io())), "io");
    assert!(!locked(LockedBuf::with_size(0).unwrap_err()).is_empty());
}

#[tokio::test]
async fn an_event_fd_is_a_stream_with_a_descriptor() {
    fn stream<E>(it: impl Stream<Item = Result<u64, E>> + Unpin + AsRawFd) -> impl AsRawFd {
        it
    }
    assert!(stream(EventFd::new(1, true).unwrap()).as_raw_fd() >= 0);
}
