//! Hybrid fine-tuning of language models: search the prompt, train the adapter, alternate the two.
