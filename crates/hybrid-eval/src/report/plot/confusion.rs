//! The confusion matrix as a heat map.

use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{
    ACCENT, Area, GRID, INK, MUTED, Paint, Scale, UNIT, WARN, WIDTH, characters, fill, line, svg,
    text_style, ticks, write,
};
use crate::EvalError;
use crate::report::ConfusionReport;
use crate::report::format::shorten;

/// Up to this many classes, rows carry names and cells carry counts.
const MAX_NAMED: usize = 12;
const TOP: i32 = 38;
const LABEL: f64 = 11.0;

/// Paints right predictions in one colour, errors in another; strength is the share of the row.
pub(in crate::report) fn confusion(confusion: &ConfusionReport) -> Result<String, EvalError> {
    let left = if confusion.labels.len() <= MAX_NAMED {
        128
    } else {
        58
    };
    let side = WIDTH - left - 6;
    let right: u64 = confusion
        .counts
        .iter()
        .enumerate()
        .map(|(class, row)| row[class])
        .sum();
    let total: u64 = confusion.counts.iter().flatten().sum();
    let description = format!(
        "Confusion matrix of {} classes: {right} of {total} predictions lie on the diagonal; the tables below list the errors",
        confusion.labels.len(),
    );
    svg(
        "the confusion matrix",
        TOP + side + 6,
        &description,
        |area| paint(confusion, left, side, area),
    )
}

fn paint(confusion: &ConfusionReport, left: i32, side: i32, area: &Area<'_>) -> Paint {
    let n = confusion.labels.len();
    let named = n <= MAX_NAMED;
    let span = [0.0, n as f64];
    let x = Scale {
        values: span,
        units: [left * UNIT, (left + side) * UNIT],
    };
    let y = Scale {
        values: span,
        units: [TOP * UNIT, (TOP + side) * UNIT],
    };
    let count_style = text_style(
        LABEL.min(f64::from(side) / n.max(1) as f64 * 0.5),
        INK,
        HPos::Center,
        VPos::Center,
    );
    for (actual, row) in confusion.counts.iter().enumerate() {
        let total = row.iter().sum::<u64>().max(1) as f64;
        for (predicted, count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (column, line) = (predicted as f64, actual as f64);
            let corners = [
                (x.at(column), y.at(line)),
                (x.at(column + 1.0), y.at(line + 1.0)),
            ];
            let strength = 0.12 + 0.88 * (*count as f64 / total).sqrt();
            let (color, strength) = if actual == predicted {
                (ACCENT, strength * if named { 0.6 } else { 1.0 })
            } else {
                (WARN, strength)
            };
            fill(area, corners, color.mix(strength))?;
            if named {
                write(
                    area,
                    &count.to_string(),
                    (x.at(column + 0.5), y.at(line + 0.5)),
                    &count_style,
                )?;
            }
        }
    }
    frame(area, x.units, y.units)?;
    axes(confusion, named, x, y, area)
}

fn frame(area: &Area<'_>, [left, right]: [i32; 2], [top, bottom]: [i32; 2]) -> Paint {
    line(
        area,
        vec![
            (left, top),
            (right, top),
            (right, bottom),
            (left, bottom),
            (left, top),
        ],
        GRID,
        1.0,
    )
}

fn axes(confusion: &ConfusionReport, named: bool, x: Scale, y: Scale, area: &Area<'_>) -> Paint {
    let column_style = text_style(LABEL, MUTED, HPos::Center, VPos::Bottom);
    let row_style = text_style(LABEL, MUTED, HPos::Right, VPos::Center);
    let shown: Vec<usize> = if named {
        (0..confusion.labels.len()).collect()
    } else {
        ticks(1.0, confusion.labels.len() as f64, 8)
            .into_iter()
            .map(|tick| tick as usize - 1)
            .collect()
    };
    for class in shown {
        let middle = class as f64 + 0.5;
        let number = (class + 1).to_string();
        write(
            area,
            &number,
            (x.at(middle), y.units[0] - 3 * UNIT),
            &column_style,
        )?;
        let name = if named {
            let room = characters(x.units[0] / UNIT - 6, LABEL) - number.len() - 1;
            format!("{} {number}", shorten(&confusion.labels[class], room))
        } else {
            number
        };
        write(
            area,
            &name,
            (x.units[0] - 4 * UNIT, y.at(middle)),
            &row_style,
        )?;
    }
    let style = text_style(LABEL, INK, HPos::Left, VPos::Bottom);
    write(
        area,
        "predicted →",
        (x.units[0], y.units[0] - 19 * UNIT),
        &style,
    )?;
    let style = text_style(LABEL, INK, HPos::Right, VPos::Bottom);
    write(
        area,
        "actual ↓",
        (x.units[0] - 4 * UNIT, y.units[0] - 3 * UNIT),
        &style,
    )
}
