//! Sizes on the command line.

use parse_size::Config;

/// A number of bytes above 0: `4096`, `4k`, `1M`, `1MiB`, `1.5G`. The letters are powers of 1024.
///
/// # Errors
///
/// Where it is no such number.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bytes = Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|error| format!("{error}; say 4096, 4k, 1M, 1.5G"))?;
    match bytes {
        0 => Err("has to be above 0".into()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_powers_of_1024() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("4k"), Ok(4096));
        assert_eq!(size("64K"), Ok(65536));
        assert_eq!(size("1M"), Ok(1 << 20));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("1.5G"), Ok(3 << 29));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "0", "-1", "k", "4x", "1e40"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
