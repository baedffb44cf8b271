//! [`replace_block`]: generated parts of a page.

use crate::Result;

/// Replaces what is between `<!-- NAME: generated -->` and `<!-- NAME: end -->`.
///
/// Fails if the page does not have these lines.
pub(crate) fn replace_block(page: &mut String, name: &str, text: &str) -> Result<()> {
    let (start, end) = (
        format!("<!-- {name}: generated -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let missing = |line: &str| format!("the page lacks the line {}", line.trim_end());
    let from = page.find(&start).ok_or_else(|| missing(&start))? + start.len();
    let len = page[from..].find(&end).ok_or_else(|| missing(&end))?;
    page.replace_range(from..from + len, &format!("\n{}\n\n", text.trim_end()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_replaced_again_and_again() {
        let mut page = "a\n<!-- x: generated -->\nold\n<!-- x: end -->\nb\n".to_owned();
        for _ in 0..2 {
            replace_block(&mut page, "x", "new\n").unwrap();
            assert_eq!(
                page,
                "a\n<!-- x: generated -->\n\nnew\n\n<!-- x: end -->\nb\n"
            );
        }
        let error = replace_block(&mut page, "y", "new").unwrap_err();
        assert!(error.to_string().contains("<!-- y: generated -->"));
    }
}
