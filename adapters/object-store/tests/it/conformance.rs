//! The conformance suite of `object_store`: first on `LocalFileSystem`, so that a change of the suite is told
//! from an error of ours.

use futures::{StreamExt, TryStreamExt};
use tokio_kaio::{AioContextBuilder, Backend};

use super::object_store::integration::*;
use super::object_store::local::LocalFileSystem;
use super::object_store::path::Path;
use super::object_store::{DynObjectStore, Error};
use super::{KaioFileSystem, KaioFileSystemBuilder};
use crate::fixture::{disk_dir, files_below, test_dirs};

/// What a local store passes. Each part of the suite expects an empty store.
async fn conforms(store: &DynObjectStore) {
    put_get_delete_list(store).await;
    remove_all(store).await;
    get_opts(store).await;
    remove_all(store).await;
    put_opts(store, false).await;
    remove_all(store).await;
    stream_get(store).await;
    remove_all(store).await;
    list_uses_directories_correctly(store).await;
    remove_all(store).await;
    list_with_delimiter(store).await;
    remove_all(store).await;
    list_with_offset_exclusivity(store).await;
    remove_all(store).await;
    rename_and_copy(store).await;
    remove_all(store).await;
    copy_if_not_exists(store).await;
    remove_all(store).await;
    copy_rename_nonexistent_object(store).await;
    remove_all(store).await;
    multipart_race_condition(store, true).await;
    remove_all(store).await;
    multipart_out_of_order(store).await;
    let missing = get_nonexistent_object(store, Some(Path::from("missing"))).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
}

async fn remove_all(store: &DynObjectStore) {
    let locations = store.list(None).map_ok(|meta| meta.location).boxed();
    let removed: Vec<_> = store.delete_stream(locations).try_collect().await.unwrap();
    drop(removed);
}

async fn conforms_with(settings: impl Fn(KaioFileSystemBuilder) -> KaioFileSystemBuilder) {
    for dir in test_dirs() {
        let builder = KaioFileSystem::builder().with_prefix(dir.path());
        let store = settings(builder).build().unwrap();
        conforms(&store).await;
        drop(store);
        let left = files_below(dir.path());
        let staged = left
            .iter()
            .filter(|path| path.to_str().unwrap().contains('#'));
        assert_eq!(staged.count(), 0, "{left:?}");
    }
}

#[tokio::test]
async fn local_file_system_conforms() {
    let dir = disk_dir();
    conforms(&LocalFileSystem::new_with_prefix(dir.path()).unwrap()).await;
}

#[tokio::test]
async fn the_store_conforms() {
    conforms_with(|builder| builder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_with_every_read_and_write_direct_and_durable() {
    conforms_with(|builder| {
        builder
            .with_small_object_size(0)
            .with_cached_reads(false)
            .with_fsync(true)
            .with_direct_upload_size(1)
            .with_chunk_size(4096)
            .with_coalesce_size(4096)
            .with_depth(3)
    })
    .await;
}

#[tokio::test]
async fn the_store_conforms_on_the_thread_pool_backend() {
    let context = AioContextBuilder::new(8).backend(Backend::ThreadPool);
    let (context, handle) = context.build().unwrap();
    conforms_with(|builder| {
        builder
            .with_context(&handle)
            .with_small_object_size(0)
            .with_cached_reads(false)
            .with_descriptors(0)
    })
    .await;
    assert!(handle.metrics().completed > 0);
    context.close().await;
}

#[tokio::test]
async fn the_store_conforms_without_direct_io() {
    conforms_with(|builder| {
        builder
            .with_small_object_size(u64::MAX)
            .with_cached_reads(false)
            .with_descriptors(1)
    })
    .await;
}

#[tokio::test]
async fn the_store_conforms_after_its_context_has_ended() {
    let (context, handle) = AioContextBuilder::new(8).build().unwrap();
    context.close().await;
    conforms_with(|builder| {
        builder
            .with_context(&handle)
            .with_small_object_size(0)
            .with_cached_reads(false)
            .with_fsync(true)
            .with_direct_upload_size(1)
    })
    .await;
}
