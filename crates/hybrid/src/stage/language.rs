//! What an adapter stage trains a language model on: rendered prompts and what should follow them.

use std::collections::BTreeMap;

use hybrid_data::Encoding;
use hybrid_prompts::{Prompt, PromptError, PromptText, continuation};

use super::Context;
use super::pass::Targets;
use crate::HybridError;
use crate::local_model::{LocalModel, encoding};

/// The prompts of the fit examples as tokens, with the classes of their label words, or with the
/// wanted texts behind them.
pub(super) fn rows(
    context: &mut Context<'_>,
    prompt: &Prompt,
) -> Result<(Vec<Encoding>, Targets), HybridError> {
    match context.data.task.kind.text_task() {
        None => labels(context, prompt),
        Some(_) => wanted_texts(context, prompt),
    }
}

fn labels(
    context: &mut Context<'_>,
    prompt: &Prompt,
) -> Result<(Vec<Encoding>, Targets), HybridError> {
    let data = context.data;
    // The label word's first token is all that is learned.
    let texts = prompt_texts(context, prompt, &vec![1; data.fit.examples.len()])?;
    let model = &*context.model;
    // Templates end alike, so what follows the first prompt follows each of them alike.
    let before = texts.first().map(PromptText::whole).unwrap_or_default();
    let tokens = label_tokens(model, prompt, data.task.labels.names(), &before)?;
    let encoding = |text: &PromptText| Ok(encoding(&model.prompt_ids(text)?));
    let encodings = texts
        .iter()
        .map(encoding)
        .collect::<Result<_, HybridError>>()?;
    let classes = data.fit.targets.clone();
    Ok((encodings, Targets::LabelWords { classes, tokens }))
}

/// The first tokens of each label's words behind a text.
///
/// # Errors
/// [`HybridError::SharedFirstToken`], [`PromptError::EmptyContinuation`] for a word that is no token.
pub(crate) fn label_tokens(
    model: &LocalModel,
    prompt: &Prompt,
    labels: &[String],
    before: &str,
) -> Result<Vec<Vec<i32>>, HybridError> {
    let tokens = labels
        .iter()
        .map(|label| first_tokens(model, before, prompt.words_of(label)))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_shared(prompt, labels, &tokens)?;
    Ok(tokens)
}

fn wanted_texts(
    context: &mut Context<'_>,
    prompt: &Prompt,
) -> Result<(Vec<Encoding>, Targets), HybridError> {
    let examples = &context.data.fit.examples;
    let wanted: Vec<&str> = examples
        .iter()
        .map(|example| example.label.as_deref().unwrap_or_default())
        .collect();
    let mut following = Vec::with_capacity(wanted.len());
    for text in &wanted {
        // One more for the space in front, and one for the token that ends the text.
        following.push(context.model.continuation_ids(text)?.len() + 2);
    }
    let texts = prompt_texts(context, prompt, &following)?;
    let model = &*context.model;
    let (mut encodings, mut begins) = (Vec::new(), Vec::new());
    for (text, wanted) in texts.iter().zip(wanted) {
        let mut ids = model.prompt_ids(text)?;
        begins.push(ids.len());
        ids.extend(model.wanted_ids(&continuation(&text.whole(), wanted))?);
        encodings.push(encoding(&ids));
    }
    Ok((encodings, Targets::Tokens(begins)))
}

/// The prompt's texts for the fit examples, each short enough for so many tokens to follow it.
fn prompt_texts(
    context: &mut Context<'_>,
    prompt: &Prompt,
    following: &[usize],
) -> Result<Vec<PromptText>, HybridError> {
    let data = context.data;
    let inputs: Vec<&BTreeMap<String, String>> = data.fit.fields().collect();
    let fitted = context
        .model
        .prompted(|model| model.texts(prompt, &inputs, following))?;
    context.progress.cut(fitted.n_cut, &data.fit, "fit");
    Ok(fitted.texts)
}

/// The first token of each word behind a text.
fn first_tokens(
    model: &LocalModel,
    before: &str,
    words: &[String],
) -> Result<Vec<i32>, HybridError> {
    let mut tokens = Vec::with_capacity(words.len());
    for word in words {
        let ids = model.continuation_ids(&continuation(before, word))?;
        let first = ids.first().ok_or_else(|| PromptError::EmptyContinuation {
            continuation: word.clone(),
        })?;
        let first = i32::try_from(*first).expect("ids of a vocabulary are small");
        if !tokens.contains(&first) {
            tokens.push(first);
        }
    }
    Ok(tokens)
}

/// Refuses label words of two labels that begin with the same token: nothing could tell the labels
/// apart by the next token.
fn refuse_shared(
    prompt: &Prompt,
    labels: &[String],
    tokens: &[Vec<i32>],
) -> Result<(), HybridError> {
    let mut owners: BTreeMap<i32, usize> = BTreeMap::new();
    for (class, own) in tokens.iter().enumerate() {
        for token in own {
            let Some(other) = owners.insert(*token, class) else {
                continue;
            };
            return Err(HybridError::SharedFirstToken {
                first: labels[other].clone(),
                second: labels[class].clone(),
                words: [other, class].map(|class| prompt.words_of(&labels[class]).join(", ")),
            });
        }
    }
    Ok(())
}
