//! The long parts of `--help`: patterns, shapes, columns, engines and pairs.

use crate::scale::Axis;
use crate::{Pattern, Shape};

pub(super) fn pattern(pattern: Pattern) -> &'static str {
    match pattern {
        Pattern::RandomRead => "random reads of 4 KiB",
        Pattern::RandomWrite => "random overwrites of 4 KiB",
        Pattern::Mixed => "70 % random reads and 30 % random overwrites of 4 KiB",
        Pattern::SequentialRead => "sequential reads of 128 KiB",
        Pattern::SequentialWrite => "sequential overwrites of 128 KiB",
        Pattern::LogAppend => {
            "sequential, durable writes of 4 KiB (O_DSYNC) within a preallocated log"
        }
    }
}

pub(super) fn shape(shape: Shape) -> &'static str {
    match shape {
        Shape::Tasks => "one task per unit of depth, each with one transfer in flight",
        Shape::Waves => "one task that starts `depth` transfers at once and waits for all of them",
    }
}

pub(super) fn axis(axis: Axis) -> &'static str {
    match axis {
        Axis::Tasks => "tasks that each make one read at a time, most of which wait for a slot",
        Axis::Files => "descriptors of the file, which the tasks use in turn",
        Axis::Contexts => "contexts, which the tasks use in turn and which share the slots",
    }
}

pub(super) const SCALE: &str = "\
Each table has one engine, and a row for each number of tasks, files or contexts. The work is random
reads of 4 KiB. All rows of a table have the same number of requests in flight, so the kernel and the
device do the same for each read. Ratios are relative to the first row: with 1.10, a read costs 10 %
more than in the first row. Starting and ending the tasks is not measured.

Measure on a disk. On tmpfs a read completes inside its submission, so a task rarely waits.

Engines without contexts, or whose runtime is one context, have no rows with several. Engines that do
not limit the requests in flight have one of each task in flight.";

pub(super) const FIGURES: &str = "\
Columns of the tables:
  CPU ns         user and system time of the process, in nanoseconds per transfer
  user           user-space share of the CPU time
  machine ns     busy time of all CPUs of the machine, in nanoseconds per transfer. It includes
                 interrupts and kernel threads, but also other programs. Ignore it unless `others`,
                 above the tables, is near 0 %: that is how busy the machine was before the start
  IOPS           transfers per second
  p50 p99 p99.9  latency percentiles: of each transfer for tasks, of each wave for waves
  calls, allocs  system calls and allocations per transfer
  ... ratio      relative to the baseline: median over rounds, with the quartiles in brackets. If
                 the quartiles are far apart, the result is not conclusive: use more or longer
                 rounds, or a quieter machine

Engines (`--list` lists all engines of this binary):
  bare                io_submit and io_getevents in a loop
  bare-epoll          the same loop, but it waits in epoll, as every tokio program does
  bare-uring          io_uring in a loop
  bare-tokio/...      io_submit and io_getevents from tokio tasks, with as little code as possible: with
                      two workers (multi-thread), on one thread (current-thread)
  kaio/...            tokio-kaio: with two workers (multi-thread), with two workers and two shards,
                      on one thread (current-thread), and its local context in a LocalSet.
                      With -groups, one context, and a group in place of each context of `scale`
  spawn-blocking/...  pread and pwrite on tokio's blocking pool
  tokio-fs            tokio::fs through the page cache, so not comparable with the others

`pairs` compares ways to use tokio-kaio: see `pairs --help`. `scale` measures the cost of a read with more
tasks, files and contexts: see `scale --help`.

With all engines, patterns, shapes and depths a measurement takes at least half an hour. To begin:
  --patterns random-read --depths 1,32 --rounds 5";

pub(super) const PAIRS: &str = "\
Pairs. Ratios are relative to the first variant: above 1.00, a variant costs more than the first.
  pool-4k, pool-128k  a read into a buffer of a `pool`; of a pool with `size-classes`; into a `fresh`
                      AlignedBuf for each read; into one `kept` buffer
  batch               32 reads as a `batch`, awaited as a whole; `one-by-one`; with `join-all` of the
                      crate futures; as `tasks`, one spawned for each read
  vectored-read       64 KiB into 16 buffers: a `vectored` read; `read-and-copy`, through one buffer;
                      a vectored read into an `owned-list` of buffers
  vectored-write      the same for writes: `vectored`, `copy-and-write`, `owned-list`
  owned               a read into an `owned` AlignedBuf, which the operation returns; into a
                      `borrowed` one; into the aligned part of an owned Vec (`owned-vec`)
  group               a read by a handle without a group (`ungrouped`), with one (`grouped`), and
                      with one that has limits (`limited`)
  unaligned-read      1000 bytes of a block into a slice (`unaligned`); a whole block into an
                      AlignedBuf (`aligned`); a whole block into a slice (`copied`)
  unaligned-write     the same for writes; `unaligned` reads the block first
  read-range          32 ranges of 4 KiB in two blocks each, as Bytes: with `read-range`; with
                      `read-at-pool`, into a pooled buffer that is sliced; with `read-bytes-at`
  read-ranges         100 ranges of 8 KiB, as Bytes: with one call of `read-ranges`; `joined`, a call
                      of read_range for each; `pread-loop`, one job of the blocking pool
  stream-read         a file in order: copied out of a FileReader (`reader`); in its buffers (`lent`);
                      1 MiB at a time with `pread` and O_DIRECT; with `tokio-fs` and a BufReader,
                      from a cold page cache
  stream-write        a new file in order, made durable: a FileWriter (`writer`); 1 MiB at a time with
                      `pwrite` and O_DIRECT; `tokio-fs`
  extend              8 tasks, each writes the next 4 KiB of a file that grows: with pwrite on the
                      blocking pool (`spawn-blocking`), with `kaio` on kernel AIO, and on io_uring
                      (`kaio-uring`)
  log                 the same, and each write is durable when it returns (DSYNC)
  log-one             the same with one task

All variants run on the current-thread runtime, and in one task, except `tasks`, `extend` and `log`.
All figures are per read or write, also for pairs with several in one iteration.

Columns of the tables:
  time ratio     wall time per transfer
  CPU ratio      user and system time of the process per transfer. Both are medians over rounds,
                 with the quartiles in brackets. If these are far apart, the result is not conclusive
  machine ratio  busy time of all CPUs of the machine per transfer. Ignore it unless `others`, above
                 the tables, is near 0 %
  allocs, calls  allocations and system calls per transfer; then the system calls by name

Ratios are valid for one run on one machine. kaio-bench/instructions.sh --pairs counts instructions.";
