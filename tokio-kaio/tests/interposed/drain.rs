//! `File::drain`: waits for the requests that were submitted through a file before, dropped or not.

use std::os::fd::AsRawFd;
use std::pin::pin;

use crate::common::*;
use crate::interposer::{Gate, WatchedFile};
use futures::poll;
use tokio_kaio::{File, ReadFlags, WriteFlags};

#[test]
fn draining_a_file_with_nothing_in_flight_returns_at_once() {
    Fixture::new(2).inline().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        let file = File::create(dir.path().join("file"), false).await.unwrap();
        assert!(poll!(pin!(file.drain(&handle))).is_ready());
    });
}

#[test]
fn a_drain_waits_for_a_write_that_was_dropped() {
    Fixture::new(4)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (dir, handle, mode) = (case.dir, case.handle, case.mode);
            let file = File::create(dir.path().join("file"), false).await.unwrap();
            let gate = Gate::closed();
            let block = buffer(BLOCK);
            {
                let flags = WriteFlags::empty();
                let mut write = pin!(file.write_at(&handle, gate.offset(), &block, LEN, flags));
                assert!(poll!(&mut write).is_pending());
            }
            let mut drained = pin!(file.drain(&handle));
            for _ in 0..3 {
                assert!(poll!(&mut drained).is_pending(), "{mode:?}");
                tokio::task::yield_now().await;
            }
            gate.open();
            drained.await;
        });
}

/// Also if it is dropped between two of its requests.
#[test]
fn a_dropped_multi_request_operation_submits_nothing_after_a_drain() {
    const PIECES: usize = 4096;
    Fixture::new(4)
        .every_mode()
        .blocks(PIECES)
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let block = buffer(BLOCK);
            let pieces: Vec<_> = (0..PIECES).map(|_| block.part(..)).collect();
            for polls in 1..6 {
                let watched = WatchedFile::new(&file);
                let flags = WriteFlags::empty();
                let mut write = Box::pin(file.write_vectored_at(&handle, 0, &pieces, flags));
                for _ in 0..polls {
                    if poll!(write.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(write);
                file.drain(&handle).await;
                let seen = watched.transfers().len();
                assert_idle(&handle, 4).await;
                assert_eq!(watched.transfers().len(), seen, "{mode:?}");
            }
        });
}

#[test]
fn a_drain_waits_for_queued_requests() {
    let dir = disk_dir();
    for mode in modes() {
        multi_thread().block_on(async {
            let (context, handle) = context_in(mode, 1);
            let path = dir.path().join("file");
            write_patterned(&path, 2);
            let (file, other) = (File::open(&path, false), File::open(&path, false));
            let (file, other) = (file.await.unwrap(), other.await.unwrap());
            let gate = Gate::closed();
            let (mut first, mut second) = (buffer(BLOCK), buffer(BLOCK));
            let flags = ReadFlags::empty();
            // The only slot is another file's.
            let mut blocks = pin!(other.read_at(&handle, gate.offset(), &mut first, LEN, flags));
            assert!(poll!(&mut blocks).is_pending());
            let mut queued = Box::pin(file.read_at(&handle, 0, &mut second, LEN, flags));
            assert!(poll!(&mut queued).is_pending());
            let mut drained = Box::pin(file.drain(&handle));
            assert!(poll!(&mut drained).is_pending(), "{mode:?}");
            // Dropped, it never reaches the kernel.
            drop(queued);
            drained.await;
            gate.open();
            blocks.await.unwrap();
            context.close().await;
        });
    }
}

#[test]
fn a_drain_waits_neither_for_other_files_nor_for_later_requests() {
    let dir = disk_dir();
    for mode in modes() {
        multi_thread().block_on(async {
            let (context, handle) = context_in(mode, 8);
            let path = dir.path().join("file");
            write_patterned(&path, 2);
            let (file, other) = (File::open(&path, false), File::open(&path, false));
            let (file, other) = (file.await.unwrap(), other.await.unwrap());
            let gates = [Gate::closed(), Gate::closed(), Gate::closed()];
            let flags = ReadFlags::empty();
            let mut buffers = [buffer(BLOCK), buffer(BLOCK), buffer(BLOCK)];
            let [a, b, c] = &mut buffers;
            let mut others = pin!(other.read_at(&handle, gates[0].offset(), a, LEN, flags));
            let mut before = pin!(file.read_at(&handle, gates[1].offset(), b, LEN, flags));
            assert!(poll!(&mut others).is_pending() && poll!(&mut before).is_pending());
            let mut drained = pin!(file.drain(&handle));
            assert!(poll!(&mut drained).is_pending());
            let mut after = pin!(file.read_at(&handle, gates[2].offset(), c, LEN, flags));
            assert!(poll!(&mut after).is_pending());
            gates[1].open();
            drained.await;
            assert!(poll!(&mut others).is_pending() && poll!(&mut after).is_pending());
            gates.iter().for_each(Gate::open);
            others.await.unwrap();
            before.await.unwrap();
            after.await.unwrap();
            context.close().await;
        });
    }
}

/// The number of a closed descriptor is reused, even while a request of the former file is in
/// flight.
#[test]
fn a_drain_does_not_wait_for_a_former_file_with_the_same_descriptor() {
    Fixture::new(4).inline().blocks(2).run(async |case| {
        let (path, handle) = (case.path, case.handle);
        retry_until(async || {
            let first = File::open(&path, false).await.unwrap();
            let number = first.as_raw_fd();
            let gate = Gate::closed();
            let mut block = buffer(BLOCK);
            let flags = ReadFlags::empty();
            let mut read = Box::pin(first.read_at(&handle, gate.offset(), &mut block, LEN, flags));
            assert!(poll!(&mut read).is_pending());
            drop(read);
            drop(first);
            let second = File::open(&path, false).await.unwrap();
            let same = second.as_raw_fd() == number;
            assert!(poll!(pin!(second.drain(&handle))).is_ready() || !same);
            gate.open();
            assert_idle(&handle, 4).await;
            same.then_some(()) // another test may have been faster
        })
        .await;
    });
}

#[test]
fn a_drain_waits_for_requests_by_raw_descriptor_and_through_a_clone() {
    Fixture::new(1)
        .blocks(2)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let clone = file.try_clone().unwrap();
            let (gate, second) = (Gate::closed(), Gate::closed());
            let flags = ReadFlags::empty();
            let (mut a, mut b) = (buffer(BLOCK), buffer(BLOCK));
            let mut through_clone =
                Box::pin(clone.read_at(&handle, gate.offset(), &mut a, LEN, flags));
            assert!(poll!(&mut through_clone).is_pending());
            // It is queued, with a duplicate of the descriptor.
            let command = tokio_kaio::RawCommand::Pread {
                offset: second.offset(),
                buffer: &mut b,
                flags,
                len: LEN,
            };
            let mut by_descriptor = Box::pin(handle.submit_request(&file, command));
            assert!(poll!(&mut by_descriptor).is_pending());
            let mut drained = Box::pin(file.drain(&handle));
            assert!(poll!(&mut drained).is_pending());
            gate.open();
            through_clone.await.unwrap();
            for _ in 0..3 {
                assert!(poll!(&mut drained).is_pending(), "{mode:?}");
                tokio::task::yield_now().await;
            }
            second.open();
            by_descriptor.await.unwrap();
            drained.await;
        });
}

#[test]
fn a_write_after_a_drain_is_not_overtaken_by_a_dropped_one() {
    Fixture::new(8)
        .everywhere()
        .multi_thread()
        .run(async |case| {
            let (path, handle, mode) = (case.path, case.handle, case.mode);
            let file = File::create(&path, false).await.unwrap();
            for round in 0..60_u8 {
                let (mut old, mut new) = (buffer(16 * BLOCK), buffer(16 * BLOCK));
                old.fill(0xff);
                new.fill(round);
                let flags = WriteFlags::empty();
                for polls in 0..3 {
                    let mut dropped = Box::pin(file.write_at(&handle, 0, &old, 16 * LEN, flags));
                    for _ in 0..polls {
                        if poll!(&mut dropped).is_ready() {
                            break;
                        }
                    }
                }
                file.drain(&handle).await;
                let written = file.write_at(&handle, 0, &new, 16 * LEN, flags).await;
                assert_eq!(written.unwrap(), 16 * LEN);
                let bytes = std::fs::read(&path).unwrap();
                assert!(
                    bytes.iter().all(|&byte| byte == round),
                    "{mode:?}, round {round}"
                );
            }
        });
}

#[test]
fn several_drains_can_wait_at_once_and_be_dropped() {
    Fixture::new(4)
        .blocks(2)
        .every_mode()
        .multi_thread()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let gate = Gate::closed();
            let mut block = buffer(BLOCK);
            let flags = ReadFlags::empty();
            let mut read = Box::pin(file.read_at(&handle, gate.offset(), &mut block, LEN, flags));
            assert!(poll!(&mut read).is_pending());
            let mut drains: Vec<_> = (0..5).map(|_| Box::pin(file.drain(&handle))).collect();
            for drain in &mut drains {
                assert!(poll!(drain).is_pending());
            }
            drop(drains.remove(2));
            gate.open();
            read.await.unwrap();
            futures::future::join_all(drains).await;
        });
}

#[test]
fn a_drain_waits_for_every_shard() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8)
        .build(|builder| builder.shards(2))
        .blocks(8)
        .multi_thread()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            // More requests than one shard has slots.
            let gates: Vec<_> = (0..8).map(|_| Gate::closed()).collect();
            let mut buffers: Vec<_> = (0..8).map(|_| buffer(BLOCK)).collect();
            let flags = ReadFlags::empty();
            let reads = gates.iter().zip(&mut buffers);
            let reads =
                reads.map(|(gate, to)| file.read_at(&handle, gate.offset(), to, LEN, flags));
            let mut reads: Vec<_> = reads.map(Box::pin).collect();
            for read in &mut reads {
                assert!(poll!(read).is_pending());
            }
            let mut drained = Box::pin(file.drain(&handle));
            for gate in &gates {
                assert!(poll!(&mut drained).is_pending());
                gate.open();
            }
            drained.await;
            drop(reads);
        });
}

#[test]
fn an_ended_context_is_drained() {
    let dir = disk_dir();
    for mode in modes() {
        multi_thread().block_on(async {
            let (context, handle) = context_in(mode, 4);
            let file = File::create(dir.path().join("file"), false).await.unwrap();
            context.close().await;
            file.drain(&handle).await;
        });
    }
}
