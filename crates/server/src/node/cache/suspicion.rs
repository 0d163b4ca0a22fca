//! Who suspects that the running generation of the cache has lost its majority (`ARCHITECTURE.md`, the volatile group,
//! rule 6).

use std::{collections::BTreeMap, time::Duration};

use state::{
    ids::NodeId,
    registry::{RegistryState, Standing},
};

use crate::node::timing::{DOUBT_GAP_MAX, SUSPICION_AGE_MAX};

/// The reports that the leader of the `values` group has.
#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    reports: BTreeMap<NodeId, (u64, Duration)>,
}

impl Suspicions {
    /// Takes a node's report: the generation that it suspects, if it does.
    pub(crate) fn report(&mut self, node: NodeId, suspects: Option<u64>, now: Duration) {
        match suspects {
            Some(generation) => drop(self.reports.insert(node, (generation, now))),
            None => drop(self.reports.remove(&node)),
        }
    }

    /// The running generation, when the nodes that are out and those that suspect it make a majority of the node set.
    pub(crate) fn generation_to_drop(&self, registry: &RegistryState, now: Duration) -> Option<u64> {
        let generation = registry.generation;
        let suspects = |node: &NodeId| {
            let recent = self.reports.get(node).filter(|(_, at)| now.saturating_sub(*at) <= SUSPICION_AGE_MAX);
            recent.is_some_and(|(suspected, _)| *suspected == generation)
        };
        let counts = |(node, standing): &(&NodeId, &Standing)| match standing {
            Standing::Out { .. } => true,
            Standing::In { .. } => suspects(node),
            Standing::Unregistered => false,
        };
        let count = registry.nodes.iter().filter(counts).count();
        (2 * count > registry.nodes.len()).then_some(generation)
    }
}

/// One process's own suspicion.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// The generation, and since when it has had no leader with a quorum while the `values` group had one, as far as
    /// this process knows.
    since: Option<(u64, Duration)>,
    /// When it was looked at last.
    looked_at: Duration,
}

impl Doubt {
    /// Looks at the generation: `quorum_age` is how long ago its leader last had a quorum, as far as this process has
    /// heard. Answers whether it is suspected: nothing good was heard for `after`, all of it under a confirmed leader of
    /// the `values` group. Time without one does not count: a pause or an outage that silences both groups says nothing
    /// about the cache, whose members may all be there when it ends. Nor does most of the time between two looks that are
    /// far apart: this process did not run, and what has come for it meanwhile may wait to be heard still.
    pub(crate) fn look(
        &mut self,
        generation: u64,
        quorum_age: Option<Duration>,
        values_confirmed: bool,
        now: Duration,
        after: Duration,
    ) -> bool {
        let good_at = quorum_age.map(|age| now.saturating_sub(age));
        let slept = now.saturating_sub(self.looked_at).saturating_sub(DOUBT_GAP_MAX);
        self.looked_at = now;
        let since = match (self.since, good_at) {
            (Some((known, since)), Some(good_at)) if values_confirmed && known == generation => {
                (since + slept).max(good_at)
            }
            (Some((known, since)), None) if values_confirmed && known == generation => since + slept,
            // A generation that was not known before gets its whole time.
            _ => now,
        };
        self.since = Some((generation, since));
        now.saturating_sub(since) >= after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(3);

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Looks at generation `generation` every tenth of a second from `from` to `to`, where the last good news is from the
    /// moment `good_at`; answers what it says in the end.
    fn watch(doubt: &mut Doubt, generation: u64, good_at: Option<f64>, from: f64, to: f64) -> bool {
        let looks = (from * 10.0).round() as u32..=(to * 10.0).round() as u32;
        looks.fold(false, |_, look| {
            let now = s(0.1) * look;
            doubt.look(generation, good_at.map(|at| now.saturating_sub(s(at))), true, now, AFTER)
        })
    }

    #[test]
    fn a_generation_is_suspected_when_nothing_good_was_heard_for_long() {
        let mut doubt = Doubt::default();
        assert!(!watch(&mut doubt, 1, None, 0.0, 2.9));
        assert!(watch(&mut doubt, 1, None, 3.0, 3.0));
        assert!(!watch(&mut doubt, 1, Some(3.0), 3.1, 5.9));
        // A leader that is heard, but has no quorum itself, is nothing good.
        assert!(watch(&mut doubt, 1, Some(3.0), 6.0, 6.0));
        assert!(!watch(&mut doubt, 2, None, 6.1, 9.0), "a new generation gets its whole time");
        assert!(watch(&mut doubt, 2, None, 9.1, 9.1));
    }

    #[test]
    fn an_outage_of_both_groups_casts_no_doubt_on_the_cache() {
        let mut doubt = Doubt::default();
        assert!(!watch(&mut doubt, 1, Some(0.0), 0.0, 1.0));
        assert!(!doubt.look(1, Some(s(5.0)), false, s(5.0), AFTER), "everyone was cut off");
        assert!(!watch(&mut doubt, 1, Some(0.0), 5.1, 7.9), "`values` has a leader first");
        assert!(watch(&mut doubt, 1, Some(0.0), 8.0, 8.0), "the cache has had its whole time");
    }

    /// A process that was stopped finds the leader of `values` heard of again before that of the cache, or the other way
    /// round: that all of them were stopped must not look like a majority that is gone.
    #[test]
    fn a_pause_of_the_process_casts_no_doubt_on_the_cache() {
        let mut doubt = Doubt::default();
        assert!(!watch(&mut doubt, 1, Some(1.0), 0.0, 1.0));
        assert!(!doubt.look(1, Some(s(5.0)), true, s(6.0), AFTER), "it says what it said before");
        assert!(!watch(&mut doubt, 1, Some(1.0), 6.1, 8.0));
        assert!(watch(&mut doubt, 1, Some(1.0), 8.1, 9.0), "but it does not wait for ever");
    }

    #[test]
    fn a_generation_is_dropped_when_out_and_suspecting_nodes_are_a_majority() {
        let inside = Standing::In { generation: 4, incarnation: 1 };
        let nodes = [(NodeId(1), inside), (NodeId(2), inside), (NodeId(3), Standing::Out { incarnation: 2 })];
        let registry = RegistryState { generation: 4, nodes: nodes.into(), ..RegistryState::default() };
        let mut suspicions = Suspicions::default();
        assert_eq!(suspicions.generation_to_drop(&registry, s(1.0)), None);
        suspicions.report(NodeId(1), Some(3), s(1.0));
        assert_eq!(suspicions.generation_to_drop(&registry, s(1.0)), None, "another generation");
        suspicions.report(NodeId(1), Some(4), s(1.0));
        assert_eq!(suspicions.generation_to_drop(&registry, s(1.0)), Some(4));
        assert_eq!(suspicions.generation_to_drop(&registry, s(3.0)), None, "an old report");
        suspicions.report(NodeId(1), Some(4), s(3.0));
        suspicions.report(NodeId(1), None, s(3.1));
        assert_eq!(suspicions.generation_to_drop(&registry, s(3.1)), None, "it has changed its mind");
    }
}
