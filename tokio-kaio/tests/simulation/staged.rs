//! `StagedFile` on a simulated disk.

use std::io;

use tokio_kaio::simulation::SimDisk;
use tokio_kaio::{
    File, PublishMode, ReadFlags, StagedFile, StagedFileBuilder, WriteFlags, read_dir, sync_dir,
};

use crate::support::Simulated;

async fn content(simulated: &Simulated, name: &str) -> Vec<u8> {
    let file = File::open(simulated.disk.path().join(name), false)
        .await
        .unwrap();
    let mut bytes = vec![0; file.metadata_at_open().len() as usize];
    file.read_bytes_at(&simulated.handle, 0, &mut bytes, ReadFlags::empty())
        .await
        .unwrap();
    bytes
}

async fn publish(simulated: &Simulated, content: &[u8], builder: StagedFileBuilder) {
    let staged = builder.create().await.unwrap();
    let written = staged
        .file()
        .write_bytes_at(&simulated.handle, 0, content, WriteFlags::empty());
    written.await.unwrap();
    staged.publish(PublishMode::Replace).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_staged_file_appears_whole_and_replaces_another() {
    for named in [false, true] {
        let simulated = Simulated::new(1);
        let target = simulated.disk.path().join("object");
        let builder = || StagedFileBuilder::new(&target).named(named);
        publish(&simulated, b"first", builder()).await;
        assert_eq!(content(&simulated, "object").await, b"first");
        publish(&simulated, b"second", builder()).await;
        assert_eq!(content(&simulated, "object").await, b"second");
        let taken = builder().create().await.unwrap();
        let error = taken.publish(PublishMode::CreateNew).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        drop(error);
        assert_eq!(read_dir(simulated.disk.path()).await.unwrap(), ["object"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_staged_file_that_is_discarded_or_dropped_leaves_nothing() {
    let simulated = Simulated::new(1);
    let target = simulated.disk.path().join("object");
    for named in [false, true] {
        let builder = || StagedFileBuilder::new(&target).named(named).len(1 << 20);
        let staged = builder().create().await.unwrap();
        assert_eq!(staged.temp_path().is_some(), named);
        staged.discard().await.unwrap();
        drop(builder().create_blocking().unwrap());
    }
    assert_eq!(read_dir(simulated.disk.path()).await.unwrap(), [""; 0]);
    let missing = StagedFile::create(simulated.disk.path().join("none/object")).await;
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_the_target_is_the_old_file_or_the_new_one() {
    let (old, new) = (vec![1; 10_000], vec![2; 20_000]);
    for cut_at in 1.. {
        let disk = SimDisk::builder().seed(cut_at).build();
        let before = Simulated::on(disk);
        let target = before.disk.path().join("object");
        let builder = || StagedFileBuilder::new(&target).sync(true);
        publish(&before, &old, builder()).await;
        sync_dir(before.disk.path()).await.unwrap();
        before.disk.cut_power_after(before.disk.events() + cut_at);
        let replaced = async {
            let staged = builder().create().await?;
            staged
                .file()
                .write_bytes_at(&before.handle, 0, &new, WriteFlags::empty())
                .await?;
            staged.publish(PublishMode::Replace).await?;
            io::Result::Ok(())
        };
        let replaced = replaced.await.is_ok();
        let after = before.rebooted();
        let found = content(&after, "object").await;
        assert!(found == new || found == old && !replaced, "cut at {cut_at}");
        if replaced {
            assert!(cut_at > 6, "{cut_at} events are too few for a replace");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_publication_goes_on_when_its_future_is_dropped() {
    let simulated = Simulated::new(1);
    let target = simulated.disk.path().join("object");
    let staged = StagedFileBuilder::new(&target)
        .sync(true)
        .create()
        .await
        .unwrap();
    let mut publish = Box::pin(staged.publish(PublishMode::Replace));
    assert!(futures::poll!(&mut publish).is_pending());
    drop(publish);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(read_dir(simulated.disk.path()).await.unwrap(), ["object"]);
}
