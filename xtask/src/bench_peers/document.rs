//! `benchmarks.md`, of which each comparison writes its own section.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::error::XtaskError;

const OPENING: &str = "# Benchmarks\n\nFigures as they were measured, each with its command.\n";

/// Writes a section and the figures behind it: `benchmarks.md` and `benchmarks/NAME.json` in a
/// folder.
///
/// # Errors
/// [`XtaskError::Read`], [`XtaskError::Write`].
pub(super) fn write(
    folder: &Path,
    name: &str,
    title: &str,
    section: &str,
    figures: &Value,
) -> Result<(), XtaskError> {
    let details = folder.join("benchmarks");
    fs::create_dir_all(&details).map_err(XtaskError::write(&details))?;
    let path = details.join(format!("{name}.json"));
    fs::write(&path, format!("{figures:#}\n")).map_err(XtaskError::write(&path))?;
    let path = folder.join("benchmarks.md");
    let text = match path.is_file() {
        true => fs::read_to_string(&path).map_err(XtaskError::read(&path))?,
        false => OPENING.to_owned(),
    };
    let text = with_section(&text, title, section);
    fs::write(&path, text).map_err(XtaskError::write(&path))
}

/// A document with a section in place of the one of this title, or at its end.
fn with_section(document: &str, title: &str, section: &str) -> String {
    let heading = format!("## {title}");
    let mut lines = document.lines();
    let before: Vec<&str> = lines.by_ref().take_while(|line| *line != heading).collect();
    let after: Vec<&str> = lines.skip_while(|line| !line.starts_with("## ")).collect();
    let mut parts = vec![
        before.join("\n").trim_end().to_owned(),
        format!("{heading}\n\n{}", section.trim()),
    ];
    if !after.is_empty() {
        parts.push(after.join("\n").trim_end().to_owned());
    }
    format!("{}\n", parts.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::with_section;

    #[test]
    fn a_section_takes_the_place_of_the_old_one() {
        let document = "# B\n\nOpening.\n\n## One\n\nold\n\n### Part\n\nold\n\n## Two\n\nkept\n";
        assert_eq!(
            with_section(document, "One", "new\n"),
            "# B\n\nOpening.\n\n## One\n\nnew\n\n## Two\n\nkept\n"
        );
        assert_eq!(
            with_section(document, "Two", "new"),
            document.replace("kept", "new")
        );
    }

    #[test]
    fn a_new_section_comes_last() {
        assert_eq!(
            with_section("# B\n\n## Old\n\nkept\n", "New", "text"),
            "# B\n\n## Old\n\nkept\n\n## New\n\ntext\n"
        );
    }
}
