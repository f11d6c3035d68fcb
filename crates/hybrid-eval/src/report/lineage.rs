//! Candidates as a tree: the winner's line of descent is the trunk, everything else a branch.

use super::Report;

/// One candidate in the tree.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Descent {
    /// Position among the candidates, counted from 0.
    pub(super) index: usize,
    /// 0 on the trunk, one more for each step away from it.
    pub(super) depth: usize,
    /// Whether the winner descends from it.
    pub(super) trunk: bool,
    /// Whether the trunk goes on below it.
    pub(super) continues: bool,
}

/// All candidates in order of their making.
pub(super) fn descents(report: &Report) -> Vec<Descent> {
    let mut trunk: Vec<&str> = Vec::new();
    let mut next = Some(report.final_result.candidate.as_str());
    // A candidate comes after its parent, so the line ends; a damaged one must not go in circles.
    while let Some(id) = next.filter(|id| !trunk.contains(id)) {
        trunk.push(id);
        next = report
            .candidate(id)
            .and_then(|candidate| candidate.parent.as_deref());
    }
    let mut descents: Vec<Descent> = Vec::new();
    for (index, candidate) in report.candidates.iter().enumerate() {
        let on_trunk = trunk.contains(&candidate.id.as_str());
        let parent = report.candidates[..index]
            .iter()
            .position(|other| Some(&other.id) == candidate.parent.as_ref());
        let depth = match (on_trunk, parent) {
            (true, _) => 0,
            (false, Some(parent)) => descents[parent].depth + 1,
            (false, None) => 1,
        };
        descents.push(Descent {
            index,
            depth,
            trunk: on_trunk,
            continues: false,
        });
    }
    let end = descents
        .iter()
        .rposition(|descent| descent.trunk)
        .unwrap_or(0);
    descents[..end]
        .iter_mut()
        .for_each(|descent| descent.continues = true);
    descents
}

#[cfg(test)]
mod tests {
    use super::descents;
    use crate::report::sample::sample;

    #[test]
    fn the_winner_descends_along_the_trunk() {
        let report = sample();
        let tree = descents(&report);
        assert_eq!(tree.len(), report.candidates.len());
        for descent in &tree {
            let candidate = &report.candidates[descent.index];
            assert_eq!(descent.depth == 0, candidate.adopted, "{}", candidate.id);
        }
        let continues: Vec<bool> = tree.iter().map(|descent| descent.continues).collect();
        assert_eq!(continues, [true, true, false, false]);
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let mut report = sample();
        report.candidates[0].parent = Some(report.final_result.candidate.clone());
        assert!(descents(&report)[0].trunk);
    }
}
