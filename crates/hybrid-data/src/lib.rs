//! Examples in: sources, field mapping, splits, tokenizer and batches.
//!
//! Files become rows ([`open`], burn-dataset's [`Dataset`](burn_dataset::Dataset) underneath), rows
//! become [`Example`]s through a [`FieldMapping`] ([`read_examples`]), examples are divided
//! ([`split`], [`k_shot`]) and their texts become padded batches ([`Tokenizer`],
//! [`length_buckets`], [`pad`]). Every error about data carries file, line and field.
//!
//! No tensor library: a [`PaddedBatch`] is plain row-major numbers.
//!
//! ```
//! use hybrid_data::{FieldMapping, LabelSet, read_examples};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("fit.jsonl");
//! # std::fs::write(&path, "{\"query\": \"where is my card\", \"intent\": \"card_arrival\"}\n").unwrap();
//! let mapping = FieldMapping::new([("text", "query")], Some("intent"));
//! let examples = read_examples(&path, &mapping)?;
//! assert_eq!(examples[0].fields["text"], "where is my card");
//! let labels = LabelSet::of(&examples)?;
//! assert_eq!(labels.index_of("card_arrival"), Some(0));
//! # Ok::<(), hybrid_data::DataError>(())
//! ```
//!
//! Questions, translations and summaries may have several right answers. A column of them is a
//! string or, in JSONL and Parquet, a list of strings or of objects that have a string `text`; the
//! first is the label where no column of labels is mapped. An empty list, which has no label, is a
//! question without answer. An answer out of a passage may say where it `start`s there, in Unicode
//! code points (JSONL only); a [`PassageReader`] makes windows of questions and long passages.
//!
//! ```
//! use hybrid_data::{FieldMapping, read_examples};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("fit.jsonl");
//! # std::fs::write(&path, concat!(
//! #     r#"{"question": "Where?", "answers": [{"text": "in Bonn", "start": 27}, {"text": "Bonn", "start": 30}]}"#,
//! #     "\n",
//! #     r#"{"question": "When?", "answers": []}"#,
//! # )).unwrap();
//! let mapping = FieldMapping {
//!     references: Some("answers".to_owned()),
//!     ..FieldMapping::new([("question", "question")], None)
//! };
//! let examples = read_examples(&path, &mapping)?;
//! assert_eq!(examples[0].references, ["in Bonn", "Bonn"]);
//! assert_eq!(examples[0].label.as_deref(), Some("in Bonn"));
//! assert_eq!(examples[0].label_start, Some(27));
//! assert_eq!(examples[1].label, None);
//! # Ok::<(), hybrid_data::DataError>(())
//! ```

mod batch;
mod error;
mod example;
mod label_set;
mod passage;
mod seed;
mod source;
mod split;
mod tokenizer;

pub use batch::{BatchLimits, BatchOrder, PaddedBatch, length_buckets, pad};
pub use error::DataError;
pub use example::{Example, FieldMapping, Origin};
pub use label_set::LabelSet;
pub use passage::{PassageReader, Window};
pub use seed::derive_seed;
pub use source::{
    Answer, Cell, Row, RowDataset, examples_of, files_of, into_dataset, open, read_examples,
};
pub use split::{Fractions, Splits, k_shot, sample, split};
pub use tokenizer::{Encoding, SplitReading, Tokenizer, Vocabulary};
