//! Edit distance within a beam around the diagonal, and the alignment that it implies.

use std::ops::Range;

/// Columns on each side of the diagonal that are looked at.
const BEAM_WIDTH: f64 = 25.0;

/// Cost of a cell outside the beam.
const UNREACHED: u64 = u64::MAX / 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Substitute,
    /// A word of the hypothesis goes.
    Delete,
    /// A word of the reference comes.
    Insert,
}

#[derive(Clone, Copy)]
struct Cell {
    cost: u64,
    edit: Edit,
}

/// The cells of one row that lie within the beam.
#[derive(Clone)]
struct Row {
    first_column: usize,
    cells: Vec<Cell>,
}

impl Row {
    fn cell(&self, column: usize) -> Cell {
        let outside = Cell {
            cost: UNREACHED,
            edit: Edit::Substitute,
        };
        column
            .checked_sub(self.first_column)
            .and_then(|index| self.cells.get(index).copied())
            .unwrap_or(outside)
    }

    fn last_cost(&self) -> u64 {
        self.cells.last().map_or(UNREACHED, |cell| cell.cost)
    }
}

/// Where the words of a hypothesis and of a reference meet.
pub(super) struct Alignment {
    /// For each word of the reference, how many words of the hypothesis lie up to where it is met.
    pub(super) reached: Vec<usize>,
    /// For each word of the reference, whether it is not kept.
    pub(super) wrong_in_reference: Vec<bool>,
    /// For each word of the hypothesis, whether it is not kept.
    pub(super) wrong_in_hypothesis: Vec<bool>,
}

/// Distances from the beginnings of a hypothesis to the beginnings of a reference:
/// `rows[i]` is about the first `i` words of the hypothesis.
pub(super) struct EditDistance<'t> {
    hypothesis: &'t [usize],
    reference: &'t [usize],
    rows: Vec<Row>,
}

impl<'t> EditDistance<'t> {
    pub(super) fn between(hypothesis: &'t [usize], reference: &'t [usize]) -> Self {
        let insertions = 0..=reference.len() as u64;
        let first = Row {
            first_column: 0,
            cells: insertions
                .map(|cost| Cell {
                    cost,
                    edit: Edit::Insert,
                })
                .collect(),
        };
        let mut distance = Self {
            hypothesis,
            reference,
            rows: vec![first],
        };
        for (index, word) in hypothesis.iter().enumerate() {
            let row = distance.next_row(&distance.rows[index], index + 1, *word);
            distance.rows.push(row);
        }
        distance
    }

    /// Edits for the whole hypothesis.
    pub(super) fn total(&self) -> u64 {
        self.rows.last().map_or(UNREACHED, Row::last_cost)
    }

    /// Edits for another order of the hypothesis' words that begins with the same `kept` words.
    pub(super) fn total_of(&self, shifted: &[usize], kept: usize) -> u64 {
        let mut row = self.rows[kept].clone();
        for (index, word) in shifted.iter().enumerate().skip(kept) {
            row = self.next_row(&row, index + 1, *word);
        }
        row.last_cost()
    }

    /// Follows the cheapest edits back from the end.
    pub(super) fn alignment(&self) -> Alignment {
        let (mut row, mut column) = (self.hypothesis.len(), self.reference.len());
        let mut alignment = Alignment {
            reached: vec![0; column],
            wrong_in_reference: vec![false; column],
            wrong_in_hypothesis: vec![false; row],
        };
        while row > 0 || column > 0 {
            let edit = if row == 0 {
                Edit::Insert
            } else if column == 0 {
                Edit::Delete
            } else {
                self.rows[row].cell(column).edit
            };
            if edit != Edit::Delete {
                column -= 1;
                alignment.reached[column] = row;
                alignment.wrong_in_reference[column] = edit != Edit::Keep;
            }
            if edit != Edit::Insert {
                row -= 1;
                alignment.wrong_in_hypothesis[row] = edit != Edit::Keep;
            }
        }
        alignment
    }

    /// Among equal costs Tercom prefers keeping or substituting, then deleting, then inserting.
    fn next_row(&self, previous: &Row, index: usize, word: usize) -> Row {
        let columns = self.beam(index);
        let first_column = columns.start;
        let mut cells: Vec<Cell> = Vec::with_capacity(columns.len());
        for column in columns {
            let mut best = Cell {
                cost: previous.cell(column).cost + 1,
                edit: Edit::Delete,
            };
            if column > 0 {
                let kept = self.reference[column - 1] == word;
                let diagonal = previous.cell(column - 1).cost + u64::from(!kept);
                if diagonal <= best.cost {
                    let edit = if kept { Edit::Keep } else { Edit::Substitute };
                    best = Cell {
                        cost: diagonal,
                        edit,
                    };
                }
            }
            if let Some(left) = cells.last()
                && left.cost + 1 < best.cost
            {
                best = Cell {
                    cost: left.cost + 1,
                    edit: Edit::Insert,
                };
            }
            cells.push(best);
        }
        Row {
            first_column,
            cells,
        }
    }

    /// The columns near the diagonal; of the last row, all up to the end.
    fn beam(&self, row: usize) -> Range<usize> {
        let end = self.reference.len() + 1;
        let slope = self.reference.len() as f64 / self.hypothesis.len() as f64;
        // Steep diagonals need a wider beam for neighbouring rows to overlap.
        let width = if BEAM_WIDTH < slope / 2.0 {
            (slope / 2.0 + BEAM_WIDTH).ceil()
        } else {
            BEAM_WIDTH
        };
        let width = width as usize;
        let diagonal = (row as f64 * slope).floor() as usize;
        let last = if row == self.hypothesis.len() {
            end
        } else {
            end.min(diagonal + width)
        };
        diagonal.saturating_sub(width)..last
    }
}
