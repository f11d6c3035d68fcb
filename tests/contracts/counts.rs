//! How many values methods train at a site.

use hybrid_models::SiteKind;

/// Of a method with its own targets.
pub(super) fn at_queries_and_values(
    path: &str,
    kind: &SiteKind,
    count: fn(usize, usize) -> usize,
) -> usize {
    match (name(path), kind) {
        ("query" | "value" | "q_lin" | "v_lin", SiteKind::Linear { d_in, d_out, .. }) => {
            count(*d_in, *d_out)
        }
        _ => 0,
    }
}

/// The same of a method that asks whether the layer has a bias.
pub(super) fn at_biased_queries_and_values(
    path: &str,
    kind: &SiteKind,
    count: fn(usize, usize, bool) -> usize,
) -> usize {
    match (name(path), kind) {
        ("query" | "value" | "q_lin" | "v_lin", SiteKind::Linear { d_in, d_out, bias }) => {
            count(*d_in, *d_out, *bias)
        }
        _ => 0,
    }
}

/// Of vectors in front of the words.
pub(super) fn words(n_virtual: usize, path: &str, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Embedding { d_model, .. } if name(path) == "word_embeddings" => {
            n_virtual * d_model
        }
        _ => 0,
    }
}

/// Of keys and values in front of a layer's own.
pub(super) fn keys(n_virtual: usize, path: &str, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Linear { d_out, .. } if matches!(name(path), "key" | "k_lin") => {
            2 * n_virtual * d_out
        }
        _ => 0,
    }
}

pub(super) fn name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

pub(super) fn in_layer(path: &str, layer: usize) -> bool {
    path.contains(&format!(".layer.{layer}."))
}

pub(super) fn in_head(path: &str) -> bool {
    path.split('.').any(|part| part.ends_with("classifier"))
}

pub(super) fn factors(rank: usize, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Linear { d_in, d_out, .. } => rank * (d_in + d_out),
        _ => 0,
    }
}

pub(super) fn bias(kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Linear {
            d_out, bias: true, ..
        } => *d_out,
        SiteKind::Norm { d_model, bias } => d_model * usize::from(*bias),
        _ => 0,
    }
}

pub(super) fn norm(kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Norm { d_model, bias } => d_model + d_model * usize::from(*bias),
        _ => 0,
    }
}

pub(super) fn pair(size: usize, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Block { d_model } => 2 * size * d_model + size + d_model,
        _ => 0,
    }
}

/// The largest divisor that is not above 4.
pub(super) fn divisor_up_to_4(size: usize) -> usize {
    let mut divisors = [4, 3, 2, 1].into_iter();
    divisors
        .find(|divisor| size.is_multiple_of(*divisor))
        .unwrap_or(1)
}

/// Whether a block's path is that of the last one in its layer.
pub(super) fn last_block(path: &str) -> bool {
    !path.ends_with("attention.output") && name(path) != "attention"
}

pub(super) fn whole(kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Linear { d_in, d_out, bias } => d_in * d_out + d_out * usize::from(*bias),
        SiteKind::Embedding { n, d_model } => n * d_model,
        kind => norm(kind),
    }
}
