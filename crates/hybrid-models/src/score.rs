//! Log-probabilities of continuations, each token of a shared prefix read once.
//!
//! The sequences form a tree of tokens. It is read from the root in pieces, depth first, each token
//! at the position of its depth and seeing its ancestors only. While a piece is read, the cache
//! holds the path to it, so that nothing is padded, copied for each sequence or read twice.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};

use crate::decoder::TreeTokens;
use crate::{DecoderModel, Hooks, KvCache, ModelError};

/// A sequence of which a part is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreRequest<'a> {
    /// Context and continuation.
    pub ids: &'a [i64],
    /// Tokens of context, at least one; those after it are scored.
    pub n_context: usize,
}

/// What scoring found and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The natural logarithm of each scored token's probability given all tokens before it, by
    /// request.
    pub log_probs: Vec<Vec<f32>>,
    /// Tokens that the model read.
    pub tokens_read: usize,
    /// Tokens that it would have read had each sequence been read on its own.
    pub tokens_alone: usize,
}

/// Tokens that are read at once.
const PIECE: usize = 512;
/// Places whose logits over the vocabulary are held at once.
const LOGITS: usize = 64;

impl DecoderModel {
    /// Scores continuations.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a request without context, [`ModelError::UnknownToken`],
    /// [`ModelError::LogitsNotFinite`], [`ModelError::NoSuchPart`] without a language model head,
    /// and as [`crate::Decoder::begin`].
    pub fn score(
        &self,
        requests: &[ScoreRequest<'_>],
        hooks: &dyn Hooks,
    ) -> Result<Scores, ModelError> {
        for (row, request) in requests.iter().enumerate() {
            if request.n_context == 0 {
                return Err(ModelError::EmptyPrompt { row });
            }
            self.decoder.check_ids(row, request.ids)?;
        }
        let tree = TokenTree::new(requests);
        let deepest = tree.depths.iter().max().map_or(0, |depth| depth + 1);
        let mut cache = self.decoder.new_cache(deepest + PIECE);
        let scored =
            |request: &ScoreRequest<'_>| request.ids.len().saturating_sub(request.n_context);
        let mut log_probs: Vec<Vec<f32>> = requests
            .iter()
            .map(|request| vec![0.0; scored(request)])
            .collect();
        // Tokens whose keys the cache holds, by position.
        let mut held: Vec<usize> = Vec::new();
        let mut targets = tree.targets.as_slice();
        // Pieces of about one length.
        let n_tokens = tree.ids.len();
        let length = n_tokens.div_ceil(n_tokens.div_ceil(PIECE).max(1)).max(1);
        for start in (0..n_tokens).step_by(length) {
            let piece = start..n_tokens.min(start + length);
            keep_path(&mut cache, &mut held, tree.ancestors(start));
            let hidden = self.decoder.forward_tree(
                &tree.ids[piece.clone()],
                &tree.tokens(&piece),
                &mut cache,
                hooks,
            )?;
            held.extend(piece.clone());
            let n_here = targets.partition_point(|target| target.token < piece.end);
            let (here, later) = targets.split_at(n_here);
            targets = later;
            let n_soft = hidden.dims()[1] - piece.len();
            for group in by_places(here) {
                let place = |target: &Target| n_soft + target.token - start;
                self.score_group(hidden.clone(), group, place, hooks, &mut log_probs)
                    .map_err(|error| self.located(error, requests, hooks))?;
            }
        }
        Ok(Scores {
            log_probs,
            tokens_read: tree.ids.len(),
            tokens_alone: requests.iter().map(|request| inputs(request).len()).sum(),
        })
    }

    /// Scores that are not finite, with the layer that they come from.
    fn located(
        &self,
        error: ModelError,
        requests: &[ScoreRequest<'_>],
        hooks: &dyn Hooks,
    ) -> ModelError {
        match error {
            ModelError::LogitsNotFinite { step, row, .. } => {
                let request = &requests[row];
                let before = &request.ids[..request.n_context + step];
                let layer = self.decoder.faulty_layer(before, hooks);
                ModelError::LogitsNotFinite { step, row, layer }
            }
            other => other,
        }
    }

    /// Fills in the log-probabilities of some targets.
    fn score_group(
        &self,
        hidden: Tensor<3>,
        group: &[Target],
        place: impl Fn(&Target) -> usize,
        hooks: &dyn Hooks,
        log_probs: &mut [Vec<f32>],
    ) -> Result<(), ModelError> {
        let mut places: Vec<usize> = group.iter().map(&place).collect();
        places.dedup();
        let logits = self.logits_at(hidden, &places, hooks)?;
        let mut row = 0;
        let mut chosen = Vec::with_capacity(group.len());
        for target in group {
            while places[row] != place(target) {
                row += 1;
            }
            chosen.push((row, target.id));
        }
        for (target, log_prob) in group.iter().zip(log_probabilities(logits, &chosen)) {
            if !log_prob.is_finite() {
                let (row, step) = (target.request, target.index);
                return Err(ModelError::LogitsNotFinite {
                    step,
                    row,
                    layer: None,
                });
            }
            log_probs[target.request][target.index] = log_prob;
        }
        Ok(())
    }
}

/// The logarithm of the probability of each chosen token: the row of its logits, and its id.
///
/// # Shapes
/// - `logits`: `[rows, vocab]`
///
/// # Panics
/// If there is no such row or id.
pub(crate) fn log_probabilities(logits: Tensor<2>, chosen: &[(usize, i64)]) -> Vec<f32> {
    let [rows, vocab] = logits.dims();
    let device = logits.device();
    let best = logits.clone().max_dim(1);
    let totals = (logits.clone() - best.clone()).exp().sum_dim(1).log() + best;
    let flat: Vec<i64> = chosen
        .iter()
        .map(|(row, id)| (row * vocab) as i64 + id)
        .collect();
    let flat = TensorData::new(flat, [chosen.len()]);
    let flat: Tensor<1, Int> = Tensor::from_data(flat, &device);
    let picked = logits.reshape([rows * vocab]).select(0, flat).into_data();
    let totals: Vec<f32> = totals.into_data().iter::<f32>().collect();
    chosen
        .iter()
        .zip(picked.iter::<f32>())
        .map(|((row, _), logit)| logit - totals[*row])
        .collect()
}

/// Drops from the cache what is not on a path.
fn keep_path(cache: &mut KvCache, held: &mut Vec<usize>, path: Vec<usize>) {
    if held.is_empty() {
        return;
    }
    // A path goes upward through tokens read before, so both are in ascending order.
    let mut position = 0;
    let mut positions = Vec::with_capacity(path.len());
    for token in &path {
        while held[position] != *token {
            position += 1;
        }
        positions.push(position);
    }
    cache.keep_positions(&positions);
    *held = path;
}

/// Groups of targets that need at most [`LOGITS`] places, those of one place together.
fn by_places(targets: &[Target]) -> impl Iterator<Item = &[Target]> {
    let mut rest = targets;
    std::iter::from_fn(move || {
        let mut places = 0;
        let mut last = None;
        let end = rest.iter().position(|target| {
            if last != Some(target.token) {
                places += 1;
                last = Some(target.token);
            }
            places > LOGITS
        });
        let (group, later) = rest.split_at(end.unwrap_or(rest.len()));
        rest = later;
        (!group.is_empty()).then_some(group)
    })
}

/// A token whose probability is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    /// The token of the tree that it follows.
    token: usize,
    id: i64,
    request: usize,
    /// Its place among the request's scored tokens.
    index: usize,
}

/// All tokens that must be read, depth first.
#[derive(Debug, Default)]
struct TokenTree {
    ids: Vec<i64>,
    depths: Vec<usize>,
    parents: Vec<Option<usize>>,
    /// In the order of the tokens that they follow.
    targets: Vec<Target>,
}

/// What a request must have read: the last token is only asked for.
fn inputs<'a>(request: &ScoreRequest<'a>) -> &'a [i64] {
    match request.ids.split_last() {
        Some((_, inputs)) if request.ids.len() > request.n_context => inputs,
        _ => &[],
    }
}

impl TokenTree {
    fn new(requests: &[ScoreRequest<'_>]) -> Self {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|request| inputs(&requests[*request]));
        let mut tree = Self::default();
        let mut path: Vec<usize> = Vec::new();
        for request in order {
            let ids = inputs(&requests[request]);
            let shared = path
                .iter()
                .zip(ids)
                .take_while(|(token, id)| tree.ids[**token] == **id);
            path.truncate(shared.count());
            for id in &ids[path.len()..] {
                tree.depths.push(path.len());
                tree.parents.push(path.last().copied());
                path.push(tree.ids.len());
                tree.ids.push(*id);
            }
            let n_context = requests[request].n_context;
            let scored = requests[request].ids.iter().enumerate().skip(n_context);
            tree.targets.extend(scored.map(|(place, id)| Target {
                token: path[place - 1],
                id: *id,
                request,
                index: place - n_context,
            }));
        }
        tree.targets.sort_by_key(|target| target.token);
        tree
    }

    /// The path from the root to a token's parent.
    fn ancestors(&self, token: usize) -> Vec<usize> {
        let mut path: Vec<usize> =
            std::iter::successors(self.parents[token], |parent| self.parents[*parent]).collect();
        path.reverse();
        path
    }

    /// The tokens of a piece as the decoder reads them.
    fn tokens(&self, piece: &Range<usize>) -> TreeTokens {
        let within =
            |parent: &Option<usize>| parent.and_then(|parent| parent.checked_sub(piece.start));
        TreeTokens {
            depths: self.depths[piece.clone()].to_vec(),
            parents: self.parents[piece.clone()].iter().map(within).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ScoreRequest, Target, TokenTree, by_places};

    fn request(ids: &[i64], n_context: usize) -> ScoreRequest<'_> {
        ScoreRequest { ids, n_context }
    }

    #[test]
    fn shared_prefixes_are_one_path() {
        let tree = TokenTree::new(&[
            request(&[1, 2, 3, 4], 3),
            request(&[1, 2, 5, 6, 7], 3),
            request(&[1, 2, 3, 9], 2),
            request(&[8, 2], 1),
            request(&[8, 2, 2], 3),
        ]);
        assert_eq!(tree.ids, [1, 2, 3, 5, 6, 8]);
        assert_eq!(tree.depths, [0, 1, 2, 2, 3, 0]);
        assert_eq!(
            tree.parents,
            [None, Some(0), Some(1), Some(1), Some(3), None]
        );
        let mut targets: Vec<(usize, i64, usize, usize)> = tree
            .targets
            .iter()
            .map(|target| (target.token, target.id, target.request, target.index))
            .collect();
        targets.sort_unstable();
        let expected = [
            (1, 3, 2, 0),
            (2, 4, 0, 0),
            (2, 9, 2, 1),
            (3, 6, 1, 0),
            (4, 7, 1, 1),
            (5, 2, 3, 0),
        ];
        assert_eq!(targets, expected);
        assert_eq!(tree.ancestors(4), [0, 1, 3]);
        let tokens = tree.tokens(&(3..6));
        assert_eq!(tokens.depths, [2, 3, 0]);
        assert_eq!(tokens.parents, [None, Some(0), None]);
    }

    #[test]
    fn groups_have_no_more_places_than_allowed() {
        let target = |token| Target {
            token,
            id: 0,
            request: 0,
            index: 0,
        };
        let targets: Vec<Target> = (0..200).map(|index| target(index / 2)).collect();
        let groups: Vec<usize> = by_places(&targets).map(<[Target]>::len).collect();
        assert_eq!(groups, [128, 72]);
        assert_eq!(by_places(&[]).count(), 0);
    }
}
