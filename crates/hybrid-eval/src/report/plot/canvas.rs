//! The drawing surface shared by all plots.

use plotters::coord::Shift;
use plotters::prelude::{
    DrawingArea, IntoDrawingArea, PathElement, RGBColor, Rectangle, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, ShapeStyle, TextStyle};

use crate::EvalError;

/// Drawing units of one CSS pixel on a phone: plotters places everything on whole units.
pub(super) const UNIT: i32 = 4;

/// Width of every plot in CSS pixels on a phone; wider screens scale it up.
pub(super) const WIDTH: i32 = 360;

/// Plotters divides font sizes by this before it writes them.
const FONT_FACTOR: f64 = 1.24;

/// Mean width of a character as a share of the font size.
const CHARACTER_WIDTH: f64 = 0.56;

pub(super) const INK: RGBColor = RGBColor(1, 2, 3);
pub(super) const MUTED: RGBColor = RGBColor(1, 2, 4);
pub(super) const GRID: RGBColor = RGBColor(1, 2, 5);
pub(super) const ACCENT: RGBColor = RGBColor(1, 2, 6);
pub(super) const WARN: RGBColor = RGBColor(1, 2, 7);
pub(super) const SURFACE: RGBColor = RGBColor(1, 2, 8);

/// Stand-in colours as plotters writes them, and the page's variables that take their place.
const VARIABLES: [(&str, &str); 6] = [
    ("\"#010203\"", "\"var(--ink)\""),
    ("\"#010204\"", "\"var(--muted)\""),
    ("\"#010205\"", "\"var(--grid)\""),
    ("\"#010206\"", "\"var(--accent)\""),
    ("\"#010207\"", "\"var(--warn)\""),
    ("\"#010208\"", "\"var(--surface)\""),
];

/// A whole plot or a part of it.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What may go wrong while painting.
pub(super) type Paint = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Paints a plot of the given height in CSS pixels. `description` is what a screen reader says.
pub(super) fn svg(
    plot: &'static str,
    height: i32,
    description: &str,
    paint: impl FnOnce(&Area<'_>) -> Paint,
) -> Result<String, EvalError> {
    let (width, height) = (WIDTH * UNIT, height * UNIT);
    let mut drawn = String::new();
    {
        let area =
            SVGBackend::with_string(&mut drawn, (width.unsigned_abs(), height.unsigned_abs()))
                .into_drawing_area();
        paint(&area)
            .and_then(|()| Ok(area.present()?))
            .map_err(|source| EvalError::Plot { plot, source })?;
    }
    let (_, content) = drawn.split_once('>').unwrap_or_default();
    let label = escape(description);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">{content}"
    );
    for (stand_in, variable) in VARIABLES {
        svg = svg.replace(stand_in, variable);
    }
    Ok(svg
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" opacity=\"1\"", ""))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Text of a size in CSS pixels, anchored at a corner, an edge or the middle.
pub(super) fn text_style(
    size: f64,
    color: RGBColor,
    horizontal: HPos,
    vertical: VPos,
) -> TextStyle<'static> {
    ("sans-serif", size * f64::from(UNIT) * FONT_FACTOR)
        .into_font()
        .color(&color)
        .pos(Pos::new(horizontal, vertical))
}

/// Writes a line of text at a place in drawing units.
pub(super) fn write(
    area: &Area<'_>,
    text: &str,
    place: (i32, i32),
    style: &TextStyle<'static>,
) -> Paint {
    Ok(area.draw(&Text::new(text.to_owned(), place, style.clone()))?)
}

/// A filled box between two places in drawing units.
pub(super) fn fill(
    area: &Area<'_>,
    corners: [(i32, i32); 2],
    style: impl Into<ShapeStyle>,
) -> Paint {
    Ok(area.draw(&Rectangle::new(corners, style.into().filled()))?)
}

/// A line through places in drawing units, its width in CSS pixels.
pub(super) fn line(
    area: &Area<'_>,
    places: Vec<(i32, i32)>,
    color: impl Color,
    width: f64,
) -> Paint {
    Ok(area.draw(&PathElement::new(places, stroke(color, width)))?)
}

/// A dashed line between two places in drawing units.
pub(super) fn dashes(area: &Area<'_>, [from, to]: [(i32, i32); 2], color: RGBColor) -> Paint {
    const DASH: f64 = 5.0 * UNIT as f64;
    let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
    let count = (dx.hypot(dy) / (1.8 * DASH)).ceil().max(1.0);
    let at = |share: f64| {
        (
            from.0 + (dx * share).round() as i32,
            from.1 + (dy * share).round() as i32,
        )
    };
    for index in 0..count as usize {
        let start = index as f64 / count;
        line(area, vec![at(start), at(start + 0.55 / count)], color, 1.25)?;
    }
    Ok(())
}

/// A stroke whose width is given in CSS pixels.
pub(super) fn stroke(color: impl Color, width: f64) -> ShapeStyle {
    color.stroke_width((width * f64::from(UNIT)).round().max(1.0) as u32)
}

/// How many characters of a font size fit a width, both in CSS pixels.
pub(super) fn characters(width: i32, size: f64) -> usize {
    (f64::from(width.max(0)) / (size * CHARACTER_WIDTH)) as usize
}

/// About `count` round numbers that span `[low, high]`.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![low];
    }
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * magnitude)
        .into_iter()
        .find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * magnitude);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|index| index as f64 * step).collect()
}

/// Places values of a range on a span of drawing units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) values: [f64; 2],
    pub(super) units: [i32; 2],
}

impl Scale {
    pub(super) fn at(&self, value: f64) -> i32 {
        let [low, high] = self.values;
        let [start, end] = self.units;
        let share = if high > low {
            (value - low) / (high - low)
        } else {
            0.5
        };
        start + (share * f64::from(end - start)).round() as i32
    }
}

/// Horizontal grid lines with their values at the left.
pub(super) fn grid(
    area: &Area<'_>,
    x: [i32; 2],
    y: Scale,
    ticks: &[f64],
    label: impl Fn(f64) -> String,
) -> Paint {
    let style = text_style(11.0, MUTED, HPos::Right, VPos::Center);
    for tick in ticks {
        let height = y.at(*tick);
        line(area, vec![(x[0], height), (x[1], height)], GRID, 1.0)?;
        write(area, &label(*tick), (x[0] - 5 * UNIT, height), &style)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{INK, Scale, line, svg, ticks};

    #[test]
    fn colours_follow_the_page_and_text_is_escaped() {
        let svg = svg("a line", 10, "a \"line\" <here>", |area| {
            line(area, vec![(0, 0), (9, 9)], INK, 1.0)
        })
        .unwrap();
        assert!(svg.contains("stroke=\"var(--ink)\""));
        assert!(svg.contains("a &quot;line&quot; &lt;here&gt;"));
        assert!(!svg.contains('#') && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            ticks(0.0, 1.0, 5),
            [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        assert_eq!(ticks(3.0, 3.0, 5), [3.0]);
        assert!(
            ticks(0.57, 0.93, 4)
                .iter()
                .all(|tick| (0.57..=0.93).contains(tick))
        );
    }

    #[test]
    fn a_scale_without_extent_centres() {
        let scale = Scale {
            values: [2.0, 2.0],
            units: [0, 10],
        };
        assert_eq!(scale.at(2.0), 5);
    }
}
