//! Finds blocks of zeroes in a buffer, for `--sparse always`.

use std::ops::Range;

static ZEROES: [u8; 4096] = [0; 4096];

/// Returns the ranges of `bytes` to write: runs of blocks of `alignment` bytes that are not all zeroes.
/// The last block may be shorter.
pub(super) fn nonzero_ranges(bytes: &[u8], alignment: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, block) in bytes.chunks(alignment).enumerate() {
        if is_zero(block) {
            continue;
        }
        let (start, end) = (number * alignment, number * alignment + block.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// Compares with a page of zeroes, because memory comparison is vectorized.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(ZEROES.len())
        .all(|part| *part == ZEROES[..part.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_are_not_all_zeroes_form_ranges() {
        let mut bytes = vec![0; 10 * 512 + 3];
        for at in [0, 511, 512, 4 * 512 + 7, 10 * 512 + 2] {
            bytes[at] = 1;
        }
        assert_eq!(
            nonzero_ranges(&bytes, 512),
            [0..1024, 2048..2560, 5120..5123]
        );
        assert_eq!(nonzero_ranges(&bytes, 8192), [0..5123]);
        assert_eq!(nonzero_ranges(&[0; 20000], 16384), []);
        assert_eq!(nonzero_ranges(&[], 512), []);
    }
}
