//! Accuracy against confidence.

use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{
    ACCENT, Area, INK, MUTED, Paint, Scale, UNIT, WIDTH, dashes, fill, grid, svg, text_style, write,
};
use crate::report::format::percent;
use crate::{Calibration, EvalError};

const HEIGHT: i32 = 330;
const LEFT: i32 = 52;
const ACCURACY: [i32; 2] = [22, 206];
const SHARE: [i32; 2] = [236, 290];

/// Paints the accuracy of each confidence bin above the share of predictions that it holds.
pub(in crate::report) fn calibration(calibration: &Calibration) -> Result<String, EvalError> {
    let description = format!(
        "Accuracy by confidence in {} bins; the expected calibration error is {}",
        calibration.n_bins,
        percent(calibration.ece),
    );
    svg("calibration", HEIGHT, &description, |area| {
        paint(calibration, area)
    })
}

fn paint(calibration: &Calibration, area: &Area<'_>) -> Paint {
    let x = Scale {
        values: [0.0, 1.0],
        units: [LEFT * UNIT, (WIDTH - 12) * UNIT],
    };
    let heading = text_style(12.0, INK, HPos::Left, VPos::Bottom);
    let total = calibration
        .bins
        .iter()
        .map(|bin| bin.count)
        .sum::<u64>()
        .max(1) as f64;
    let largest = calibration
        .bins
        .iter()
        .map(|bin| bin.count as f64 / total)
        .fold(0.0, f64::max);
    let in_percent = |share: f64| format!("{:.0}\u{a0}%", 100.0 * share);

    let accuracy = Scale {
        values: [0.0, 1.0],
        units: [ACCURACY[1] * UNIT, ACCURACY[0] * UNIT],
    };
    write(
        area,
        "accuracy",
        (x.units[0], (ACCURACY[0] - 6) * UNIT),
        &heading,
    )?;
    grid(
        area,
        x.units,
        accuracy,
        &[0.0, 0.25, 0.5, 0.75, 1.0],
        in_percent,
    )?;
    let share = Scale {
        values: [0.0, largest],
        units: [SHARE[1] * UNIT, SHARE[0] * UNIT],
    };
    write(
        area,
        "share of predictions",
        (x.units[0], (SHARE[0] - 6) * UNIT),
        &heading,
    )?;
    grid(area, x.units, share, &[0.0, largest], in_percent)?;

    for bin in &calibration.bins {
        let edge = |place: usize| x.at(place as f64 / calibration.n_bins as f64);
        let (left, right) = (edge(bin.bin) + UNIT, edge(bin.bin + 1) - UNIT);
        fill(
            area,
            [(left, accuracy.at(bin.accuracy)), (right, accuracy.at(0.0))],
            ACCENT.mix(0.75),
        )?;
        let height = share.at(bin.count as f64 / total);
        fill(
            area,
            [(left, height), (right, share.at(0.0))],
            MUTED.mix(0.75),
        )?;
    }
    dashes(
        area,
        [(x.at(0.0), accuracy.at(0.0)), (x.at(1.0), accuracy.at(1.0))],
        INK,
    )?;

    let style = text_style(11.0, MUTED, HPos::Center, VPos::Top);
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        write(
            area,
            &in_percent(tick),
            (x.at(tick).min(x.units[1] - 6 * UNIT), (SHARE[1] + 6) * UNIT),
            &style,
        )?;
    }
    let style = text_style(11.0, MUTED, HPos::Right, VPos::Top);
    write(
        area,
        "confidence",
        (x.units[1], (SHARE[1] + 21) * UNIT),
        &style,
    )
}
