//! Buffers of callers whose drop panics: each is dropped, whatever became of its operation, and the panic
//! goes no further.
#![allow(unsafe_code)] // a buffer

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::driver_fixture::*;
use crate::IoBuf;
use crate::backend::OpCode;
use crate::context::TransferMode;
use crate::context::test_operations::op_of_request;
use crate::op::{BufferReturn, FileRef, IoOp, OwnedBuffer};

/// A buffer that counts its drops, and panics then.
#[derive(Default)]
struct PanickingBuffer {
    bytes: Vec<u8>,
    drops: Option<Arc<AtomicUsize>>,
}

// SAFETY: the bytes are those of a vector, which nothing changes.
unsafe impl IoBuf for PanickingBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for PanickingBuffer {
    fn drop(&mut self) {
        if let Some(drops) = &self.drops {
            drops.fetch_add(1, Relaxed);
            panic!("the drop of a buffer");
        }
    }
}

/// Number of operations: two panics in one drop would abort the process.
const OPS: usize = 3;

/// Operations that are in flight.
fn start_writes<'a>(fixture: &'a Fixture, drops: &Arc<AtomicUsize>) -> Vec<Task<'a, LocalTypes>> {
    let write = |label| {
        let op = IoOp {
            offset: label,
            ..IoOp::new(OpCode::Write)
        };
        let buffer = PanickingBuffer {
            bytes: vec![7; 16],
            drops: Some(Arc::clone(drops)),
        };
        let (request, _) = OwnedBuffer::write(op, buffer);
        let request = (request, BufferReturn::Caller, TransferMode::Single);
        let file = FileRef::Open(&fixture.file);
        let mut write = Task::new(op_of_request(&fixture.driver, file, request));
        assert!(write.poll().is_pending());
        write
    };
    (0..OPS as i64).map(write).collect()
}

#[test]
fn buffers_of_requests_in_flight_are_dropped_when_their_context_is_orphaned() {
    let drops = Arc::default();
    let fixture = Fixture::new(config(OPS));
    let writes = start_writes(&fixture, &drops);
    fixture.orphan();
    fixture.wait_until_gone();
    assert_eq!(drops.load(Relaxed), OPS);
    drop(writes);
}

#[test]
fn buffers_of_forgotten_operations_are_dropped_with_the_last_handle() {
    let drops = Arc::default();
    let fixture = Fixture::new(config(OPS));
    let mut driver_task = fixture.driver_task();
    start_writes(&fixture, &drops)
        .into_iter()
        .for_each(mem::forget);
    fixture.complete_all(&mut driver_task);
    drop(driver_task);
    fixture.wait_until_gone();
    assert_eq!(drops.load(Relaxed), 0);
    drop(fixture);
    assert_eq!(drops.load(Relaxed), OPS);
}
