//! Groups of labels, each scored as if the truth held its labels only.

use super::Plan;
use super::cuts::CutSums;
use super::options::Grouping;
use super::sums::{Hit, Row, Sums};
use crate::error::{Error, Result};
use crate::memory::with_room;

/// Sums of one group.
#[derive(Debug, Clone)]
pub(super) struct GroupSums {
    pub(super) sums: Sums,
    pub(super) cuts: CutSums,
    /// Rows with a positive in the group.
    pub(super) n_rows: usize,
    pub(super) n_positives: usize,
}

impl GroupSums {
    /// One for each group of each grouping, in order.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn all(plan: &Plan) -> Result<Vec<Self>> {
        let n_groups = plan.options.groupings.iter().map(|grouping| grouping.n_groups);
        let n_groups = n_groups.fold(0, usize::saturating_add);
        let mut groups = with_room(n_groups)?;
        let (sums, cuts) = (Sums::new(&plan.layout), CutSums::new(&plan.cuts)?);
        let fresh = Self { sums, cuts, n_rows: 0, n_positives: 0 };
        groups.resize(n_groups, fresh);
        Ok(groups)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.sums.add(&other.sums);
        self.cuts.add(&other.cuts);
        self.n_rows += other.n_rows;
        self.n_positives += other.n_positives;
    }
}

/// Every label is in a group that exists, or in none.
pub(super) fn check(groupings: &[Grouping], n_labels: usize) -> Result<()> {
    for Grouping { name, n_groups, of_label } in groupings {
        if of_label.len() != n_labels {
            let (name, what) = (format!("label_groups '{name}'"), "labels");
            let (expected, found) = (n_labels, of_label.len());
            return Err(Error::Length { name, what, expected, found });
        }
        let fits = |group: i32| group == -1 || usize::try_from(group).is_ok_and(|g| g < *n_groups);
        if let Some(label) = of_label.iter().position(|&group| !fits(group)) {
            let (grouping, group, n_groups) = (name.clone(), of_label[label], *n_groups);
            return Err(Error::BadGroup { grouping, label, group, n_groups });
        }
    }
    Ok(())
}

/// Memory for splitting one row after another.
#[derive(Default)]
pub(super) struct Splitter {
    /// Group and weight class of the positives; sorted, the heaviest of a group comes first.
    members: Vec<(i32, u32)>,
    /// Hits by group, then rank.
    hits: Vec<(i32, Hit)>,
    of_group: Vec<Hit>,
    ideal: Vec<i64>,
}

impl Splitter {
    /// Adds a row to the groups of its positives. `classes` are their weight classes, or empty.
    pub(super) fn add_row(
        &mut self,
        plan: &Plan,
        positives: &[i32],
        classes: &[u32],
        hits: &[Hit],
        groups: &mut [GroupSums],
    ) {
        let mut groups = groups;
        for grouping in &plan.options.groupings {
            let group = |label: i32| grouping.of_label[label as usize];
            self.members.clear();
            let weighed = positives.iter().enumerate();
            let weighed = weighed.map(|(i, &l)| (group(l), classes.get(i).copied().unwrap_or(0)));
            self.members.extend(weighed.filter(|&(group, _)| group >= 0));
            self.members.sort_unstable();
            self.hits.clear();
            let grouped = hits.iter().map(|&hit| (group(positives[hit.index as usize]), hit));
            self.hits.extend(grouped.filter(|&(group, _)| group >= 0));
            self.hits.sort_unstable_by_key(|&(group, hit)| (group, hit.rank));

            let mut hits = &self.hits[..];
            for members in self.members.chunk_by(|a, b| a.0 == b.0) {
                let group = members[0].0;
                let (own, later) = hits.split_at(hits.partition_point(|hit| hit.0 <= group));
                hits = later;
                self.of_group.clear();
                self.of_group.extend(own.iter().map(|&(_, hit)| hit));
                self.ideal.clear();
                if let Some(weights) = plan.weights.as_ref() {
                    let heaviest = members.iter().take(plan.max_k);
                    self.ideal.extend(heaviest.map(|&(_, class)| weights.of(class)));
                }
                let row =
                    Row { n_positives: members.len(), hits: &self.of_group, ideal: &self.ideal };
                let sums = &mut groups[group as usize];
                sums.sums.add_row(plan, &row);
                sums.n_rows += 1;
                sums.n_positives += members.len();
            }
            groups = &mut groups[grouping.n_groups..];
        }
    }
}
