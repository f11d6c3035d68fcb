//! How the mteval scripts and sacreBLEU 2.6.0 part words from punctuation.
//!
//! Each rule is a substitution of sacreBLEU's, and all are applied in its order.

use unicode_general_category::{GeneralCategory, get_general_category};

use super::words::single_spaced;

/// How BLEU finds the words of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BleuTokenizer {
    /// `13a`, sacreBLEU's default: Western punctuation becomes words of its own, as in
    /// mteval-v13a.
    #[default]
    V13a,
    /// `intl`: all punctuation and symbols of Unicode become words of their own, except punctuation
    /// within numbers, as in mteval-v14.
    International,
    /// `char`: each character is a word.
    Characters,
    /// `none`: words are what stands between white space.
    None,
}

impl BleuTokenizer {
    /// sacreBLEU's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::International => "intl",
            Self::Characters => "char",
            Self::None => "none",
        }
    }

    /// The text with white space between its words.
    ///
    /// ```
    /// use hybrid_eval::BleuTokenizer;
    ///
    /// let text = "It's 3.5% (or \u{201c}less\u{201d}).";
    /// assert_eq!(BleuTokenizer::V13a.tokenize(text), "It's 3.5 % ( or \u{201c}less\u{201d} ) .");
    /// assert_eq!(
    ///     BleuTokenizer::International.tokenize(text),
    ///     "It ' s 3.5 % ( or \u{201c} less \u{201d} ) ."
    /// );
    /// ```
    pub fn tokenize(self, text: &str) -> String {
        match self {
            Self::V13a => single_spaced(&v13a(text)),
            Self::International => single_spaced(&international(text)),
            Self::Characters => surround(text, |_| true),
            Self::None => text.to_owned(),
        }
    }
}

fn v13a(text: &str) -> String {
    let text = text
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    let text = format!(" {} ", unescape(&text));
    split_periods_and_dashes(&surround(&text, is_western_punctuation))
}

fn international(text: &str) -> String {
    let text = split_pairs(text, |c| !is_number(c), is_punctuation, Alone::Second);
    let text = split_pairs(&text, is_punctuation, |c| !is_number(c), Alone::First);
    surround(&text, is_symbol)
}

/// Undoes the escapes of XML that the scripts know, in their order.
pub(crate) fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
}

/// ASCII punctuation and the space, without apostrophe, comma, hyphen and period.
pub(crate) fn is_western_punctuation(character: char) -> bool {
    matches!(character, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/')
}

/// Parts periods and commas that are not within a number, and dashes that follow a digit.
pub(crate) fn split_periods_and_dashes(text: &str) -> String {
    let is_period = |c| matches!(c, '.' | ',');
    let is_digit = |c: char| c.is_ascii_digit();
    let text = split_pairs(text, |c| !is_digit(c), is_period, Alone::Second);
    let text = split_pairs(&text, is_period, |c| !is_digit(c), Alone::First);
    split_pairs(&text, is_digit, |c| c == '-', Alone::Second)
}

/// Puts spaces around each character that `is_alone`.
pub(crate) fn surround(text: &str, is_alone: impl Fn(char) -> bool) -> String {
    let mut spaced = String::with_capacity(text.len() * 2);
    for character in text.chars() {
        if is_alone(character) {
            spaced.extend([' ', character, ' ']);
        } else {
            spaced.push(character);
        }
    }
    spaced
}

/// Which character of a pair gets spaces around it.
#[derive(Clone, Copy)]
enum Alone {
    First,
    Second,
}

/// Puts spaces around one character of each pair of neighbours that `first` and `second` accept.
/// Pairs are found from the left and do not overlap, as a regular expression's matches.
fn split_pairs(
    text: &str,
    first: impl Fn(char) -> bool,
    second: impl Fn(char) -> bool,
    alone: Alone,
) -> String {
    let mut spaced = String::with_capacity(text.len() * 2);
    let mut characters = text.chars().peekable();
    while let Some(a) = characters.next() {
        match (characters.next_if(|b| first(a) && second(*b)), alone) {
            (Some(b), Alone::First) => spaced.extend([' ', a, ' ', b]),
            (Some(b), Alone::Second) => spaced.extend([a, ' ', b, ' ']),
            (None, _) => spaced.push(a),
        }
    }
    spaced
}

fn is_number(character: char) -> bool {
    matches!(
        get_general_category(character),
        GeneralCategory::DecimalNumber
            | GeneralCategory::LetterNumber
            | GeneralCategory::OtherNumber
    )
}

fn is_punctuation(character: char) -> bool {
    matches!(
        get_general_category(character),
        GeneralCategory::ConnectorPunctuation
            | GeneralCategory::DashPunctuation
            | GeneralCategory::OpenPunctuation
            | GeneralCategory::ClosePunctuation
            | GeneralCategory::InitialPunctuation
            | GeneralCategory::FinalPunctuation
            | GeneralCategory::OtherPunctuation
    )
}

fn is_symbol(character: char) -> bool {
    matches!(
        get_general_category(character),
        GeneralCategory::MathSymbol
            | GeneralCategory::CurrencySymbol
            | GeneralCategory::ModifierSymbol
            | GeneralCategory::OtherSymbol
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::BleuTokenizer;

    /// Outputs of sacreBLEU 2.6.0.
    #[test]
    fn punctuation_is_parted_as_by_the_reference() {
        let cases = [
            (
                "1,000.5 a.b.c -- 5-6 x-y 3-",
                "1,000.5 a . b . c -- 5 - 6 x-y 3 -",
                "1,000.5 a . b . c - - 5-6 x - y 3-",
            ),
            (
                "&amp;lt;b&gt; &quot;q&quot; &apos;",
                "< b > \" q \" & apos ;",
                "& amp ; lt ; b & gt ; & quot ; q & quot ; & apos ;",
            ),
            (
                "foo-\nbar\n-baz <skipped>x",
                "foobar -baz x",
                "foo - bar - baz < skipped > x",
            ),
            (
                "€5 + ¼½ ②. 3’4 a_b ٣٫٥٪",
                "€5 + ¼½ ② . 3’4 a _ b ٣٫٥٪",
                "€ 5 + ¼½ ② . 3’4 a _ b ٣٫٥٪",
            ),
            ("U.S.A.,9.9.9", "U . S . A . ,9.9.9", "U . S . A . ,9.9.9"),
            (
                "、。「日本」３，５",
                "、。「日本」３，５",
                "、 。 「 日本 」 ３，５",
            ),
            ("'s it's 'S", "'s it's 'S", "' s it ' s ' S"),
            ("", "", ""),
        ];
        for (text, v13a, international) in cases {
            assert_eq!(BleuTokenizer::V13a.tokenize(text), v13a);
            assert_eq!(BleuTokenizer::International.tokenize(text), international);
        }
    }

    proptest! {
        #[test]
        fn parting_loses_only_white_space(text in "[^&<\n-]{0,40}") {
            let letters = |text: &str| -> String {
                text.chars().filter(|c| !super::super::words::is_space(*c)).collect()
            };
            for tokenizer in [
                BleuTokenizer::V13a,
                BleuTokenizer::International,
                BleuTokenizer::Characters,
            ] {
                prop_assert!(letters(&tokenizer.tokenize(&text)) == letters(&text));
            }
        }
    }
}
