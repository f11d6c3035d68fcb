//! A small deterministic model for tests: bags of words.

use std::collections::BTreeMap;

use hybrid_data::{Example, LabelSet, Origin, derive_seed};

use crate::model::PromptModel;

/// Embeds a text as the sum of one fixed vector a word, and counts what it reads.
#[derive(Default)]
pub(crate) struct BagOfWords {
    /// Every text that was read, in order.
    pub(crate) read: Vec<String>,
    /// Fails once this many texts were read.
    pub(crate) fails_after: Option<usize>,
    /// The classes of a trained head: texts that hold a class's word are that class's.
    pub(crate) head: Option<Vec<&'static str>>,
    /// Spoils its answers in this way.
    pub(crate) fault: Option<Fault>,
}

/// What a broken model may do.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    TooFew,
    OtherWidth,
    NotANumber,
}

#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
pub(crate) struct OutOfMemory;

const WIDTH: usize = 32;

impl BagOfWords {
    fn note(&mut self, texts: &[String]) -> Result<(), OutOfMemory> {
        self.read.extend_from_slice(texts);
        match self.fails_after {
            Some(limit) if self.read.len() > limit => Err(OutOfMemory),
            _ => Ok(()),
        }
    }
}

impl PromptModel for BagOfWords {
    type Error = OutOfMemory;

    fn embed(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, OutOfMemory> {
        self.note(texts)?;
        let mut vectors: Vec<Vec<f32>> = texts.iter().map(|text| bag(text)).collect();
        match (self.fault, vectors.last_mut()) {
            (Some(Fault::TooFew), _) => drop(vectors.pop()),
            (Some(Fault::OtherWidth), Some(last)) => last.push(1.0),
            (Some(Fault::NotANumber), Some(last)) => last[0] = f32::NAN,
            _ => {}
        }
        Ok(vectors)
    }

    fn classify(&mut self, texts: &[String]) -> Result<Option<Vec<Vec<f32>>>, OutOfMemory> {
        let Some(head) = self.head.clone() else {
            return Ok(None);
        };
        self.note(texts)?;
        let row = |text: &String| {
            let (right, other) = (0.9f32, 0.1 / (head.len() - 1) as f32);
            head.iter()
                .map(|word| {
                    if text.contains(word) {
                        right.ln()
                    } else {
                        other.ln()
                    }
                })
                .collect()
        };
        Ok(Some(texts.iter().map(row).collect()))
    }
}

fn bag(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0; WIDTH];
    for word in text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
    {
        for (place, value) in vector.iter_mut().enumerate() {
            let bits = derive_seed(place as u64, &word.to_lowercase());
            *value += (bits % 2001) as f32 / 1000.0 - 1.0;
        }
    }
    vector
}

/// An example with the one field `text`.
pub(crate) fn example(text: &str, label: &str) -> Example {
    Example {
        fields: BTreeMap::from([("text".to_owned(), text.to_owned())]),
        label: Some(label.to_owned()),
        references: vec![label.to_owned()],
        label_start: None,
        origin: Origin {
            file: std::path::Path::new("rows.jsonl").into(),
            line: 1,
        },
    }
}

pub(crate) fn labels(names: &[&str]) -> LabelSet {
    names
        .iter()
        .map(|name| (*name).to_owned())
        .collect::<Vec<_>>()
        .into()
}
