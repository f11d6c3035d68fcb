//! Outputs to verdicts: metrics, cost, generalisation, comparisons and the report.
//!
//! No tensors here: probabilities arrive as rows of `f64`, classes as indices. A typical use:
//!
//! ```
//! use hybrid_eval::{Classification, Resamples};
//!
//! let probabilities = [vec![0.8, 0.2], vec![0.3, 0.7], vec![0.6, 0.4]];
//! let targets = [0, 1, 1];
//! let figures = Classification::of(&probabilities, &targets)?;
//! assert_eq!(figures.predictions, [0, 1, 0]);
//! assert!((figures.accuracy - 2.0 / 3.0).abs() < 1e-12);
//!
//! let intervals = figures.intervals(&targets, &Resamples::seeded(targets.len(), 1000, 7)?)?;
//! let [low, high] = intervals["accuracy"];
//! assert!(low <= figures.accuracy && figures.accuracy <= high);
//! # Ok::<(), hybrid_eval::EvalError>(())
//! ```

mod compare;
mod cost;
mod error;
mod flops;
mod generalisation;
mod metrics;
mod report;
mod resample;

pub use compare::PairedComparison;
pub use cost::{Cost, peak_rss_mb};
pub use error::EvalError;
pub use flops::{EncoderSize, TrainingPass};
pub use generalisation::{Generalisation, OutOfScope, SecondReport};
pub use metrics::bleu::{Bleu, BleuCounts, BleuScore, Smoothing};
pub use metrics::calibration::{Calibration, CalibrationBin};
pub use metrics::chrf::{Chrf, ChrfCounts, OrderCounts};
pub use metrics::classification::Classification;
pub use metrics::confusion::{Averages, ClassFigures, ConfusedPair, ConfusionMatrix};
pub use metrics::corpus::CorpusMetric;
pub use metrics::correlation::{kendall_tau_b, pearson, spearman};
pub use metrics::higher_is_better;
pub use metrics::mteval::BleuTokenizer;
pub use metrics::multilabel::Multilabel;
pub use metrics::porter::porter_stem;
pub use metrics::probability::{binary_brier, brier, log_loss, log_softmax, top_k_accuracy};
pub use metrics::ranking::{average_precision, false_positive_rate_at, roc_auc};
pub use metrics::regression::{mean_absolute_error, mean_squared_error, r_squared};
pub use metrics::rouge::{Rouge, RougeScore, RougeScores};
pub use metrics::squad::{Squad, SquadRow, normalize_answer};
pub use metrics::temperature::TemperatureScaling;
pub use metrics::ter::{Ter, TerCounts};
pub use metrics::text::{TextFigures, TextTask};
pub use report::card::{CardDetails, HeadDetails, SpanDetails};
pub use report::texts::{OutputExample, TextReport};
pub use report::{
    AdapterSummary, CandidateReport, Comparison, ConfusionReport, CurvePoint, DataSummary, Final,
    PromptSummary, Provenance, Report, RoundReport, SearchCurve, SearchPoint, SharedTexts,
    StageReport, TargetReport, TrainingCurve,
};
pub use resample::{Resamples, percentile};
