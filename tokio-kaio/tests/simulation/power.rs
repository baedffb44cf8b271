//! Power cuts: what survives, and how requests in flight end.

use tokio_kaio::simulation::SimDisk;
use tokio_kaio::{File, ReadFlags, WriteFlags, sync_dir, try_exists};

use crate::support::{BLOCK, Simulated, blocks, errno, io_errno};

#[tokio::test(start_paused = true)]
async fn what_was_synced_is_read_after_a_power_cut() {
    for seed in 0..20 {
        let before = Simulated::new(seed);
        let log = before.file("log").await;
        let sevens = blocks(7, 2);
        let write = log.write_at(&before.handle, 0, &sevens, 2 * BLOCK, WriteFlags::empty());
        assert_eq!(write.await.unwrap(), 2 * BLOCK);
        log.sync_all(&before.handle).await.unwrap();
        sync_dir(before.disk.path()).await.unwrap();

        let after = before.rebooted();
        let log = File::open(after.disk.path().join("log"), false)
            .await
            .unwrap();
        let mut read = blocks(0, 2);
        let reading = log.read_at(&after.handle, 0, &mut read, 2 * BLOCK, ReadFlags::empty());
        assert_eq!(reading.await.unwrap(), 2 * BLOCK);
        assert!(read.iter().all(|&byte| byte == 7), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_with_dsync_survives_and_one_without_may_not() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..40 {
        let before = Simulated::new(seed);
        let file = before.file("file").await;
        file.set_len(2 * BLOCK).await.unwrap();
        file.sync_all(&before.handle).await.unwrap();
        sync_dir(before.disk.path()).await.unwrap();
        let (ones, twos) = (blocks(1, 1), blocks(2, 1));
        let durable = file.write_at(&before.handle, 0, &ones, BLOCK, WriteFlags::DSYNC);
        durable.await.unwrap();
        let volatile = file.write_at(&before.handle, BLOCK, &twos, BLOCK, WriteFlags::empty());
        volatile.await.unwrap();

        let after = before.rebooted();
        let file = after.file("file").await;
        let mut bytes = vec![9; 2 * BLOCK as usize];
        let read = file.read_bytes_at(&after.handle, 0, &mut bytes, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), 2 * BLOCK);
        let (first, second) = bytes.split_at(BLOCK as usize);
        assert!(first.iter().all(|&byte| byte == 1), "seed {seed}");
        match second[0] {
            2 => kept += 1,
            0 => lost += 1,
            other => panic!("seed {seed}: {other}"),
        }
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_lost_unless_its_directory_was_synced() {
    let mut lost = 0;
    for seed in 0..40 {
        let before = Simulated::new(seed);
        let synced = before.file("synced").await;
        sync_dir(before.disk.path()).await.unwrap();
        let unsynced = before.file("unsynced").await;
        for file in [&synced, &unsynced] {
            file.sync_all(&before.handle).await.unwrap();
        }
        let after = before.rebooted();
        let exists = |name| try_exists(after.disk.path().join(name));
        assert!(exists("synced").await.unwrap(), "seed {seed}");
        lost += usize::from(!exists("unsynced").await.unwrap());
    }
    assert!((1..40).contains(&lost), "{lost} of 40 lost");
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_and_later_calls_fail_with_eio_when_the_power_is_cut() {
    let simulated = Simulated::new(1);
    let (disk, handle) = (&simulated.disk, &simulated.handle);
    let file = simulated.file("file").await;
    let buffer = blocks(1, 1);
    let write = file.write_at(handle, 0, &buffer, BLOCK, WriteFlags::empty());
    let cut = async {
        tokio::task::yield_now().await;
        disk.power_cut();
    };
    let (written, ()) = tokio::join!(write, cut);
    assert_eq!(errno(written), libc::EIO);
    let mut read = blocks(0, 1);
    let read = file.read_at(handle, 0, &mut read, BLOCK, ReadFlags::empty());
    assert_eq!(errno(read.await), libc::EIO);
    assert_eq!(errno(file.sync_all(handle).await), libc::EIO);
    assert_eq!(io_errno(sync_dir(disk.path()).await), libc::EIO);
    assert_eq!(io_errno(file.set_len(0).await), libc::EIO);
    assert_eq!(
        io_errno(File::create(disk.path().join("b"), false).await),
        libc::EIO
    );
    simulated.context.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_power_is_cut_after_an_event_of_a_given_number() {
    // The file is created. Then each write begins, and finishes.
    for (after, expected) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)] {
        let simulated = Simulated::new(after);
        let file = simulated.file("file").await;
        simulated.disk.cut_power_after(after);
        let mut completed = 0;
        for _ in 0..4 {
            let buffer = blocks(1, 1);
            let write = file.write_at(&simulated.handle, 0, &buffer, BLOCK, WriteFlags::empty());
            if write.await.is_err() {
                break;
            }
            completed += 1;
        }
        assert_eq!(completed, expected, "after {after} events");
        assert!(simulated.disk.image().is_some());
        simulated.disk.power_lost().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_boots_several_times() {
    let before = Simulated::new(3);
    let file = before.file("file").await;
    let buffer = blocks(5, 1);
    file.write_at(&before.handle, 0, &buffer, BLOCK, WriteFlags::SYNC)
        .await
        .unwrap();
    sync_dir(before.disk.path()).await.unwrap();
    let image = before.disk.power_cut();
    for builder in [SimDisk::builder(), SimDisk::builder().seed(9)] {
        let after = Simulated::on(builder.boot(&image));
        assert_ne!(after.disk.path(), before.disk.path());
        let mut bytes = [0; 8];
        let file = after.file("file").await;
        file.read_bytes_at(&after.handle, 0, &mut bytes, ReadFlags::empty())
            .await
            .unwrap();
        assert_eq!(bytes, [5; 8]);
        file.write_at(&after.handle, 0, &blocks(6, 1), BLOCK, WriteFlags::DSYNC)
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_of_a_directory_in_flight_fails_when_the_power_is_cut() {
    let simulated = Simulated::new(1);
    let disk = simulated.disk.clone();
    let cut = async {
        tokio::task::yield_now().await;
        disk.power_cut();
    };
    let (synced, ()) = tokio::join!(sync_dir(simulated.disk.path()), cut);
    assert_eq!(io_errno(synced), libc::EIO);
}
