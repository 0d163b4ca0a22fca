//! What a tenant that asks for a hundred times its rate does to another tenant.
//!
//! The noise of a shared machine is larger than what is looked for, so three kinds of rounds take turns: the *quiet* tenant
//! alone; with the *noisy* one on the same nodes; and with the same noise on a node *beside*, which takes as much of the
//! machine and shares nothing else. The quiet tenant's load is open: it does not ask less when it is answered late.

use std::{fmt, thread, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::runtime::Builder;

use super::{
    nodes::Nodes,
    pace::{self, Tally, Target},
    wire::request,
};

/// Connections of each of the two.
const CONNECTIONS: usize = 16;
/// Keys that each of them uses.
const KEYS: usize = 1_000;
/// The limit of the noisy tenant, in requests per second.
const NOISY_RATE: u32 = 50;
/// How many times as much it asks for.
const NOISY_FACTOR: u32 = 100;

/// What the quiet tenant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Sets in the Value Store.
    Set,
    /// Gets from the Value Store.
    Get,
}

/// Who else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noise {
    None,
    SameNodes,
    NodeBeside,
}

/// What one verb came to.
#[derive(Clone, Debug)]
pub struct Neighbours {
    /// What the quiet tenant did.
    pub verb: Verb,
    /// Its p99 when it was alone, with the noise on the same nodes, and beside them; one a round.
    pub p99: [Vec<Duration>; 3],
    /// What the quiet tenant was answered in all rounds.
    pub quiet: Tally,
    /// What the noisy tenant was answered on the same nodes in all rounds.
    pub noisy: Tally,
}

/// The middle one.
fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Neighbours {
    /// The median p99 of each kind of round.
    #[must_use]
    pub fn medians(&self) -> [Duration; 3] {
        [median(&self.p99[0]), median(&self.p99[1]), median(&self.p99[2])]
    }

    /// By how much the noise on the same nodes moves the quiet tenant's p99, as a factor.
    #[must_use]
    pub fn factor(&self) -> f64 {
        let [alone, same, _] = self.medians();
        same.as_secs_f64() / alone.as_secs_f64().max(1e-6)
    }

    /// As above, but against the same noise on a node beside.
    #[must_use]
    pub fn factor_of_sharing(&self) -> f64 {
        let [_, same, beside] = self.medians();
        same.as_secs_f64() / beside.as_secs_f64().max(1e-6)
    }
}

impl fmt::Display for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [alone, same, beside] = self.medians().map(|time| time.as_secs_f64() * 1e3);
        writeln!(
            f,
            "a neighbour at {NOISY_FACTOR} times its rate of {NOISY_RATE}/s, {:?}: p99 alone {alone:.2} ms, with it {same:.2} ms \
             ({:.2} times), with it on another node of the machine {beside:.2} ms ({:.2} times that)",
            self.verb,
            self.factor(),
            self.factor_of_sharing(),
        )?;
        let each = |times: &[Duration]| {
            times.iter().map(|time| format!("{:.2}", time.as_secs_f64() * 1e3)).collect::<Vec<_>>().join(" ")
        };
        writeln!(f, "  p99 of each round: {} | {} | {}", each(&self.p99[0]), each(&self.p99[1]), each(&self.p99[2]))?;
        write!(
            f,
            "  the neighbour: {:?}, {} unsent; refusals p99 {:.2} ms. The quiet one: {:?}, {} unsent",
            self.noisy.statuses,
            self.noisy.unsent,
            self.noisy.refused.permille(990).as_secs_f64() * 1e3,
            self.quiet.statuses,
            self.quiet.unsent
        )
    }
}

/// Sets of 100 bytes, or gets, over all keys.
pub(super) fn requests(verb: Verb, key: &str) -> Vec<Vec<u8>> {
    let value = "v".repeat(100);
    let request = |number| match verb {
        Verb::Set => request("POST", "/vs", key, &format!("{{\"key\":\"key{number:06}\",\"value\":\"{value}\"}}")),
        Verb::Get => request("GET", &format!("/vs?key=key{number:06}"), key, ""),
    };
    (0..KEYS).map(request).collect()
}

/// Has the two share nodes, in so many rounds of each kind; `beside` is a node that has nothing to do with them.
pub(super) fn measure(
    verb: Verb,
    nodes: &Nodes,
    beside: &Nodes,
    rounds: usize,
    quiet_per_second: u32,
    time: Duration,
) -> anyhow::Result<Neighbours> {
    let runtime = || Builder::new_current_thread().enable_all().build().context("cannot start a runtime");
    let here = runtime()?;
    let name = format!("{verb:?}");
    let quiet = here.block_on(nodes.tenant(&format!("quiet-{name}"), 1_000_000))?;
    let noisy = here.block_on(nodes.tenant(&format!("noisy-{name}"), NOISY_RATE.into()))?;
    let noisy_beside = here.block_on(beside.tenant(&format!("noisy-{name}"), NOISY_RATE.into()))?;
    // What gets find, and connections of the past, are not measured.
    let filled = Target::new(&nodes.public(), requests(Verb::Set, &quiet));
    here.block_on(pace::closed(&filled, CONNECTIONS, Duration::from_secs(1)));
    let mut found = Neighbours { verb, p99: Default::default(), quiet: Tally::default(), noisy: Tally::default() };
    for _ in 0..rounds {
        for (place, noise) in [Noise::None, Noise::SameNodes, Noise::NodeBeside].into_iter().enumerate() {
            let noisy_target = match noise {
                Noise::None => None,
                Noise::SameNodes => Some((nodes.public(), requests(verb, &noisy))),
                Noise::NodeBeside => Some((beside.public(), requests(verb, &noisy_beside))),
            };
            let (tally, noise_tally) = thread::scope(|scope| {
                let make_noise = move || -> anyhow::Result<Tally> {
                    let Some((addresses, requests)) = noisy_target else { return Ok(Tally::default()) };
                    let target = Target::new(&addresses, requests);
                    let per_second = f64::from(NOISY_RATE * NOISY_FACTOR);
                    Ok(runtime()?.block_on(pace::open(&target, CONNECTIONS, per_second, time)))
                };
                let noise = thread::Builder::new().name("noise".to_owned()).spawn_scoped(scope, make_noise);
                let noise = noise.context("cannot start a thread")?;
                let target = Target::new(&nodes.public(), requests(verb, &quiet));
                let per_second = f64::from(quiet_per_second);
                let tally = here.block_on(pace::open(&target, CONNECTIONS, per_second, time));
                anyhow::Ok((tally, noise.join().map_err(|_| anyhow!("a thread has panicked"))??))
            })?;
            found.p99[place].push(tally.accepted.permille(990));
            found.quiet.append(tally);
            if noise == Noise::SameNodes {
                found.noisy.append(noise_tally);
            }
        }
    }
    Ok(found)
}
