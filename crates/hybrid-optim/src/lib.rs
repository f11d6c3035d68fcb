//! Losses to updates: objectives, parameter groups, schedules, accumulation and clipping.
