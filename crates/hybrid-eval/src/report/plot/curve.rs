//! Loss, gradient norm and rate of a training stage.

use plotters::prelude::RGBColor;
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{
    ACCENT, Area, INK, MUTED, Paint, Scale, UNIT, WIDTH, grid, line, svg, text_style, ticks, write,
};
use crate::EvalError;
use crate::report::format::significant;
use crate::report::{CurvePoint, TrainingCurve};

const HEIGHT: i32 = 366;
const LEFT: i32 = 52;
/// More points than this cannot be told apart on the page.
const MAX_POINTS: usize = 320;

/// One panel: where it lies and what it shows.
struct Panel {
    name: &'static str,
    top: i32,
    bottom: i32,
    n_ticks: usize,
    value: fn(&CurvePoint) -> f64,
    smooth: bool,
}

const PANELS: [Panel; 3] = [
    Panel {
        name: "loss",
        top: 22,
        bottom: 168,
        n_ticks: 4,
        value: |point| point.loss,
        smooth: true,
    },
    Panel {
        name: "gradient norm",
        top: 198,
        bottom: 256,
        n_ticks: 2,
        value: |point| point.grad_norm,
        smooth: true,
    },
    Panel {
        name: "learning rate",
        top: 286,
        bottom: 330,
        n_ticks: 2,
        value: |point| point.learning_rate,
        smooth: false,
    },
];

/// Paints the curve of one stage; nothing when it has no point.
pub(in crate::report) fn curve(curve: &TrainingCurve) -> Result<Option<String>, EvalError> {
    let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else {
        return Ok(None);
    };
    let description = format!(
        "Loss of {} over {} updates: from {} to {}, with gradient norm and learning rate below",
        curve.candidate,
        last.step,
        significant(first.loss),
        significant(last.loss),
    );
    svg("a loss curve", HEIGHT, &description, |area| {
        paint(curve, [first.step, last.step], area)
    })
    .map(Some)
}

fn paint(curve: &TrainingCurve, steps: [usize; 2], area: &Area<'_>) -> Paint {
    let x = Scale {
        values: steps.map(|step| step as f64),
        units: [LEFT * UNIT, (WIDTH - 8) * UNIT],
    };
    for panel in &PANELS {
        let series: Vec<(f64, f64)> = curve
            .points
            .iter()
            .map(|point| (point.step as f64, (panel.value)(point)))
            .filter(|(_, value)| value.is_finite())
            .collect();
        paint_panel(panel, &thin(&series), x, area)?;
    }
    let bottom = (PANELS[2].bottom + 6) * UNIT;
    let style = text_style(11.0, MUTED, HPos::Center, VPos::Top);
    for tick in ticks(x.values[0], x.values[1], 5)
        .into_iter()
        .filter(|tick| tick.fract() == 0.0)
    {
        let place = x
            .at(tick)
            .clamp(x.units[0] + 4 * UNIT, x.units[1] - 10 * UNIT);
        write(area, &format!("{tick}"), (place, bottom), &style)?;
    }
    write(
        area,
        "update",
        (x.units[1], bottom + 14 * UNIT),
        &text_style(11.0, MUTED, HPos::Right, VPos::Top),
    )
}

fn paint_panel(panel: &Panel, series: &[(f64, f64)], x: Scale, area: &Area<'_>) -> Paint {
    let highest = series.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let lowest = series.iter().map(|(_, value)| *value).fold(0.0, f64::min);
    let y = Scale {
        values: [
            lowest,
            if highest > lowest {
                highest
            } else {
                lowest + 1.0
            },
        ],
        units: [panel.bottom * UNIT, panel.top * UNIT],
    };
    write(
        area,
        panel.name,
        (x.units[0], (panel.top - 6) * UNIT),
        &text_style(12.0, INK, HPos::Left, VPos::Bottom),
    )?;
    grid(
        area,
        x.units,
        y,
        &ticks(y.values[0], y.values[1], panel.n_ticks),
        significant,
    )?;
    let places = |series: &[(f64, f64)]| {
        series
            .iter()
            .map(|(step, value)| (x.at(*step), y.at(*value)))
            .collect()
    };
    let color: RGBColor = ACCENT;
    if panel.smooth {
        line(area, places(series), color.mix(0.35), 1.0)?;
        line(area, places(&smoothed(series)), color, 2.0)
    } else {
        line(area, places(series), color, 2.0)
    }
}

/// Means of neighbouring points, so that at most [`MAX_POINTS`] are left.
fn thin(series: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = series.len().div_ceil(MAX_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (
            chunk.iter().map(|(step, _)| step).sum::<f64>() / n,
            chunk.iter().map(|(_, value)| value).sum::<f64>() / n,
        )
    };
    series.chunks(size).map(mean).collect()
}

/// Mean of the neighbours within a fiftieth of the points on either side.
fn smoothed(series: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = series.len() / 50 + 1;
    let mean = |(index, (step, _)): (usize, &(f64, f64))| {
        let near = &series[index.saturating_sub(reach)..(index + reach + 1).min(series.len())];
        (
            *step,
            near.iter().map(|(_, value)| value).sum::<f64>() / near.len() as f64,
        )
    };
    series.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::{MAX_POINTS, curve, smoothed, thin};
    use crate::report::TrainingCurve;

    #[test]
    fn long_curves_are_thinned_without_moving_the_mean() {
        let series: Vec<(f64, f64)> = (0..5 * MAX_POINTS)
            .map(|step| (step as f64, (step % 5) as f64))
            .collect();
        let thinned = thin(&series);
        assert_eq!(thinned.len(), MAX_POINTS);
        assert!(thinned.iter().all(|(_, value)| *value == 2.0));
    }

    #[test]
    fn smoothing_keeps_a_constant() {
        let series: Vec<(f64, f64)> = (0..100).map(|step| (step as f64, 3.0)).collect();
        assert!(
            smoothed(&series)
                .iter()
                .all(|(_, value)| (value - 3.0).abs() < 1e-12)
        );
    }

    #[test]
    fn a_stage_without_updates_has_no_curve() {
        assert!(
            curve(&TrainingCurve {
                candidate: "1-lora".to_owned(),
                points: Vec::new()
            })
            .unwrap()
            .is_none()
        );
    }
}
