//! Requests: data, errors, space, times, and the trace.

use std::time::Duration;

use super::disk_fixture::{Disk, NOW, small_sectors, write};
use crate::simulation::model::{AllocateKind, DiskConfig, Inode, Now, Request, RequestKind};
use crate::simulation::{Bandwidth, Latency};

fn request(inode: Inode, kind: RequestKind<'_>) -> Request<'_> {
    Request {
        inode,
        direct: true,
        kind,
    }
}

#[test]
fn direct_transfers_are_aligned_to_the_sector() {
    let mut disk = Disk::new(small_sectors());
    let file = disk.create("file");
    for kind in [
        write(1, &[&[0; 512]]),
        write(0, &[&[0; 511]]),
        RequestKind::Read {
            offset: 1,
            len: 512,
        },
        RequestKind::Read {
            offset: 0,
            len: 100,
        },
    ] {
        let begun = disk.0.begin(NOW, request(file, kind));
        let result = disk.0.finish(NOW, begun.id, &mut |_, _| {});
        assert_eq!(result, Err(libc::EINVAL), "{kind:?}");
    }
    disk.write(file, 0, b"odd"); // not direct
    let read = RequestKind::Read {
        offset: 0,
        len: 512,
    };
    let begun = disk.0.begin(NOW, request(file, read));
    let result = disk.0.finish(NOW, begun.id, &mut |_, _| {});
    assert_eq!(result, Ok(3), "a read ends at the end of the file");
}

#[test]
fn requests_fail_as_on_linux() {
    let mut disk = Disk::new(small_sectors());
    disk.0.create_dir(NOW, "dir").unwrap();
    let dir = disk.0.stat("dir").unwrap().inode;
    let file = disk.create("file");
    let mut run = |inode, kind| disk.run(inode, kind);
    assert_eq!(run(dir, write(0, &[b"1"])), Err(libc::EISDIR));
    assert_eq!(run(dir, RequestKind::Fsync), Ok(0));
    assert_eq!(run(file, RequestKind::SyncDir), Err(libc::ENOTDIR));
    assert_eq!(run(Inode(99), RequestKind::Fsync), Err(libc::EBADF));
    assert_eq!(run(file, write(i64::MAX as u64, &[b"1"])), Err(libc::EFBIG));
    assert_eq!(run(file, write(5, &[])), Ok(0));
    let set_len = disk.0.set_len(NOW, file, 1 << 63);
    assert_eq!(set_len, Err(libc::EFBIG));
    let allocate = disk.0.allocate(NOW, file, AllocateKind::Extend, 0, 0);
    assert_eq!(allocate, Err(libc::EINVAL));
    assert_eq!(disk.0.stat_inode(file).unwrap().len, 0);
}

#[test]
fn a_full_disk_writes_what_fits_and_then_nothing() {
    let mut disk = Disk::new(DiskConfig {
        size: 3 * 4096,
        ..small_sectors()
    });
    let file = disk.create("file");
    disk.write(file, 0, &[1; 4096]);
    assert_eq!(disk.run(file, write(4096, &[&[2; 12288]])), Ok(8192));
    assert_eq!(
        disk.run(file, write(12288, &[&[3; 512]])),
        Err(libc::ENOSPC)
    );
    disk.write(file, 512, &[4; 512]);
    let kind = AllocateKind::KeepSize;
    assert_eq!(
        disk.0.allocate(NOW, file, kind, 0, 16384),
        Err(libc::ENOSPC)
    );
    disk.0.set_len(NOW, file, 4096).unwrap();
    disk.0.allocate(NOW, file, kind, 4096, 8192).unwrap();
    let other = disk.create("other");
    assert_eq!(disk.run(other, write(0, &[b"1"])), Err(libc::ENOSPC));
    disk.write(file, 8192, &[5; 512]); // allocated before
    disk.0.unlink(NOW, "file").unwrap();
    assert_eq!(disk.run(other, write(0, &[b"1"])), Err(libc::ENOSPC));
    disk.0.close(NOW, file);
    disk.write(other, 0, b"1");
}

#[test]
fn requests_share_the_queue_and_the_bandwidth() {
    let ms = Duration::from_millis;
    let mut disk = Disk::new(DiskConfig {
        queue_depth: 2,
        read_latency: Latency::constant(ms(10)),
        ..small_sectors()
    });
    let file = disk.create("file");
    let read = RequestKind::Read {
        offset: 0,
        len: 512,
    };
    let mut due = |at| disk.0.begin(Now(at), request(file, read)).due.unwrap();
    let dues = [due(ms(0)), due(ms(0)), due(ms(0)), due(ms(5)), due(ms(30))];
    assert_eq!(dues, [ms(10), ms(10), ms(20), ms(20), ms(40)]);

    let mut disk = Disk::new(DiskConfig {
        write_bandwidth: Some(Bandwidth::constant(512 * 100)),
        flush_latency: Latency::constant(ms(3)),
        ..small_sectors()
    });
    let file = disk.create("file");
    let data = [0; 512];
    let mut due = |kind| disk.0.begin(NOW, request(file, kind)).due.unwrap();
    let dues = [
        due(write(0, &[&data])),
        due(write(0, &[&data])),
        due(RequestKind::Fsync),
        due(read),
    ];
    assert_eq!(dues, [ms(10), ms(20), ms(3), ms(0)]);
}

#[test]
fn latencies_have_their_distributions() {
    let us = Duration::from_micros;
    let sorted = |latency: Latency| {
        let mut disk = Disk::new(DiskConfig {
            read_latency: latency,
            ..small_sectors()
        });
        let file = disk.create("file");
        let read = RequestKind::Read {
            offset: 0,
            len: 512,
        };
        let mut due = |_| {
            let begun = disk.0.begin(NOW, request(file, read));
            disk.0.cancel(NOW, begun.id);
            begun.due.unwrap()
        };
        // Each on an idle disk: a deep queue would do as well.
        let mut times: Vec<Duration> = (0..20).map(&mut due).collect();
        times.sort();
        times
    };
    let times = sorted(Latency::uniform(us(10), us(20)));
    assert!(times[0] >= us(10) && times[19] <= us(20), "{times:?}");
    assert!(times[0] < us(14) && times[19] > us(16), "{times:?}");
    let times = sorted(Latency::exponential(us(10), us(100)));
    assert!(times[0] >= us(10) && times[0] < us(60), "{times:?}");
    assert!(times[19] > us(110), "{times:?}");
    let points = [
        (0.0, us(1)),
        (50.0, us(2)),
        (99.9, us(3)),
        (100.0, us(1000)),
    ];
    let times = sorted(Latency::percentiles(&points));
    assert!(times[0] < us(2) && times[18] > us(2), "{times:?}");
}

#[test]
fn the_same_calls_have_the_same_trace() {
    let run = |seed, data: &[u8]| {
        let mut disk = Disk::new(DiskConfig {
            seed,
            write_latency: Latency::exponential(Duration::ZERO, Duration::from_millis(1)),
            ..small_sectors()
        });
        let file = disk.create("file");
        disk.write(file, 0, data);
        disk.fsync(file);
        disk.rename("file", "renamed");
        let image = disk.0.power_cut(NOW);
        (
            disk.0.trace().to_string(),
            disk.0.trace_hash(),
            format!("{image:?}"),
        )
    };
    assert_eq!(run(1, b"data"), run(1, b"data"));
    assert_ne!(run(1, b"data").1, run(1, b"DATA").1, "the data counts");
    let text = run(1, b"data").0;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 7, "{text}");
    assert_eq!(lines[0], "1 0.000000000 open \"file\" = 1");
    assert!(lines[1].starts_with("2 0.000000000 begin 1 write inode 1 offset 0 len 4 data "));
    assert_eq!(lines[2], "3 0.000000000 finish 1 = 4");
    assert_eq!(lines[5], "6 0.000000000 rename \"file\" \"renamed\" = 0");
    assert_eq!(lines[6], "7 0.000000000 power cut");
}

#[test]
fn a_trace_keeps_its_last_events_and_the_hash_of_all() {
    let run = |trace_events| {
        let mut disk = Disk::new(DiskConfig {
            trace_events,
            ..small_sectors()
        });
        let file = disk.create("file");
        for _ in 0..10 {
            disk.write(file, 0, b"data");
        }
        (
            disk.0.trace().to_string().lines().count(),
            disk.0.trace_hash(),
        )
    };
    let (lines, hash) = run(100);
    assert_eq!(lines, 21);
    assert_eq!(run(5), (6, hash), "with a line about the others");
    assert_eq!(run(0), (1, hash));
}

#[test]
fn the_power_is_cut_after_an_event() {
    for event in 1..8 {
        let mut disk = Disk::new(small_sectors());
        disk.0.cut_power_after(NOW, event);
        let results = [
            disk.0.create_dir(NOW, "a"),
            disk.0.create_dir(NOW, "b"),
            disk.0.create_dir(NOW, "c"),
        ];
        let done = results.iter().filter(|result| result.is_ok()).count() as u64;
        assert_eq!(done, event.min(3));
        assert_eq!(disk.0.power_cut_image().is_some(), event <= 3);
    }
}
