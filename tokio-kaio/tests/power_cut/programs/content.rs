//! The bytes that an operation writes.

/// A number that depends on all three arguments: the SplitMix64 function of them.
pub fn random(seed: u64, operation: u64, index: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(operation)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .wrapping_add(index)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The number of the operation, and behind it up to `longest` bytes that differ everywhere: a sector that is
/// missing, old or in a wrong place is noticed. Most contents are short.
pub fn content(seed: u64, operation: u64, longest: u64) -> Vec<u8> {
    let size = random(seed, operation, 0);
    let longest = if size % 4 == 0 { longest } else { longest / 16 };
    let len = (size >> 8) % (longest + 1);
    let mut bytes = operation.to_le_bytes().to_vec();
    for index in 1..=len.div_ceil(8) {
        bytes.extend_from_slice(&random(seed, operation, index).to_le_bytes());
    }
    bytes.truncate(8 + len as usize);
    bytes
}

/// The number of the operation that has written a content.
pub fn operation_of(content: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*content.first_chunk()?))
}
