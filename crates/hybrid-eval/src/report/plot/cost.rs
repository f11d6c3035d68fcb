//! Wall-clock seconds of each stage.

use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{
    ACCENT, Area, INK, MUTED, Paint, Scale, UNIT, WIDTH, characters, fill, svg, text_style, write,
};
use crate::EvalError;
use crate::report::Report;
use crate::report::format::{duration, shorten};

const LEFT: i32 = 96;
/// Height of a bar with its gap, when there are few bars and when there are many.
const ROWS: [i32; 2] = [30, 22];
const FEW: usize = 8;
const LABEL: f64 = 12.0;
/// Room for the longest duration behind the longest bar.
const VALUE: i32 = 76;

/// Paints one bar a candidate and one for everything between the stages.
pub(in crate::report) fn cost(report: &Report) -> Result<String, EvalError> {
    let mut bars: Vec<(String, f64, bool)> = report
        .candidates
        .iter()
        .map(|candidate| (candidate.id.clone(), candidate.cost.wall_s, true))
        .collect();
    let stages: f64 = bars.iter().map(|(_, seconds, _)| seconds).sum();
    bars.push((
        "load + report".to_owned(),
        (report.cost.wall_s - stages).max(0.0),
        false,
    ));
    let description = format!(
        "Time of each stage, {} in all: {}",
        duration(report.cost.wall_s),
        bars.iter()
            .map(|(name, seconds, _)| format!("{name} {}", duration(*seconds)))
            .collect::<Vec<_>>()
            .join(", "),
    );
    let height = if bars.len() <= FEW { ROWS[0] } else { ROWS[1] };
    svg(
        "cost per stage",
        height * bars.len() as i32 + 8,
        &description,
        |area| paint(&bars, height, area),
    )
}

fn paint(bars: &[(String, f64, bool)], row_height: i32, area: &Area<'_>) -> Paint {
    let longest = bars
        .iter()
        .map(|(_, seconds, _)| *seconds)
        .fold(0.0, f64::max);
    let x = Scale {
        values: [0.0, longest.max(1e-9)],
        units: [LEFT * UNIT, (WIDTH - VALUE) * UNIT],
    };
    let name_style = text_style(LABEL, INK, HPos::Right, VPos::Center);
    let value_style = text_style(LABEL, INK, HPos::Left, VPos::Center);
    for (row, (name, seconds, is_stage)) in bars.iter().enumerate() {
        let middle = (4 + row_height * row as i32 + row_height / 2) * UNIT;
        let end = x.at(*seconds).max(x.units[0] + UNIT);
        let half = row_height * UNIT * 3 / 11;
        fill(
            area,
            [(x.units[0], middle - half), (end, middle + half)],
            if *is_stage { ACCENT } else { MUTED },
        )?;
        let name = shorten(name, characters(LEFT - 8, LABEL));
        write(area, &name, (x.units[0] - 8 * UNIT, middle), &name_style)?;
        write(
            area,
            &duration(*seconds),
            (end + 6 * UNIT, middle),
            &value_style,
        )?;
    }
    Ok(())
}
