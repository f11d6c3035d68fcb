//! The whole loop from a program: a recipe into a run folder, then its artifact.
//!
//! `cargo run --example hybrid_loop`

use std::path::PathBuf;

use hybrid::{Show, TrainOptions, train};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    train(&TrainOptions {
        recipe: PathBuf::from("recipes/banking77.toml"),
        out: Some(PathBuf::from("runs/example")),
        settings: vec![("stages.1.epochs".to_owned(), "1".to_owned())],
        fresh: false,
        device: "flex".to_owned(),
        show: Show::Auto,
    })?;
    Ok(())
}
