//! Tells, as events, when copies are lacking and being made, and when redundancy is back: one pair for each time, however
//! many chunks it was about.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::clock::Monotonic;

use super::affected::excuse;
use super::health::counted;
use super::master_state::{MasterState, MasterStateExt};
use crate::chunks::{Severity, Summary};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What lacks copies for less than this, as while a file is being written, is not worth an event.
const BEGINS_AFTER: Duration = Duration::from_secs(3);
/// Redundancy that holds for less than this is not back.
const ENDS_AFTER: Duration = Duration::from_secs(3);

/// What was told last.
#[derive(Debug, Default)]
struct Watch {
    /// Since when copies are lacking without a pause, and the most chunks at a time.
    lacking: Option<(Monotonic, u64)>,
    /// It was told.
    told: bool,
    /// Since when nothing lacks copies.
    whole: Option<Monotonic>,
}

impl Watch {
    /// Looks once more; gives what is to be told.
    fn look(&mut self, now: Monotonic, summary: &Summary) -> Option<(Severity, String)> {
        if summary.under_goal > 0 {
            self.whole = None;
            let (since, most) = self.lacking.get_or_insert((now, 0));
            *most = summary.under_goal.max(*most);
            if self.told || now.since(*since) < BEGINS_AFTER {
                return None;
            }
            self.told = true;
            let what = counted(summary.under_goal, "chunk");
            let lack = if summary.under_goal == 1 { "lacks" } else { "lack" };
            let doing = doing(summary);
            return Some((Severity::Warning, format!("{what} {lack} copies; {doing}")));
        }
        let (since, most) = self.lacking?;
        if now.since(*self.whole.get_or_insert(now)) < ENDS_AFTER {
            return None;
        }
        let told = std::mem::take(self).told;
        let seconds = now.since(since).as_secs().saturating_sub(ENDS_AFTER.as_secs());
        told.then(|| {
            let most = counted(most, "chunk");
            let text =
                format!("redundancy is back after {seconds} s: every chunk has all its copies ({most} lacked some)");
            (Severity::Information, text)
        })
    }
}

fn doing(summary: &Summary) -> String {
    let none = summary.unavailable;
    if none >= summary.under_goal {
        return "none of their copies is here: `rfs status` names the files".to_owned();
    }
    let doing = match &summary.repairs_wait {
        None => match summary.excused.iter().max_by_key(|one| one.left) {
            Some(one) => format!("copies are on {}", excuse(one)),
            None => "new copies are made".to_owned(),
        },
        Some(reason) => format!("repairs wait: {reason}"),
    };
    if none == 0 { doing } else { format!("{doing}; {none} of them have no copy here: `rfs status` names the files") }
}

/// Looks once a second; to be started as a worker.
pub struct RedundancyWatch {
    state: Arc<dyn MasterState>,
    watch: Watch,
}

impl RedundancyWatch {
    /// Of this master.
    pub fn new(state: Arc<dyn MasterState>) -> RedundancyWatch {
        RedundancyWatch { state, watch: Watch::default() }
    }
}

impl Worker for RedundancyWatch {
    fn name(&self) -> String {
        "redundancy".to_owned()
    }

    fn step(&mut self) -> Step {
        let (summary, now) = self.state.with_chunks(|chunks, now| (chunks.summary(), now));
        if let Some((severity, message)) = self.watch.look(now, &summary) {
            self.state.report(severity, message);
        }
        Step::Idle(LOOK_EVERY)
    }

    fn state(&self) -> String {
        if self.watch.told { "copies are lacking" } else { "nothing is lacking" }.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_of_events_for_each_loss_and_none_for_a_moment() {
        let mut watch = Watch::default();
        let mut told = Vec::new();
        let mut second = 0;
        let mut look = |under_goal: u64, seconds: u64| {
            for _ in 0..seconds {
                second += 1;
                let now = Monotonic::from_start(Duration::from_secs(second));
                let summary = Summary { under_goal, ..Summary::default() };
                told.extend(watch.look(now, &summary).map(|(_, text)| text));
            }
        };
        look(5, 2);
        look(0, 10);
        look(1, 4);
        look(7, 10);
        look(0, 1);
        look(2, 2);
        look(0, 20);
        look(0, 20);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0], "1 chunk lacks copies; new copies are made");
        assert!(
            told[1].starts_with("redundancy is back after") && told[1].ends_with("(7 chunks lacked some)"),
            "{told:?}"
        );
    }

    #[test]
    fn what_no_copy_is_left_of_is_not_said_to_be_made_anew() {
        let told = |under_goal, unavailable| {
            let mut watch = Watch::default();
            let summary = Summary { under_goal, unavailable, ..Summary::default() };
            watch.look(Monotonic::START, &summary);
            watch.look(Monotonic::from_start(Duration::from_secs(60)), &summary).expect("told").1
        };
        assert_eq!(told(9, 9), "9 chunks lack copies; none of their copies is here: `rfs status` names the files");
        assert!(told(9, 2).ends_with("new copies are made; 2 of them have no copy here: `rfs status` names the files"));
    }
}
