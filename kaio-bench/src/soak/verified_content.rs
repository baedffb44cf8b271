//! Content that can be computed from a seed and a position, and so verified after every read.

use crate::soak_job::Result;

/// Fills `bytes` with the content of `seed` from byte `offset` on.
pub(crate) fn fill(mut bytes: &mut [u8], seed: u64, offset: u64) {
    let mut skip = (offset % 8) as usize;
    for index in offset / 8.. {
        let word = word_at(seed, index).to_le_bytes();
        let len = bytes.len().min(8 - skip);
        let (now, later) = bytes.split_at_mut(len);
        now.copy_from_slice(&word[skip..skip + len]);
        if later.is_empty() {
            break;
        }
        (bytes, skip) = (later, 0);
    }
}

/// The bytes of `seed` from byte `offset` on.
pub(crate) fn content(len: usize, seed: u64, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, seed, offset);
    bytes
}

/// Whether `bytes` are the content of `seed` from byte `offset` on.
pub(crate) fn is_content(bytes: &[u8], seed: u64, offset: u64) -> bool {
    first_wrong(bytes, seed, offset).is_none()
}

/// Checks that `bytes` are the content of `seed` from byte `offset` on.
///
/// # Errors
///
/// If they are not: says where, and in what.
pub(crate) fn verify(bytes: &[u8], seed: u64, offset: u64, what: &str) -> Result<()> {
    match first_wrong(bytes, seed, offset) {
        None => Ok(()),
        Some(at) => Err(format!(
            "WRONG DATA: {what}, seed {seed:#x}: {} bytes at offset {offset}, wrong from {} on",
            bytes.len(),
            offset + at as u64
        )
        .into()),
    }
}

fn first_wrong(bytes: &[u8], seed: u64, offset: u64) -> Option<usize> {
    let mut expected = [0; 4096];
    for (index, part) in bytes.chunks(expected.len()).enumerate() {
        let at = index * expected.len();
        let expected = &mut expected[..part.len()];
        fill(expected, seed, offset + at as u64);
        if expected != part {
            return part
                .iter()
                .zip(expected)
                .position(|(is, wanted)| is != wanted)
                .map(|byte| at + byte);
        }
    }
    None
}

fn word_at(seed: u64, index: u64) -> u64 {
    let word = (seed ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ word >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_found_with_its_offset() {
        for (len, offset) in [(1, 0), (8, 3), (5000, 4093), (9001, 1 << 40)] {
            let mut bytes = content(len, 7, offset);
            assert!(is_content(&bytes, 7, offset));
            assert!(!is_content(&bytes, 8, offset) || len == 1);
            // The same as a part of a longer content.
            assert!(bytes.starts_with(&content(len / 2, 7, offset)));
            assert!(is_content(&bytes[len / 3..], 7, offset + (len / 3) as u64));
            bytes[len - 1] ^= 1;
            let error = verify(&bytes, 7, offset, "a file").unwrap_err().to_string();
            let end = format!("wrong from {} on", offset + len as u64 - 1);
            assert!(error.ends_with(&end), "{error}");
        }
    }
}
