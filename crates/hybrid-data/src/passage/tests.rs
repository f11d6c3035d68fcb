//! Windows of passages: sequences, places of answers, and texts cut out by bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
use serde_json::json;

use super::{PassageReader, Window};
use crate::example::tests::example;
use crate::{DataError, Example, Tokenizer};

/// A WordPiece tokenizer of BERT's form over letters: every word falls into its letters.
fn tokenizer(max_length: usize) -> Tokenizer {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let vocabulary: BTreeMap<String, usize> = special.into_iter().chain(letters).zip(0..).collect();
    let piece = |id: &str, kind: &str, type_id: u32| json!({kind: {"id": id, "type_id": type_id}});
    let cls = piece("[CLS]", "SpecialToken", 0);
    let (first, sep) = (piece("A", "Sequence", 0), piece("[SEP]", "SpecialToken", 0));
    let (second, last) = (piece("B", "Sequence", 1), piece("[SEP]", "SpecialToken", 1));
    let token = |id: &str, number: usize| json!({"id": id, "ids": [number], "tokens": [id]});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
                       "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [cls, first, sep],
            "pair": [cls, first, sep, second, last],
            "special_tokens": {"[CLS]": token("[CLS]", 2), "[SEP]": token("[SEP]", 3)}},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    Tokenizer::from_file(file.path(), max_length).unwrap()
}

fn windows(max_length: usize, stride: usize, question: &str, passage: &str) -> Vec<Window> {
    let reader = PassageReader::new(&tokenizer(max_length), stride).unwrap();
    reader.read(&[(question, passage)]).unwrap().swap_remove(0)
}

/// What each token of the passage stands for.
fn tokens<'p>(window: &Window, passage: &'p str) -> Vec<&'p str> {
    let bytes = |place| window.bytes_of(place, place);
    (0..window.passage.len())
        .map(|place| &passage[bytes(place)])
        .collect()
}

fn asked(passage: &str, label: &str, start: Option<usize>) -> Example {
    Example {
        fields: BTreeMap::from([("context".to_owned(), passage.to_owned())]),
        label_start: start,
        ..example(4, label)
    }
}

fn found(passage: &str, label: &str, start: Option<usize>) -> Option<Range<usize>> {
    asked(passage, label, start).label_in("context").unwrap()
}

#[test]
fn a_short_passage_is_one_window() {
    let passage = "Ab c";
    let windows = windows(16, 2, "x y", passage);
    assert_eq!(windows.len(), 1);
    let window = &windows[0];
    let id = |letter: u8, inside: u32| 4 + 2 * u32::from(letter - b'a') + inside;
    let (x, y) = (id(b'x', 0), id(b'y', 0));
    let (a, b, c) = (id(b'a', 0), id(b'b', 1), id(b'c', 0));
    assert_eq!(window.encoding.ids, [2, x, y, 3, a, b, c, 3]);
    assert_eq!(window.encoding.type_ids, [0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(window.passage, 4..7);
    assert_eq!(tokens(window, passage), ["A", "b", "c"]);
}

#[test]
fn a_long_passage_is_read_in_windows_that_share_the_stride() {
    // Ten tokens, of which two are the question's and three special: five of the passage.
    let passage = "a b c d e f g h i";
    let windows = windows(10, 2, "x y", passage);
    let read: Vec<Vec<&str>> = windows.iter().map(|w| tokens(w, passage)).collect();
    assert_eq!(
        read,
        [
            ["a", "b", "c", "d", "e"].as_slice(),
            &["d", "e", "f", "g", "h"],
            &["g", "h", "i"],
        ]
    );
    for window in &windows {
        assert_eq!(window.encoding.ids[..4], windows[0].encoding.ids[..4]);
        assert_eq!(window.passage.start, 4);
        assert_eq!(window.encoding.len(), window.passage.end + 1);
    }
    let d_e = 6..9;
    let places: Vec<_> = windows.iter().map(|w| w.tokens_of(&d_e)).collect();
    assert_eq!(places, [Some((3, 4)), Some((0, 1)), None]);
    let c_d = 4..7;
    let places: Vec<_> = windows.iter().map(|w| w.tokens_of(&c_d)).collect();
    assert_eq!(places, [Some((2, 3)), None, None]);
}

#[test]
fn a_long_question_leaves_half_of_the_room() {
    let long = "q r s t u v w x y z";
    let passage = "a b c d e f";
    let windows = windows(11, 1, long, passage);
    assert_eq!(windows[0].passage.start, 6, "[CLS] q r s t [SEP]");
    assert_eq!(tokens(&windows[0], passage), ["a", "b", "c", "d"]);
    assert_eq!(tokens(&windows[1], passage), ["d", "e", "f"]);
}

#[test]
fn an_empty_passage_has_a_window_without_tokens() {
    let windows = windows(10, 2, "x", "");
    assert_eq!((windows.len(), windows[0].passage.len()), (1, 0));
    assert_eq!(windows[0].tokens_of(&(0..0)), None);
}

#[test]
fn offsets_are_bytes_of_the_passage_as_written() {
    // Accents, written as one character or as two, are taken off before the vocabulary is asked.
    let passage = "ÉtÉ 東 cafe\u{301} d";
    let windows = windows(32, 2, "x", passage);
    let window = &windows[0];
    let range = found(passage, "cafe\u{301}", Some(6)).unwrap();
    assert_eq!(&passage[range.clone()], "cafe\u{301}");
    let (first, last) = window.tokens_of(&range).unwrap();
    assert_eq!(&passage[window.bytes_of(first, first)], "c");
    assert!(passage[window.bytes_of(first, last)].starts_with("cafe"));
    let range = found(passage, "東", None).unwrap();
    let (first, last) = window.tokens_of(&range).unwrap();
    assert_eq!(&passage[window.bytes_of(first, last)], "東");
    let range = found(passage, "ÉtÉ", Some(0)).unwrap();
    let (first, last) = window.tokens_of(&range).unwrap();
    assert_eq!((first, &passage[window.bytes_of(first, last)]), (0, "ÉtÉ"));
}

#[test]
fn a_label_stands_where_it_starts_or_else_first() {
    assert_eq!(found("ö a ö a", "a", None), Some(3..4));
    assert_eq!(found("ö a ö a", "a", Some(6)), Some(8..9));
    assert_eq!(found("ö a", " a", None), Some(3..4), "without white space");
    assert_eq!(found("ö a", "b", None), None);
    let wrong = asked("ö a ö a", "a", Some(3)).label_in("context");
    let error = wrong.unwrap_err().to_string();
    let expected =
        "rows.jsonl:4: the answer \"a\" does not start at code point 3 of field `context`";
    assert_eq!(error, expected);
    let outside = asked("ö a", "a", Some(9)).label_in("context");
    assert!(matches!(outside, Err(DataError::AnswerStart { .. })));
}

#[test]
fn a_stride_that_does_not_get_on_is_refused() {
    for (max_length, stride) in [(9, 3), (5, 1), (4, 0)] {
        let refused = PassageReader::new(&tokenizer(max_length), stride);
        assert!(
            matches!(refused, Err(DataError::Stride { .. })),
            "{max_length} {stride}"
        );
    }
    PassageReader::new(&tokenizer(9), 2).unwrap();
}

proptest! {
    #[test]
    fn windows_cover_the_passage_and_give_every_short_span_back(
        words in vec("[a-zäöüÉß東ﬁ🦀 ]{1,5}", 1..12), question in "[a-z ]{0,20}",
        max_length in 11usize..24, stride in 0usize..4,
    ) {
        let passage = words.join(" ");
        let windows = windows(max_length, stride, &question, &passage);
        let whole = PassageReader::new(&tokenizer(512), 0).unwrap();
        let whole = whole.read(&[("", &passage)]).unwrap().swap_remove(0).swap_remove(0);
        let n_tokens = whole.passage.len();
        for place in 0..n_tokens {
            let bytes = whole.bytes_of(place, place);
            let holding: Vec<&Window> =
                windows.iter().filter(|window| window.tokens_of(&bytes).is_some()).collect();
            prop_assert!(!holding.is_empty(), "token {place} is in no window");
        }
        for window in &windows {
            prop_assert!(window.encoding.len() <= max_length);
            let length = window.passage.len();
            for first in 0..length {
                for last in first..length {
                    let bytes = window.bytes_of(first, last);
                    prop_assert!(passage.get(bytes.clone()).is_some(), "no text at {bytes:?}");
                    let (from, to) = window.tokens_of(&bytes).unwrap();
                    // Several tokens may stand for one character.
                    prop_assert_eq!(window.bytes_of(from, to), bytes);
                }
            }
        }
        for pair in windows.windows(2) {
            let last = pair[0].passage.len() - 1;
            let end = pair[0].bytes_of(last, last).end;
            let shared = (0..pair[1].passage.len())
                .filter(|place| pair[1].bytes_of(*place, *place).end <= end);
            prop_assert!(shared.count() >= stride);
        }
    }
}
