//! Texts in pieces, over a tokenizer with byte tokens, a leading space and a special token.

use hybrid_data::Tokenizer;
use proptest::prelude::{any, prop_assert_eq, proptest};
use serde_json::{Map, Value, json};

use super::TextStream;

/// Words that begin with `▁` for a space, one token for each byte, and `</s>` for the end.
const WORDS: [&str; 7] = ["▁one", "▁two", "th", "ree", ".", "▁", "▁END"];

/// The id of the first byte token.
const BYTES: u32 = WORDS.len() as u32;

const END: u32 = BYTES + 256;

/// A tokenizer as Llama's: words over a byte fallback, without the first space.
fn tokenizer() -> Tokenizer {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = WORDS.map(str::to_owned).into_iter().chain(bytes);
    let vocabulary: Map<String, Value> = tokens
        .chain(["</s>".to_owned()])
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let end = json!({"id": END, "content": "</s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    let file = tempfile::NamedTempFile::new().unwrap();
    let json = json!({
        "version": "1.0",
        "added_tokens": [end],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true},
    });
    std::fs::write(file.path(), json.to_string()).unwrap();
    Tokenizer::from_file(file.path(), 64).unwrap()
}

/// The pieces that tokens give, the last of them from the end; and whether a stop string came.
fn pieces(ids: &[u32], stops: &[&str]) -> (Vec<String>, bool) {
    let tokenizer = tokenizer();
    let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let mut stream = TextStream::new(&tokenizer, &stops);
    let mut pieces: Vec<String> = Vec::new();
    for id in ids {
        pieces.push(stream.push(*id).unwrap());
    }
    let is_stopped = stream.is_stopped();
    pieces.push(stream.finish().unwrap());
    (pieces, is_stopped)
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| BYTES + u32::from(byte)).collect()
}

#[test]
fn words_come_with_their_spaces() {
    let (pieces, is_stopped) = pieces(&[0, 1, 2, 3, 4, END, 0], &[]);
    assert_eq!(pieces, ["one", " two", "th", "ree", ".", "", " one", ""]);
    assert!(!is_stopped);
}

#[test]
fn a_character_comes_whole() {
    let (pieces, _) = pieces(&bytes("é€😀a"), &[]);
    let expected = ["", "é", "", "", "€", "", "", "", "😀", "a", ""];
    assert_eq!(pieces, expected);
}

#[test]
fn bytes_that_are_no_character_come_when_that_is_certain() {
    let half = bytes("€")[0];
    let (in_between, _) = pieces(&[0, half, 1], &[]);
    assert_eq!(in_between, ["one", "", "\u{FFFD} two", ""]);
    let (at_the_end, _) = pieces(&[0, half], &[]);
    assert_eq!(at_the_end, ["one", "", "\u{FFFD}"]);
}

#[test]
fn a_stop_string_may_span_tokens() {
    // `three` is two tokens; what begins like it is held back.
    let (found, is_stopped) = pieces(&[0, 2, 3, 4], &["three."]);
    assert_eq!(found, ["one", "", "", "", ""]);
    assert!(is_stopped);
    let (found, is_stopped) = pieces(&[0, 2, 3, 1], &["three."]);
    assert_eq!(found, ["one", "", "", "three two", ""]);
    assert!(!is_stopped);
    // At the end what was held back is text.
    let (found, is_stopped) = pieces(&[0, 2], &["three."]);
    assert_eq!(found, ["one", "", "th"]);
    assert!(!is_stopped);
}

#[test]
fn the_first_of_several_stop_strings_ends_the_text() {
    let (found, is_stopped) = pieces(&[0, 1, 2, 3, 0], &["ree", "", "wo"]);
    assert_eq!(found.concat(), "one t");
    assert!(is_stopped);
    // A stop string that overlaps itself.
    let tokens = [bytes("aab"), bytes("aabaaz")].concat();
    let (found, _) = pieces(&tokens, &["aabaaz"]);
    assert_eq!(found.concat(), "aab");
}

#[test]
fn a_stop_string_may_hold_characters_of_several_bytes() {
    let (found, is_stopped) = pieces(&bytes("x€😀y"), &["€😀"]);
    assert_eq!(found.concat(), "x");
    assert!(is_stopped);
    let (found, _) = pieces(&bytes("x€😃y"), &["€😀"]);
    assert_eq!(found.concat(), "x€😃y");
}

proptest! {
    /// Whatever the tokens, the pieces are the text, cut where the first stop string begins.
    #[test]
    fn pieces_make_the_whole_text(text in any::<String>(), words in any::<[u8; 4]>(), stop in "[a-c ]{1,3}") {
        let middle = text.char_indices().nth(text.chars().count() / 2);
        let at = middle.map_or(0, |(at, _)| at);
        let mut ids = bytes(&text);
        ids.splice(at..at, words.map(|word| u32::from(word) % BYTES));
        let whole = tokenizer().decode(&ids, true).unwrap();
        let (found, _) = pieces(&ids, &[]);
        prop_assert_eq!(found.concat(), whole.clone());
        let (found, is_stopped) = pieces(&ids, &[&stop]);
        let end = whole.find(&stop);
        prop_assert_eq!(is_stopped, end.is_some());
        prop_assert_eq!(found.concat(), &whole[..end.unwrap_or(whole.len())]);
    }
}
