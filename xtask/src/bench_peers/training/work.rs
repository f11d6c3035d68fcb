//! What is measured: the works, their data, their peers and the ratios that are asked for.

use std::fs;
use std::path::{Path, PathBuf};

use super::Arguments;
use super::trace::{
    ACCURACY, ALL_ROWS, CANDIDATES, FIRST_STEP, LEARNED, MEMORY, OPERATIONS, ROWS, TOKENS, TRAINED,
    WALL,
};
use crate::bench_peers::summary::Figure;
use crate::error::XtaskError;
use crate::workspace;

/// Something that hybrid and its peers do.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What is done and what is measured, in sentences.
    pub(super) about: &'static str,
    /// Hybrid's recipe, in the repository.
    pub(super) recipe: &'static str,
    /// Keys of the recipe that are changed.
    pub(super) settings: &'static [&'static str],
    pub(super) given: Given,
    pub(super) data: Data,
    pub(super) peers: &'static [Peer],
    pub(super) figures: &'static [Figure],
    pub(super) wanted: &'static [Wanted],
}

/// What peers are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// The batches and first values of the recipe.
    Updates,
    /// The same of each setting that the recipe chooses among.
    Settings,
    /// The base and the data: they do as they like.
    Data,
}

/// A script that takes a job, in one of its modes.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) script: &'static str,
    pub(super) mode: &'static str,
}

/// A ratio to the first peer that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) figure: Figure,
    pub(super) at_least: bool,
    pub(super) flex: f64,
    pub(super) tch: f64,
}

/// Examples: files to fit, select and report on.
#[derive(Debug)]
pub(super) struct Data {
    source: Source,
    /// Rows to fit; all when there is no number.
    rows: Option<usize>,
    /// Rows to select and report on. What is measured is training: a few will do.
    held_out: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// Ten examples a label of Banking77, which the repository carries.
    Carried,
    Banking77,
    Sst2,
}

const fn plain(name: &'static str) -> Peer {
    Peer {
        name,
        script: "training_peer.py",
        mode: "plain",
    }
}

const fn target(name: &'static str, mode: &'static str) -> Peer {
    Peer {
        name,
        script: "target_peer.py",
        mode,
    }
}

const fn wanted(figure: Figure, at_least: bool, flex: f64, tch: f64) -> Wanted {
    Wanted {
        figure,
        at_least,
        flex,
        tch,
    }
}

/// All works, the most telling first.
pub(super) const WORKS: [Work; 7] = [
    Work {
        name: "lora_all",
        title: "LoRA on all layers of MiniLM",
        about: "LoRA of rank 8 at all linear layers, with a classifier on the mean of the last \
                hidden states, one epoch over ten examples of each of Banking77's 77 labels in \
                batches of 32.",
        recipe: "benches/peers/training/lora_all.toml",
        settings: &[],
        given: Given::Updates,
        data: Data {
            source: Source::Carried,
            rows: None,
            held_out: Some(8),
        },
        peers: &[plain("PEFT")],
        figures: &[ROWS, ALL_ROWS, TOKENS, OPERATIONS, FIRST_STEP, MEMORY],
        wanted: &[
            wanted(ROWS, true, 1.0, 1.3),
            wanted(MEMORY, false, 0.5, 0.8),
            wanted(FIRST_STEP, false, 0.2, 0.3),
        ],
    },
    Work {
        name: "lora_top",
        title: "LoRA on the top two layers of MiniLM",
        about: "The same with LoRA at the top two of six layers, ten epochs. The four layers \
                under them are frozen: hybrid computes them once and keeps the result, PEFT \
                computes them in each epoch.",
        recipe: "benches/peers/training/lora_top.toml",
        settings: &[],
        given: Given::Updates,
        data: Data {
            source: Source::Carried,
            rows: None,
            held_out: Some(8),
        },
        peers: &[plain("PEFT")],
        figures: &[ALL_ROWS, FIRST_STEP, MEMORY],
        wanted: &[wanted(ALL_ROWS, true, 1.5, 2.0)],
    },
    Work {
        name: "frozen_head",
        title: "A classifier on frozen MiniLM",
        about: "A classifier on the pooler of the frozen body, three epochs over Banking77's \
                10,003 training rows in batches of 16. Hybrid computes the body once. So does a \
                peer whose user keeps the features; the other runs the body in each epoch.",
        recipe: "benches/peers/training/frozen_head.toml",
        settings: &[],
        given: Given::Updates,
        data: Data {
            source: Source::Banking77,
            rows: None,
            held_out: Some(8),
        },
        peers: &[
            plain("Transformers"),
            Peer {
                name: "Transformers, features kept",
                script: "training_peer.py",
                mode: "features",
            },
        ],
        figures: &[TRAINED, FIRST_STEP, MEMORY],
        wanted: &[wanted(TRAINED, false, 0.45, 0.3)],
    },
    Work {
        name: "smollm2_lora",
        title: "LoRA on SmolLM2",
        about: "LoRA of rank 8 at all linear layers of SmolLM2-135M-Instruct in float32, one \
                epoch over 128 reviews of SST-2 in batches of 16, behind each of which one label \
                word is learned. PEFT computes the output layer at the last position only, as \
                hybrid does, or at all positions, as it does where nobody sees to it. Tokens are \
                those of the texts, without padding.",
        recipe: "benches/peers/training/smollm2_lora.toml",
        settings: &[],
        given: Given::Updates,
        data: Data {
            source: Source::Sst2,
            rows: Some(128),
            held_out: Some(8),
        },
        peers: &[
            plain("PEFT"),
            Peer {
                name: "PEFT, all logits",
                script: "training_peer.py",
                mode: "all_logits",
            },
        ],
        figures: &[TOKENS, OPERATIONS, FIRST_STEP, MEMORY],
        wanted: &[wanted(TOKENS, true, 0.8, 1.5)],
    },
    Work {
        name: "time_to_target",
        title: "Ten examples a label to 85 % test accuracy",
        about: "Banking77 with ten examples a label: the whole command, from its start to the \
                accuracy on the 3,080 test questions, and to the model that is scored on them. \
                Hybrid begins with the template that a search on the fit rows found before, as the \
                peers begin with settings that were found before, and runs its recipe until a \
                candidate is at the target on select.",
        recipe: "benches/peers/training/time_to_target.toml",
        settings: &[],
        given: Given::Data,
        data: Data {
            source: Source::Carried,
            rows: None,
            held_out: None,
        },
        peers: &[
            target("logistic regression", "logistic_regression"),
            target("SetFit", "setfit"),
            target("PEFT LoRA", "lora"),
        ],
        figures: &[WALL, LEARNED, ACCURACY, MEMORY],
        wanted: &[wanted(WALL, false, 0.2, 0.1)],
    },
    Work {
        name: "choice_of_eight",
        title: "The choice among eight settings of LoRA",
        about: "Ranks 4 (settings 1 to 4) and 16 (5 to 8), each with the learning rates 5e-4, 1e-3, \
                2e-3 and 4e-3, at all linear layers of the top three of MiniLM's six, with a \
                classifier on the mean of the last hidden states: four epochs over ten examples of \
                each of Banking77's 77 labels in batches of 32. The log loss on 231 select rows \
                chooses, and what is chosen is scored on the 3,080 test questions. Hybrid drops \
                half of the settings after one epoch, half of the rest after two, and computes the \
                frozen layers once for all; PEFT trains each setting to its end.",
        recipe: "benches/peers/training/choice_of_eight.toml",
        settings: &[],
        given: Given::Settings,
        data: Data {
            source: Source::Carried,
            rows: None,
            held_out: None,
        },
        peers: &[Peer {
            name: "PEFT, all settings in full",
            script: "choice_peer.py",
            mode: "grid",
        }],
        figures: &[WALL, ACCURACY, MEMORY],
        wanted: &[wanted(WALL, false, 0.4, 0.33)],
    },
    Work {
        name: "prompt_search",
        title: "Prompt search with SmolLM2",
        about: "Four candidates, each with four demonstrations, scored on 32 reviews of SST-2 \
                with SmolLM2-135M-Instruct from one GGUF file: hybrid scores label words in \
                float32, DSPy has the server of llama.cpp write an answer of 24 tokens at \
                most with weights in Q4_1. It asks once, in its chat format and without its second \
                try in JSON, which would slow it down; a model of this size often misses the \
                format, so that speeds are comparable and the accuracies of prompts are not.",
        recipe: "benches/peers/training/prompt_search.toml",
        settings: &[],
        given: Given::Data,
        data: Data {
            source: Source::Sst2,
            rows: Some(32),
            held_out: Some(8),
        },
        peers: &[Peer {
            name: "DSPy over llama.cpp",
            script: "dspy_peer.py",
            mode: "few_shot",
        }],
        figures: &[CANDIDATES],
        wanted: &[wanted(CANDIDATES, true, 10.0, 20.0)],
    },
];

impl Data {
    /// Where the files are.
    ///
    /// # Errors
    /// [`XtaskError::NoData`].
    pub(super) fn folder(
        &self,
        work: &'static str,
        arguments: &Arguments,
    ) -> Result<PathBuf, XtaskError> {
        let (given, what, option, variable) = match self.source {
            Source::Carried => return Ok(workspace::root().join("data/banking77")),
            Source::Banking77 => (
                &arguments.banking77,
                "Banking77's train.jsonl and test.jsonl",
                "banking77",
                "HYBRID_BANKING77",
            ),
            Source::Sst2 => (
                &arguments.sst2,
                "SST-2's train.jsonl and test.jsonl",
                "sst2",
                "HYBRID_SST2",
            ),
        };
        given.clone().ok_or(XtaskError::NoData {
            work,
            what,
            option,
            variable,
        })
    }

    /// Writes `fit.jsonl`, `select.jsonl` and `report.jsonl` into a folder, with at most `rows` rows
    /// to fit.
    ///
    /// # Errors
    /// [`XtaskError::Read`], [`XtaskError::Write`].
    pub(super) fn lay_out(
        &self,
        from: &Path,
        to: &Path,
        rows: Option<usize>,
    ) -> Result<(), XtaskError> {
        let files = match self.source {
            Source::Carried => ["fit.jsonl", "select.jsonl", "report.jsonl"],
            Source::Banking77 | Source::Sst2 => ["train.jsonl", "test.jsonl", "test.jsonl"],
        };
        let rows = rows.into_iter().chain(self.rows).min();
        fs::create_dir_all(to).map_err(XtaskError::write(to))?;
        for (file, (name, rows)) in files.into_iter().zip([
            ("fit.jsonl", rows),
            ("select.jsonl", self.held_out),
            ("report.jsonl", self.held_out),
        ]) {
            let path = from.join(file);
            let text = fs::read_to_string(&path).map_err(XtaskError::read(&path))?;
            let lines: Vec<&str> = text.lines().collect();
            let n = rows.unwrap_or(lines.len()).min(lines.len());
            // From all parts of a file, which may be sorted by label.
            let spread = (0..n).map(|place| lines[place * lines.len() / n]);
            let text: String = spread.map(|line| format!("{line}\n")).collect();
            let path = to.join(name);
            fs::write(&path, text).map_err(XtaskError::write(&path))?;
        }
        Ok(())
    }
}
