//! Sizes and times on the command line, and sizes in what is said.

use std::time::Duration;

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

/// A time above 0, of a day at most, in seconds: `20`, `0.5`.
///
/// # Errors
///
/// Where it is no such time.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86400.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("say how many seconds, above 0 and up to 86400".into()),
    }
}

/// Bytes in the largest unit of which there is one.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes >> shift > 0);
    match unit {
        None => format!("{bytes} bytes"),
        Some((shift, name)) => {
            let number = bytes as f64 / (1_u64 << shift) as f64;
            let text = format!("{number:.1}");
            format!("{} {name}", text.trim_end_matches(".0"))
        }
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
    fn seconds_may_have_a_fraction() {
        assert_eq!(seconds("20"), Ok(Duration::from_secs(20)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "0", "-1", "1e9", "inf", "NaN", "2s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "0", "-1", "k", "4x", "1e40"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_in_the_largest_unit_of_which_there_is_one() {
        assert_eq!(bytes(512), "512 bytes");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(8 << 20), "8 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }
}
