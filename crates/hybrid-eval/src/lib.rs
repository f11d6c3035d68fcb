//! Outputs to verdicts: metrics, cost, generalisation, comparisons and the report.
