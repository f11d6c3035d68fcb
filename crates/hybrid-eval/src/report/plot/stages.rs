//! The deciding figure over the stages, and what the report split then said.

use plotters::prelude::Circle;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{
    ACCENT, Area, INK, MUTED, Paint, SURFACE, Scale, UNIT, WARN, WIDTH, characters, dashes, grid,
    line, stroke, svg, text_style, ticks, write,
};
use crate::EvalError;
use crate::report::Report;
use crate::report::format::{Unit, figure, metric_name};

const HEIGHT: i32 = 250;
const LEFT: i32 = 52;
const TOP: i32 = 24;
const BOTTOM: i32 = HEIGHT - 34;
const LABEL: f64 = 11.0;

/// Paints every candidate on select, a line through the adopted ones, and the winner on report.
pub(in crate::report) fn stages(report: &Report) -> Result<String, EvalError> {
    let metric = &report.final_result.metric;
    let description = format!(
        "{} over {} candidates: from {} to {} on the select split, {} on the report split",
        metric_name(metric),
        report.candidates.len(),
        value(report, 0).map_or_else(String::new, |value| figure(value, metric)),
        figure(report.generalisation.select, metric),
        figure(report.final_result.value, metric),
    );
    svg("quality over stages", HEIGHT, &description, |area| {
        paint(report, area)
    })
}

fn value(report: &Report, index: usize) -> Option<f64> {
    report
        .candidates
        .get(index)?
        .select
        .get(&report.final_result.metric)
        .copied()
}

fn paint(report: &Report, area: &Area<'_>) -> Paint {
    let last = &report.final_result;
    let metric = last.metric.as_str();
    let columns = report.candidates.len() + 1;
    let x = Scale {
        values: [-0.5, columns as f64 - 0.5],
        units: [LEFT * UNIT, (WIDTH - 6) * UNIT],
    };
    let y = Scale {
        values: range(report),
        units: [BOTTOM * UNIT, TOP * UNIT],
    };
    let place = |column: usize, value: f64| (x.at(column as f64), y.at(value));
    let target = target(report);
    // The target's own label takes the place of a tick that is too near.
    let is_free =
        |tick: &f64| target.is_none_or(|target| (y.at(*tick) - y.at(target)).abs() > 13 * UNIT);
    let ticks: Vec<f64> = ticks(y.values[0], y.values[1], 4)
        .into_iter()
        .filter(is_free)
        .collect();
    grid(area, x.units, y, &ticks, |tick| {
        let text = figure(tick, metric);
        match Unit::of(metric) {
            Unit::Points => text.strip_suffix(".0").unwrap_or(&text).to_owned(),
            _ => text.replace(".0\u{a0}", "\u{a0}"),
        }
    })?;
    if let Some(target) = target {
        let height = y.at(target);
        dashes(area, [(x.units[0], height), (x.units[1], height)], WARN)?;
        let style = text_style(LABEL, WARN, HPos::Right, VPos::Center);
        write(
            area,
            &figure(target, metric),
            (x.units[0] - 5 * UNIT, height),
            &style,
        )?;
    }
    let points: Vec<(usize, f64, bool)> = (0..report.candidates.len())
        .filter_map(|index| {
            Some((
                index,
                value(report, index)?,
                report.candidates[index].adopted,
            ))
        })
        .collect();
    let adopted: Vec<(i32, i32)> = points
        .iter()
        .filter(|(.., adopted)| *adopted)
        .map(|(column, value, _)| place(*column, *value))
        .collect();
    if let Some(end) = adopted.last() {
        let from = *end;
        line(area, adopted, ACCENT, 2.0)?;
        dashes(area, [from, place(columns - 1, last.value)], MUTED)?;
    }
    let column_width = (x.at(1.0) - x.at(0.0)) / UNIT;
    let above = text_style(LABEL, INK, HPos::Center, VPos::Bottom);
    let beside = text_style(LABEL, INK, HPos::Left, VPos::Center);
    for (column, value, adopted) in &points {
        let at = place(*column, *value);
        let style = if *adopted { ACCENT } else { SURFACE };
        area.draw(&Circle::new(at, 4 * UNIT, stroke(style, 1.0).filled()))?;
        area.draw(&Circle::new(at, 4 * UNIT, stroke(ACCENT, 1.5)))?;
        if column_width >= 34 {
            // Where the line rises, the room is at the right and below.
            let rises = *adopted
                && points
                    .iter()
                    .any(|(later, .., adopted)| *adopted && later > column);
            let (at, style) = match rises {
                true => ((at.0 + 8 * UNIT, at.1 + 5 * UNIT), &beside),
                false => ((at.0, at.1 - 7 * UNIT), &above),
            };
            write(area, &short_figure(*value, metric), at, style)?;
        }
    }
    final_point(area, report, x.at(columns as f64 - 1.0), y)?;
    column_names(area, report, x, column_width)
}

/// The report figure with its interval.
fn final_point(area: &Area<'_>, report: &Report, column: i32, y: Scale) -> Paint {
    let last = &report.final_result;
    let [low, high] = last.interval.map(|bound| y.at(bound));
    line(area, vec![(column, low), (column, high)], INK, 1.5)?;
    for bound in [low, high] {
        line(
            area,
            vec![(column - 4 * UNIT, bound), (column + 4 * UNIT, bound)],
            INK,
            1.5,
        )?;
    }
    area.draw(&Circle::new(
        (column, y.at(last.value)),
        4 * UNIT,
        stroke(INK, 1.0).filled(),
    ))?;
    let style = text_style(LABEL, INK, HPos::Center, VPos::Bottom);
    write(
        area,
        &short_figure(last.value, &last.metric),
        (column, high - 5 * UNIT),
        &style,
    )
}

/// Names under the columns, or numbers where names do not fit.
fn column_names(area: &Area<'_>, report: &Report, x: Scale, column_width: i32) -> Paint {
    let style = text_style(LABEL, MUTED, HPos::Center, VPos::Top);
    let room = characters(column_width, LABEL);
    let last = report.candidates.len();
    let numbered = report
        .candidates
        .iter()
        .any(|candidate| candidate.id.chars().count() > room);
    let every = (16 / column_width.max(1) + 1) as usize;
    for (column, candidate) in report.candidates.iter().enumerate() {
        if numbered && column % every != 0 {
            continue;
        }
        let name = if numbered {
            (column + 1).to_string()
        } else {
            candidate.id.clone()
        };
        write(
            area,
            &name,
            (x.at(column as f64), (BOTTOM + 8) * UNIT),
            &style,
        )?;
    }
    let height = (BOTTOM + 8) * UNIT;
    if column_width >= 40 {
        write(
            area,
            "report",
            (x.at(last as f64), height),
            &text_style(LABEL, INK, HPos::Center, VPos::Top),
        )
    } else {
        let under = height + 14 * UNIT;
        write(
            area,
            "report",
            (x.units[1], under),
            &text_style(LABEL, INK, HPos::Right, VPos::Top),
        )
    }
}

/// The wanted value, when it is of the figure that is painted.
fn target(report: &Report) -> Option<f64> {
    report
        .target
        .as_ref()
        .filter(|target| target.metric == report.final_result.metric)
        .map(|target| target.value)
}

/// A share without its unit, which the axis already shows.
fn short_figure(value: f64, metric: &str) -> String {
    figure(value, metric).replace("\u{a0}%", "")
}

/// All values with some air.
fn range(report: &Report) -> [f64; 2] {
    let last = &report.final_result;
    let values: Vec<f64> = (0..report.candidates.len())
        .filter_map(|index| value(report, index))
        .chain(last.interval)
        .chain(target(report))
        .collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let air = (0.12 * (high - low)).max(Unit::of(&last.metric).hundredth());
    [low - air, high + air]
}
