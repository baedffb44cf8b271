//! Parses and formats sizes, times and numbers of the command line.

use std::ops::RangeInclusive;
use std::time::Duration;

use parse_size::Config;

/// Parses a number of bytes above 0: `4096`, `4k`, `1M`, `1MiB`, `1.5G`. The letters are powers of 1024.
///
/// # Errors
///
/// The text is not such a number.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|_| "expected a size, such as 4096, 4k, 1M or 1.5G".to_owned())?;
    match bytes {
        0 => Err("the size must be above 0".into()),
        bytes => Ok(bytes),
    }
}

/// Parses a time in seconds, above 0 and at most one day: `20`, `0.5`.
///
/// # Errors
///
/// The text is not such a time.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86400.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a number of seconds above 0 and up to 86400".into()),
    }
}

/// Parses a whole number in `range`. `form` says what the whole value looks like, if the number is one
/// of several.
///
/// # Errors
///
/// The text is not such a number.
pub(crate) fn parse_number<T>(
    text: &str,
    range: &RangeInclusive<T>,
    form: &str,
) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "expected {form} from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Formats bytes in the largest unit that is not above them.
pub(crate) fn format_bytes(bytes: u64) -> String {
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
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("1.5G"), Ok(3 << 29));
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(parse_seconds("20"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "0", "-1", "1e9", "inf", "NaN", "2s"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_outside_its_range_is_refused_and_the_error_says_what_is_expected() {
        let number = |text| parse_number(text, &(1..=9_u16), "a number");
        assert_eq!(number("9"), Ok(9));
        for text in ["", "0", "10", "1-4", "-1", "70000"] {
            assert_eq!(number(text), Err("expected a number from 1 to 9".into()));
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in ["", "0", "-1", "k", "4x", "1e40"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_formatted_in_the_largest_unit_that_fits() {
        assert_eq!(format_bytes(512), "512 bytes");
        assert_eq!(format_bytes(4096), "4 KiB");
        assert_eq!(format_bytes(8 << 20), "8 MiB");
        assert_eq!(format_bytes(3 << 29), "1.5 GiB");
    }
}
