//! The best prompt so far over what its search had spent.

use plotters::prelude::Circle;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{
    ACCENT, Area, MUTED, Paint, Scale, UNIT, WIDTH, grid, line, stroke, svg, text_style, ticks,
    write,
};
use crate::EvalError;
use crate::report::format::{figure, metric_name, with_prefix};
use crate::report::{SearchCurve, SearchPoint};

const HEIGHT: i32 = 220;
const LEFT: i32 = 52;
const TOP: i32 = 12;
const BOTTOM: i32 = HEIGHT - 38;
const LABEL: f64 = 11.0;

/// Paints the curve of one search; nothing when it has no point.
pub(in crate::report) fn search(curve: &SearchCurve) -> Result<Option<String>, EvalError> {
    let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else {
        return Ok(None);
    };
    let value = |point: &SearchPoint| figure(curve.value(point), &curve.decides);
    let description = format!(
        "{} of the best prompt so far in {}: from {} after {} {} to {} after {}",
        metric_name(&curve.decides),
        curve.candidate,
        value(first),
        first.spent,
        curve.unit,
        value(last),
        last.spent,
    );
    svg("a search curve", HEIGHT, &description, |area| {
        paint(curve, last.spent, area)
    })
    .map(Some)
}

fn paint(curve: &SearchCurve, spent: u64, area: &Area<'_>) -> Paint {
    let x = Scale {
        values: [0.0, spent.max(1) as f64],
        units: [LEFT * UNIT, (WIDTH - 8) * UNIT],
    };
    let y = Scale {
        values: range(curve),
        units: [BOTTOM * UNIT, TOP * UNIT],
    };
    let levels = ticks(y.values[0], y.values[1], 4);
    grid(area, x.units, y, &levels, |tick| {
        figure(tick, &curve.decides).replace(".0\u{a0}", "\u{a0}")
    })?;
    for pieces in curve.points.chunk_by(|a, b| a.sample == b.sample) {
        let mut places: Vec<(i32, i32)> = Vec::new();
        for point in pieces {
            let at = (x.at(point.spent as f64), y.at(curve.value(point)));
            // A figure stands until the next trial has ended.
            if let Some((_, height)) = places.last().copied() {
                places.push((at.0, height));
            }
            places.push(at);
        }
        let begins = places[0];
        line(area, places, ACCENT, 2.0)?;
        area.draw(&Circle::new(begins, 3 * UNIT, stroke(ACCENT, 1.0).filled()))?;
    }
    let style = text_style(LABEL, MUTED, HPos::Center, VPos::Top);
    let bottom = (BOTTOM + 6) * UNIT;
    for tick in ticks(0.0, x.values[1], 4) {
        let place = x
            .at(tick)
            .clamp(x.units[0] + 4 * UNIT, x.units[1] - 14 * UNIT);
        write(area, &with_prefix(tick, ""), (place, bottom), &style)?;
    }
    write(
        area,
        &format!("{} spent", curve.unit),
        (x.units[1], bottom + 15 * UNIT),
        &text_style(LABEL, MUTED, HPos::Right, VPos::Top),
    )
}

/// The values of the curve, with some room where all are alike.
fn range(curve: &SearchCurve) -> [f64; 2] {
    let values = curve.points.iter().map(|point| curve.value(point));
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let room = (0.05 * (high - low)).max(0.005);
    [low - room, high + room]
}

#[cfg(test)]
mod tests {
    use super::search;
    use crate::report::sample::sample;

    #[test]
    fn each_sample_has_a_line_of_its_own() {
        let mut curve = sample().searches.remove(0);
        let samples: Vec<usize> = curve.points.iter().map(|point| point.sample).collect();
        assert!(samples.windows(2).any(|pair| pair[0] < pair[1]));
        let plot = search(&curve).unwrap().unwrap();
        let n_samples = samples.chunk_by(|a, b| a == b).count();
        assert_eq!(plot.matches("<circle").count(), n_samples);
        assert!(plot.contains("tokens spent"));
        for point in &mut curve.points {
            point.sample = 1;
        }
        let plot = search(&curve).unwrap().unwrap();
        assert_eq!(plot.matches("<circle").count(), 1);
    }

    #[test]
    fn what_decides_is_what_is_drawn() {
        let mut curve = sample().searches.remove(0);
        let by_accuracy = search(&curve).unwrap().unwrap();
        curve.decides = "log_loss".to_owned();
        let by_log_loss = search(&curve).unwrap().unwrap();
        assert_ne!(by_accuracy, by_log_loss);
        curve.points.truncate(1);
        search(&curve).unwrap().unwrap();
        curve.points.clear();
        assert!(search(&curve).unwrap().is_none());
    }
}
