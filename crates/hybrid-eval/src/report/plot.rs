//! Plots as inline SVG that follows the page's colours, light or dark.

mod calibration;
mod canvas;
mod confusion;
mod cost;
mod curve;
mod search;
mod stages;

pub(super) use calibration::calibration;
pub(super) use confusion::confusion;
pub(super) use cost::cost;
pub(super) use curve::curve;
pub(super) use search::search;
pub(super) use stages::stages;
