//! Vectored and owned transfers, batches and streams on a simulated disk.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_kaio::{Part, PartMut, ReadFlags, WriteFlags};

use crate::support::{BLOCK, Simulated, blocks};

#[tokio::test(start_paused = true)]
async fn vectored_transfers_gather_and_scatter() {
    let simulated = Simulated::new(1);
    let handle = &simulated.handle;
    let file = simulated.file("file").await;
    let (first, second) = (blocks(1, 1), blocks(2, 2));
    let parts = [Part::from(&first), Part::from(&second)];
    let written = file
        .write_vectored_at(handle, 0, &parts, WriteFlags::empty())
        .await;
    assert_eq!(written.unwrap(), 3 * BLOCK);
    let (mut one, mut other) = (blocks(0, 2), blocks(0, 1));
    let mut parts = [PartMut::from(&mut one), PartMut::from(&mut other)];
    let read = file
        .read_vectored_at(handle, 0, &mut parts, ReadFlags::empty())
        .await;
    assert_eq!(read.unwrap(), 3 * BLOCK);
    let (head, tail) = one.as_ref().split_at(BLOCK as usize);
    assert!(head.iter().all(|&byte| byte == 1));
    assert!(tail.iter().chain(other.iter()).all(|&byte| byte == 2));
}

#[tokio::test(start_paused = true)]
async fn owned_transfers_return_their_buffers_and_reads_end_at_the_end() {
    let simulated = Simulated::new(1);
    let handle = &simulated.handle;
    let file = simulated.file("file").await;
    let write = file.write_owned_at(handle, 0, blocks(3, 1), WriteFlags::empty());
    let (written, buffer) = write.await;
    assert_eq!(written.unwrap(), BLOCK);
    file.set_len(1000).await.unwrap();
    let (read, buffer) = file
        .read_owned_at(handle, 0, buffer, ReadFlags::empty())
        .await;
    assert_eq!(read.unwrap(), 1000);
    let (read, _) = file
        .read_owned_at(handle, BLOCK, buffer, ReadFlags::empty())
        .await;
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn batches_complete_as_a_whole() {
    let simulated = Simulated::new(1);
    let handle = &simulated.handle;
    let file = simulated.file("file").await;
    let buffers: Vec<_> = (0..100).map(|index| blocks(index, 1)).collect();
    let mut batch = handle.batch();
    for (index, buffer) in buffers.iter().enumerate() {
        batch.write(&file, index as u64 * BLOCK, buffer);
    }
    let results = batch.all().await;
    assert!(
        results
            .into_iter()
            .all(|result| result.is_ok_and(|written| written == BLOCK))
    );
    let mut reads = handle.owned_batch();
    for index in 0..100 {
        reads.read(&file, index * BLOCK, blocks(0xff, 1));
    }
    for (index, (read, buffer)) in reads.all().await.into_iter().enumerate() {
        assert_eq!(read.unwrap(), BLOCK);
        assert!(buffer.iter().all(|&byte| byte == index as u8));
    }
}

#[tokio::test(start_paused = true)]
async fn streams_write_and_read_a_file_of_any_length() {
    let simulated = Simulated::new(1);
    let handle = &simulated.handle;
    let data: Vec<u8> = (0..1_000_003_u32)
        .map(|index| ((index * 7) >> 3) as u8)
        .collect();
    let file = simulated.file("file").await;
    let mut writer = file.writer(handle).with_allocation(1 << 20);
    writer.write_all(&data).await.unwrap();
    writer.shutdown().await.unwrap();
    assert_eq!(file.metadata().await.unwrap().len(), data.len() as u64);
    let mut read = Vec::new();
    file.reader(handle).read_to_end(&mut read).await.unwrap();
    assert!(read == data);
}

#[cfg(feature = "bytes")]
#[tokio::test(start_paused = true)]
async fn ranges_are_read_as_bytes() {
    let simulated = Simulated::new(1);
    let handle = &simulated.handle;
    let file = simulated.file("file").await;
    let data: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
    file.write_bytes_at(handle, 0, &data, WriteFlags::empty())
        .await
        .unwrap();
    let ranges = [0..10, 5000..9000, 99_990..200_000, 3..u64::MAX];
    let found = file.read_ranges(handle, &ranges).await.unwrap();
    for (range, bytes) in ranges.iter().zip(found) {
        let end = (range.end as usize).min(data.len());
        assert!(bytes == data[range.start as usize..end], "{range:?}");
    }
}
