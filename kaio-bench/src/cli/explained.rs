//! What `--help` says of patterns, shapes, engines and figures.

use crate::{Pattern, Shape};

pub(super) fn pattern(pattern: Pattern) -> &'static str {
    match pattern {
        Pattern::RandomRead => "reads of 4 KiB",
        Pattern::RandomWrite => "overwrites of 4 KiB",
        Pattern::Mixed => "seven random reads to three random overwrites, 4 KiB each",
        Pattern::SequentialRead => "reads of 128 KiB through the file",
        Pattern::SequentialWrite => "overwrites of 128 KiB through the file",
        Pattern::LogAppend => {
            "writes of 4 KiB one after another, each durable when it is done (O_DSYNC), within a \
             file that has its length already"
        }
    }
}

pub(super) fn shape(shape: Shape) -> &'static str {
    match shape {
        Shape::Tasks => "as many tasks as the depth, each with one transfer at a time",
        Shape::Waves => {
            "one task that starts as many transfers as the depth and waits for all of them"
        }
    }
}

pub(super) const FIGURES: &str = "\
Columns of the tables:
  CPU ns         user and system time of the process, nanoseconds a transfer
  user           how much of that is user space
  machine ns     time that the machine's CPUs were busy, with whatever it was, a transfer: with
                 interrupts and the kernel's threads, but with other programs too. `others`, above
                 the tables, is how busy those were before the start: unless it is near 0 %, leave
                 this column alone
  IOPS           transfers a second
  p50 p99 p99.9  latencies that 50, 99, 99.9 % did not exceed; of each transfer for tasks, of each
                 wave for waves
  calls, allocs  system calls and allocations a transfer
  ... ratio      to the baseline's. The median over rounds, with the quartiles in brackets: where
                 these are far apart, it can't be told; measure longer, or on a quieter machine

Engines (`--list` has the names, and others if this binary has any):
  bare                io_submit and io_getevents in a loop
  bare-epoll          the same, which waits in epoll as all on tokio has to
  bare-uring          io_uring in a loop
  kaio/...            tokio-kaio with two workers (multi-thread), the same in two shards, on one
                      thread, and its local context in a LocalSet
  spawn-blocking/...  pread and pwrite on tokio's pool
  tokio-fs            tokio::fs, through the page cache: another job than the rest

`pairs` measures ways to use tokio-kaio against each other: `pairs --help`.

With all engines, patterns, shapes and depths it runs for half an hour or more. To begin with:
  --patterns random-read --depths 1,32 --rounds 5";

pub(super) const PAIRS: &str = "\
Pairs; ratios are to the first way, so that above 1.00 another costs more than that:
  pool-4k, pool-128k  a read into a buffer of a `pool`; into a `fresh` AlignedBuf for each read; into
                      one that is `kept`
  batch               32 reads as a `batch`, waited for as a whole; `one-by-one`; with `join-all` of the
                      crate futures; as `tasks`, one spawned for each read
  vectored-read       64 KiB into 16 buffers: a `vectored` read; `read-and-copy`, from one buffer; a
                      vectored read into an `owned-list` of buffers, which is handed over
  vectored-write      the same from 16 buffers: `vectored`, `copy-and-write`, `owned-list`
  owned               a read into an AlignedBuf that is handed over and comes back (`owned`), and into
                      one that is `borrowed`; `owned-vec`, into the part of a Vec that is aligned
  unaligned-read      1000 bytes of a block to a slice (`unaligned`); all of it to an AlignedBuf
                      (`aligned`); all of it to a slice (`copied`)
  unaligned-write     the same from there: `unaligned` reads the block first

All on the current-thread runtime, in one task but for `tasks`. A transfer is one read or write, also
of pairs that make several a turn.

Columns of the tables:
  time ratio     wall time a transfer
  CPU ratio      user and system time of the process, a transfer. Both are medians over rounds, with
                 the quartiles in brackets: where these are far apart, it can't be told
  machine ratio  time that the machine's CPUs were busy, with whatever it was, a transfer. Unless
                 `others`, above the tables, is near 0 %, leave it alone
  allocs, calls  allocations and system calls a transfer, counted one by one; then which calls

Ratios are those of one run on one machine. kaio-bench/instructions.sh --pairs counts instructions.";
