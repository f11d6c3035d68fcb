//! Examples in: sources, field mapping, splits, tokenizer and batches.
