//! Sizes as text.

/// Formats bytes in the largest unit that is not above them: `512 bytes`, `1.5 MiB`.
pub(crate) fn format_bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        None if bytes == 1 => "1 byte".to_owned(),
        None => format!("{bytes} bytes"),
        Some((shift, unit)) => {
            let number = format!("{:.1}", bytes as f64 / (1_u64 << shift) as f64);
            format!("{} {unit}", number.trim_end_matches(".0"))
        }
    }
}

/// Parses a number of bytes above 0: `4096`, `512M`, `1.5G`, `64MiB`. The letters are powers of 1024.
///
/// # Errors
///
/// The text is not such a number.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let letters = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &text[..text.len() - letters.len()];
    let shift = match letters.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => 64,
    };
    match number.parse::<f64>() {
        Ok(number) if shift < 64 && number * (1_u64 << shift) as f64 >= 1.0 => {
            Ok((number * (1_u64 << shift) as f64) as usize)
        }
        _ => Err("expected a size above 0, such as 512M or 1.5G".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_formatted_in_the_largest_unit_that_fits() {
        assert_eq!(format_bytes(0), "0 bytes");
        assert_eq!(format_bytes(1), "1 byte");
        assert_eq!(format_bytes(1023), "1023 bytes");
        assert_eq!(format_bytes(1024), "1 KiB");
        assert_eq!(format_bytes(3 << 19), "1.5 MiB");
        assert_eq!(format_bytes(5 << 40), "5 TiB");
    }

    #[test]
    fn letters_are_powers_of_1024() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("4k"), Ok(4096));
        assert_eq!(parse_bytes("1.5G"), Ok(3 << 29));
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        for text in ["", "0", "0.1", "-1", "M", "1.2.3", "4x", "1e9"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
