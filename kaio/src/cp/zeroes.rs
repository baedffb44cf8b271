//! Which blocks of a buffer are zeroes, for `--sparse always`.

use std::ops::Range;

static ZEROES: [u8; 4096] = [0; 4096];

/// The parts of `bytes` that are to be written: runs of blocks of `grain` bytes of which each has
/// something other than zeroes. The last block may be a part of one.
pub(super) fn not_zero(bytes: &[u8], grain: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, block) in bytes.chunks(grain).enumerate() {
        if is_zero(block) {
            continue;
        }
        let (start, end) = (number * grain, number * grain + block.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// By comparing memory with memory, which is what processors are best at.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(ZEROES.len())
        .all(|part| *part == ZEROES[..part.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_have_something_are_runs() {
        let mut bytes = vec![0; 10 * 512 + 3];
        for at in [0, 511, 512, 4 * 512 + 7, 10 * 512 + 2] {
            bytes[at] = 1;
        }
        assert_eq!(not_zero(&bytes, 512), [0..1024, 2048..2560, 5120..5123]);
        assert_eq!(not_zero(&bytes, 8192), [0..5123]);
        assert_eq!(not_zero(&[0; 20000], 16384), []);
        assert_eq!(not_zero(&[], 512), []);
    }
}
