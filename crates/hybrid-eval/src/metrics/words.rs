//! Words between white space, as Python's `str.split` finds them.

/// Python also takes the four ASCII separators (`\x1c` to `\x1f`) for white space.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// The runs of characters between white space.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// The text without white space at its end.
pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// The words with one space between them.
pub(crate) fn single_spaced(text: &str) -> String {
    words(text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{single_spaced, trim_end};

    #[test]
    fn every_kind_of_white_space_parts_words() {
        assert_eq!(
            single_spaced("\u{1c}a\u{1f}\u{3000} b\n\u{85}c\u{200b}"),
            "a b c\u{200b}"
        );
        assert_eq!(trim_end(" a \u{1d}\u{a0}"), " a");
        assert_eq!(single_spaced(" \t"), "");
    }
}
