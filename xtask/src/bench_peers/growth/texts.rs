//! Texts of a wanted length: words that are one token each, drawn at random.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::XtaskError;

const LABELS: usize = 8;
const WORDS: usize = 512;
/// Rows to select and report on. What is measured is training: a few will do.
const HELD_OUT: usize = 8;
/// Tokens that begin and end a row.
const SPECIAL: usize = 2;

/// Writes `fit.jsonl`, `select.jsonl` and `report.jsonl` into a folder: rows of `seq` tokens of a
/// model.
///
/// # Errors
/// [`XtaskError::Model`] when its tokenizer has no words, [`XtaskError::Read`],
/// [`XtaskError::Write`].
pub(super) fn write(model: &Path, rows: usize, seq: usize, to: &Path) -> Result<(), XtaskError> {
    let path = model.join("tokenizer.json");
    let text = fs::read_to_string(&path).map_err(XtaskError::read(&path))?;
    let tokenizer: Value = serde_json::from_str(&text).unwrap_or_default();
    let words = words(&tokenizer);
    if words.len() < LABELS {
        return Err(XtaskError::Model {
            path,
            expected: "words in `model.vocab`",
        });
    }
    fs::create_dir_all(to).map_err(XtaskError::write(to))?;
    let mut state = 0;
    for (name, rows) in [("fit", rows), ("select", HELD_OUT), ("report", HELD_OUT)] {
        let row = |place: usize| {
            let drawn: Vec<&str> = (SPECIAL..seq)
                .map(|_| words[draw(&mut state) % words.len()])
                .collect();
            let row = json!({ "text": drawn.join(" "), "label": words[place % LABELS] });
            format!("{row}\n")
        };
        let text: String = (0..rows).map(row).collect();
        let path = to.join(format!("{name}.jsonl"));
        fs::write(&path, text).map_err(XtaskError::write(&path))?;
    }
    Ok(())
}

/// The first whole words of a vocabulary in small letters.
fn words(tokenizer: &Value) -> Vec<&str> {
    let vocabulary = tokenizer["model"]["vocab"].as_object();
    let is_word = |word: &str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let mut words: Vec<(u64, &str)> = vocabulary
        .into_iter()
        .flatten()
        .filter(|(word, _)| is_word(word))
        .filter_map(|(word, id)| Some((id.as_u64()?, word.as_str())))
        .collect();
    words.sort_unstable();
    words
        .into_iter()
        .take(WORDS)
        .map(|(_, word)| word)
        .collect()
}

/// The next number of a sequence without a pattern (Steele et al. 2014, `SplitMix64`).
fn draw(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::{words, write};

    #[test]
    fn words_are_whole_and_in_order() {
        let vocabulary = json!({"[CLS]": 0, "the": 9, "##ing": 3, "of": 4, "card": 5, "a1b": 6});
        let tokenizer = json!({"model": {"vocab": vocabulary}});
        assert_eq!(words(&tokenizer), ["card", "the"]);
    }

    #[test]
    fn rows_have_as_many_tokens_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary: Value = ["aaa", "bbb", "ccc", "ddd", "eee", "fff", "ggg", "hhh"]
            .into_iter()
            .enumerate()
            .map(|(id, word)| (word.to_owned(), json!(id)))
            .collect();
        let tokenizer = json!({"model": {"vocab": vocabulary}});
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, tokenizer.to_string()).unwrap();
        let data = folder.path().join("data");
        write(folder.path(), 20, 12, &data).unwrap();
        let text = fs::read_to_string(data.join("fit.jsonl")).unwrap();
        let rows: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), 20);
        for row in &rows {
            assert_eq!(row["text"].as_str().unwrap().split(' ').count(), 10);
        }
        assert_ne!(rows[0]["text"], rows[8]["text"]);
        fs::write(&path, "{}").unwrap();
        assert!(write(folder.path(), 20, 12, &data).is_err());
    }
}
