//! Each fault, as a program sees it.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_kaio::simulation::{Fault, Operations, SimDisk};
use tokio_kaio::{File, ReadFlags, WriteFlags, create_dir, sync_dir};

use crate::support::{BLOCK, Simulated, blocks, errno, io_errno};

/// A disk with the file `file` of four durable blocks of `-`, and then this fault.
async fn faulty(fault: Fault) -> (Simulated, File) {
    let of = Simulated::new(5);
    let file = of.file("file").await;
    sync_dir(of.disk.path()).await.unwrap();
    write(&of, &file, b'-', 4).await;
    file.sync_all(&of.handle).await.unwrap();
    of.disk.add_fault(fault);
    (of, file)
}

/// Writes blocks at the start of the file. Returns the number of bytes.
async fn write(of: &Simulated, file: &File, byte: u8, count: usize) -> u64 {
    let data = blocks(byte, count);
    let len = count as u64 * BLOCK;
    let written = file.write_at(&of.handle, 0, &data, len, WriteFlags::empty());
    written.await.unwrap()
}

/// The four blocks of the file.
async fn read(of: &Simulated, file: &File) -> Vec<u8> {
    let mut data = vec![0; 4 * BLOCK as usize];
    let read = file.read_bytes_at(&of.handle, 0, &mut data, ReadFlags::empty());
    read.await.unwrap();
    data
}

/// The first byte of each block.
fn firsts(data: &[u8]) -> String {
    let blocks = data.chunks(BLOCK as usize);
    blocks.map(|block| char::from(block[0])).collect()
}

/// The blocks after a power cut.
async fn after_cut(of: &Simulated) -> String {
    let rebooted = of.rebooted();
    let file = rebooted.file("file").await;
    firsts(&read(&rebooted, &file).await)
}

fn wrong_bits(data: &[u8]) -> u32 {
    data.iter().map(|byte| (byte ^ b'-').count_ones()).sum()
}

#[tokio::test(start_paused = true)]
async fn reads_writes_and_syncs_fail_with_eio() {
    let all = Operations::READ | Operations::WRITE | Operations::SYNC | Operations::SYNC_DIR;
    let (of, file) = faulty(Fault::io_error(all)).await;
    let mut data = blocks(b'a', 1);
    let written = file.write_at(&of.handle, 0, &data, BLOCK, WriteFlags::empty());
    assert_eq!(errno(written.await), libc::EIO);
    let read_back = file.read_at(&of.handle, 0, &mut data, BLOCK, ReadFlags::empty());
    assert_eq!(errno(read_back.await), libc::EIO);
    assert_eq!(errno(file.sync_all(&of.handle).await), libc::EIO);
    assert_eq!(errno(file.sync_data(&of.handle).await), libc::EIO);
    assert_eq!(io_errno(sync_dir(of.disk.path()).await), libc::EIO);
    of.disk.clear_faults();
    assert_eq!(firsts(&read(&of, &file).await), "----");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_with_enospc() {
    let (of, file) = faulty(Fault::no_space()).await;
    let data = blocks(b'a', 1);
    let written = file.write_at(&of.handle, 0, &data, BLOCK, WriteFlags::empty());
    assert_eq!(errno(written.await), libc::ENOSPC);
    let created = create_dir(of.disk.path().join("dir")).await;
    assert_eq!(io_errno(created), libc::ENOSPC);

    // Without a fault: the size of the disk.
    let small = Simulated::of(SimDisk::builder().size(2 * BLOCK));
    let file = small.file("file").await;
    assert_eq!(write(&small, &file, b'a', 3).await, 2 * BLOCK, "what fits");
    let more = file.write_at(&small.handle, 2 * BLOCK, &data, BLOCK, WriteFlags::empty());
    assert_eq!(errno(more.await), libc::ENOSPC);
}

#[tokio::test(start_paused = true)]
async fn short_transfers_return_the_length_of_what_they_have_done() {
    let (of, file) = faulty(Fault::short(Operations::READ | Operations::WRITE).at_most(2)).await;
    let written = write(&of, &file, b'a', 4).await;
    assert!((1..4).contains(&(written / BLOCK)), "{written}");
    assert_eq!(written % BLOCK, 0);
    let mut data = blocks(0, 4);
    let len = 4 * BLOCK;
    let short = file.read_at(&of.handle, 0, &mut data, len, ReadFlags::empty());
    assert!((1..4).contains(&(short.await.unwrap() / BLOCK)));
    let found = firsts(&read(&of, &file).await);
    assert_eq!(
        found.matches('a').count() as u64,
        written / BLOCK,
        "{found}"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_requests_take_their_delay_and_stuck_ones_never_end() {
    let (of, file) = faulty(Fault::slow(Operations::WRITE, Duration::from_secs(7)).nth(1)).await;
    let start = Instant::now();
    write(&of, &file, b'a', 1).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(7), "{took:?} of simulated time");
    write(&of, &file, b'a', 1).await;
    assert!(
        start.elapsed() < took + Duration::from_secs(1),
        "the second one is not slow"
    );

    of.disk.add_fault(Fault::stuck(Operations::READ));
    let never = timeout(Duration::from_secs(3600), read(&of, &file)).await;
    assert!(never.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_of_a_read_is_gone_the_next_time_and_one_of_a_write_stays() {
    let (of, file) = faulty(Fault::bit_flip(Operations::READ).nth(1)).await;
    assert_eq!(wrong_bits(&read(&of, &file).await), 1);
    assert_eq!(wrong_bits(&read(&of, &file).await), 0);
    of.disk.add_fault(Fault::bit_flip(Operations::WRITE).nth(1));
    write(&of, &file, b'-', 4).await;
    for _ in 0..2 {
        assert_eq!(wrong_bits(&read(&of, &file).await), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_torn_write_fails_and_a_lost_one_succeeds() {
    let (of, file) = faulty(Fault::torn_write().nth(1)).await;
    let data = blocks(b'a', 4);
    let len = 4 * BLOCK;
    let torn = file.write_at(&of.handle, 0, &data, len, WriteFlags::empty());
    assert_eq!(errno(torn.await), libc::EIO);
    let after = firsts(&read(&of, &file).await);
    assert!(after.chars().all(|of| of == 'a' || of == '-'), "{after}");

    of.disk.add_fault(Fault::lost_write().nth(1));
    assert_eq!(write(&of, &file, b'b', 4).await, len);
    assert_eq!(firsts(&read(&of, &file).await), after);
}

#[tokio::test(start_paused = true)]
async fn a_misdirected_write_succeeds_and_damages_other_blocks() {
    let (of, file) = faulty(Fault::misdirected_write().file("file").nth(1)).await;
    let other = of.file("other").await;
    write(&of, &other, b'.', 4).await;
    assert_eq!(write(&of, &file, b'a', 1).await, BLOCK);
    assert_eq!(firsts(&read(&of, &file).await).chars().next(), Some('-'));
    let all = firsts(&read(&of, &file).await) + &firsts(&read(&of, &other).await);
    assert_eq!(all.matches('a').count(), 1, "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_fails_once_succeeds_then_with_the_data_gone() {
    let (of, file) = faulty(Fault::failed_sync().nth(1)).await;
    write(&of, &file, b'a', 2).await;
    assert_eq!(errno(file.sync_all(&of.handle).await), libc::EIO);
    file.sync_all(&of.handle).await.unwrap();
    assert_eq!(
        firsts(&read(&of, &file).await),
        "aa--",
        "until the power is cut"
    );
    assert_eq!(after_cut(&of).await, "----");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_lies_about_flushes_may_lose_what_was_synced() {
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::builder()
            .seed(seed)
            .faults(Fault::ignored_flush().file("file").into());
        let of = Simulated::of(disk);
        let file = of.file("file").await;
        sync_dir(of.disk.path()).await.unwrap();
        file.set_len(4 * BLOCK).await.unwrap();
        write(&of, &file, b'a', 1).await;
        file.sync_all(&of.handle).await.unwrap();
        found.insert(after_cut(&of).await);
    }
    assert!(
        found.len() > 1,
        "some cuts have lost it, and some have not: {found:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fault_happens_to_the_file_the_range_the_time_and_the_number_that_it_names() {
    let seconds = |from, to| Duration::from_secs(from)..Duration::from_secs(to);
    let fault = Fault::io_error(Operations::WRITE)
        .file("dir")
        .range(BLOCK..2 * BLOCK)
        .during(seconds(10, 20))
        .nth(2);
    let (of, outside) = faulty(fault).await;
    create_dir(of.disk.path().join("dir")).await.unwrap();
    let inside = of.file("dir/file").await;
    let data = blocks(b'a', 1);
    let write_block = async |file: &File, block: u64| {
        let written = file.write_at(&of.handle, block * BLOCK, &data, BLOCK, WriteFlags::empty());
        written.await.is_ok()
    };
    assert!(write_block(&inside, 1).await, "it is too early");
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(write_block(&outside, 1).await, "another file");
    assert!(write_block(&inside, 2).await, "another range");
    assert!(write_block(&inside, 1).await, "the first one");
    assert!(!write_block(&inside, 1).await, "the second one");
    assert!(write_block(&inside, 1).await, "the third one");
}
