//! Figures of several rounds: medians, spreads, ratios, and tables of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One thing that is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    /// Its key in JSON.
    pub(super) key: &'static str,
    /// Its heading in tables, with the unit.
    pub(super) heading: &'static str,
    /// Digits behind the point.
    pub(super) digits: usize,
}

/// What one program took, by figure, a value for each round.
#[derive(Debug)]
pub(super) struct Measured {
    /// The program's name.
    pub(super) name: &'static str,
    values: BTreeMap<&'static str, Vec<f64>>,
}

impl Measured {
    /// A program that has not run.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            values: BTreeMap::new(),
        }
    }

    /// Adds a round's value.
    pub(super) fn add(&mut self, figure: &Figure, value: f64) {
        self.values.entry(figure.key).or_default().push(value);
    }

    fn sorted(&self, figure: &Figure) -> Vec<f64> {
        let mut values = self.values.get(figure.key).cloned().unwrap_or_default();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, figure: &Figure) -> Option<f64> {
        let values = self.sorted(figure);
        let middle = values.len() / 2;
        let upper = values.get(middle)?;
        match values.len() % 2 {
            1 => Some(*upper),
            _ => Some((values[middle - 1] + upper) / 2.0),
        }
    }

    fn cell(&self, figure: &Figure) -> String {
        let (values, digits) = (self.sorted(figure), figure.digits);
        match (self.median(figure), &values[..]) {
            (Some(median), [least, .., most]) => {
                format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
            }
            (Some(median), _) => format!("{median:.digits$}"),
            (None, _) => "not known".to_owned(),
        }
    }

    /// Median, least, most and all values of each figure.
    pub(super) fn json(&self, figures: &[Figure]) -> Value {
        let of = |figure: &Figure| {
            let sorted = self.sorted(figure);
            let summary = json!({
                "median": self.median(figure),
                "least": sorted.first(),
                "most": sorted.last(),
                "rounds": self.values.get(figure.key),
            });
            (figure.key.to_owned(), summary)
        };
        Value::Object(figures.iter().map(of).collect())
    }
}

/// A table with a row for each program: medians, in brackets least and most.
pub(super) fn table<'a>(
    programs: impl Iterator<Item = &'a Measured>,
    figures: &[Figure],
) -> String {
    let row = |program: &Measured| {
        let cells = figures.iter().map(|figure| program.cell(figure));
        line(program.name.to_owned(), cells)
    };
    let rows: String = programs.map(row).collect();
    format!("{}{rows}", head("program", figures))
}

/// The ratios of the medians of the first of each pair to those of the second.
pub(super) fn ratios(pairs: &[(&Measured, &Measured)], figures: &[Figure]) -> String {
    let row = |(own, other): &(&Measured, &Measured)| {
        let cells = figures
            .iter()
            .map(|figure| match ratio(own, other, figure) {
                Some(ratio) => format!("{ratio:.2}"),
                None => "not known".to_owned(),
            });
        line(format!("{} / {}", own.name, other.name), cells)
    };
    let rows: String = pairs.iter().map(row).collect();
    format!("{}{rows}", head("ratio of medians", figures))
}

/// The same as data.
pub(super) fn ratios_json(pairs: &[(&Measured, &Measured)], figures: &[Figure]) -> Value {
    let of = |(own, other): &(&Measured, &Measured)| {
        let ratios = figures
            .iter()
            .map(|figure| (figure.key.to_owned(), json!(ratio(own, other, figure))));
        json!({
            "of": own.name,
            "to": other.name,
            "ratios": Value::Object(ratios.collect()),
        })
    };
    pairs.iter().map(of).collect()
}

/// The ratio of two medians; none where one is not known.
pub(super) fn ratio(own: &Measured, other: &Measured, figure: &Figure) -> Option<f64> {
    Some(own.median(figure)? / other.median(figure)?)
}

fn head(first: &str, figures: &[Figure]) -> String {
    let headings = figures.iter().map(|figure| figure.heading.to_owned());
    let rule = figures.iter().map(|_| "---:".to_owned());
    format!(
        "{}{}",
        line(first.to_owned(), headings),
        line("---".to_owned(), rule)
    )
}

fn line(first: String, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = std::iter::once(first).chain(cells).collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::{Figure, Measured, ratios, ratios_json, table};

    const SPEED: Figure = Figure {
        key: "speed",
        heading: "tokens/s",
        digits: 1,
    };

    fn measured(name: &'static str, values: &[f64]) -> Measured {
        let mut measured = Measured::new(name);
        values.iter().for_each(|value| measured.add(&SPEED, *value));
        measured
    }

    #[test]
    fn tables_have_medians_and_spreads() {
        let programs = [
            measured("ours", &[9.0, 2.0, 4.0]),
            measured("theirs", &[3.0, 5.0]),
            measured("once", &[7.0]),
            measured("never", &[]),
        ];
        assert_eq!(
            table(programs.iter(), &[SPEED]),
            "| program | tokens/s |\n| --- | ---: |\n| ours | 4.0 (2.0 to 9.0) |\n\
             | theirs | 4.0 (3.0 to 5.0) |\n| once | 7.0 |\n| never | not known |\n"
        );
        assert_eq!(programs[0].json(&[SPEED])["speed"]["least"], 2.0);
        assert_eq!(programs[0].json(&[SPEED])["speed"]["rounds"][0], 9.0);
    }

    #[test]
    fn ratios_are_of_medians() {
        let (own, other) = (measured("a", &[9.0, 2.0, 4.0]), measured("b", &[8.0]));
        let pairs = [(&own, &other)];
        let text = ratios(&pairs, &[SPEED]);
        assert!(text.ends_with("| a / b | 0.50 |\n"), "{text}");
        assert_eq!(ratios_json(&pairs, &[SPEED])[0]["ratios"]["speed"], 0.5);
    }
}
