//! The two runs of a benchmark, seen from the thread that only looks on: it moves the bar, takes the seconds of the
//! series, and listens for Ctrl-C.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::Service;
use super::alarm::Alarm;
use super::args::Command;
use super::connection::Connection;
use super::crew::{Crew, Job, Shift};
use super::fill::{Fill, Filling, Trouble};
use super::keys::Chooser;
use super::measure::{Desk, Measured, Stock, locked};
use super::progress::{Progress, millis};
use super::report::{Findings, Page, Second, Settings};
use super::request::Template;
use super::schedule::{Schedule, Timetable};
use super::tally::Tally;
use super::workload::{Operation, Share, Workload};
use crate::failure::{self, Exit, Failure};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(250);
/// How many ticks a second of the series has.
const TICKS_PER_SECOND: u64 = 4;
/// How many requests of the fill are under way on each connection.
const FILL_PIPELINE: usize = 8;
/// How long the fill may go without any progress.
const FILL_PATIENCE: Duration = Duration::from_secs(30);

/// Sets every key once.
///
/// # Errors
/// When a request is refused in a way that does not pass, or nothing goes forward for [`FILL_PATIENCE`].
pub(super) async fn fill(command: &Command, service: &Service, is_shown: bool) -> Result<(), Failure> {
    let (stop, stopped) = watch::channel(false);
    let fill = Arc::new(Fill::new(command.keys, service.api_keys.clone(), stopped));
    let progress = Progress::new("filling", fill.total(), is_shown);
    let crew = Crew::assemble(&service.targets, command.connections as usize, command.threads as usize).await?;
    let shape = command.shape();
    let set = |target: &super::Target| Arc::new(Template::new(Operation::Set, &shape, &target.host, &target.base));
    let stock: Vec<_> = service.targets.iter().map(|target| (target.clone(), set(target))).collect();
    let done = crew.begin(|_thread| -> Shift {
        let (fill, stock) = (fill.clone(), stock.clone());
        Box::new(move |seats| {
            let jobs = seats.into_iter().map(|seat| -> Job {
                let (target, template) = stock[seat.target].clone();
                let work = Filling::new(fill.clone(), template);
                Box::pin(Connection { target, work, pipeline: FILL_PIPELINE }.run(seat.stream))
            });
            Ok(jobs.collect())
        })
    });
    let mut done = std::pin::pin!(done);
    let mut ticks = ticks(Instant::now());
    let (mut last, mut last_at) = (0, Instant::now());
    loop {
        tokio::select! {
            ended = &mut done => return ended,
            _ = ticks.tick() => {}
        }
        progress.set(fill.done(), format!("{} of {} keys", fill.done(), fill.total()));
        if fill.done() > last {
            (last, last_at) = (fill.done(), Instant::now());
        }
        let halted = if last_at.elapsed() > FILL_PATIENCE { fill.trouble() } else { fill.lasting_trouble() };
        if let Some(trouble) = halted {
            stop.send_replace(true);
            return Err(fill_failure(&fill, trouble, service.rate_limit));
        }
    }
}

fn fill_failure(fill: &Fill, trouble: Trouble, rate_limit: Option<u64>) -> Failure {
    let begun = format!("filling came to a halt at {} of {} keys", fill.done(), fill.total());
    match trouble {
        Trouble::Broken(reason) => {
            let hint = Some("is the node running? --no-fill measures without setting the keys first".to_owned());
            Failure::Unserved { message: format!("{begun}: {reason}"), hint, exit: Exit::Unknown }
        }
        Trouble::Refused(answer) => {
            let code = answer.code.map_or("", |code| code.as_str());
            Failure::Unserved {
                message: format!("{begun}: it was answered with {} {code}", answer.status).trim_end().to_owned(),
                hint: super::notes::refusal_note(answer.code, rate_limit),
                exit: failure::exit_of(answer.status, answer.code),
            }
        }
    }
}

/// Sends the requests that are measured, until the end or Ctrl-C.
///
/// # Errors
/// When a connection does not come about at the beginning.
pub(super) async fn measure(
    command: &Command,
    shares: Vec<Share>,
    service: &Service,
    is_shown: bool,
) -> Result<Findings, Failure> {
    let settings = settings(command, &shares, service);
    let crew = Crew::assemble(&service.targets, command.connections as usize, command.threads as usize).await?;
    let stocks = stocks(command, shares, service);
    let (stop, stopped) = watch::channel(false);
    // From the first request on, Ctrl-C asks for what was found.
    let interrupts = signal(SignalKind::interrupt())?;
    let start = Instant::now();
    let cpu_before = processor_time();
    let desks: Vec<_> = (0..command.threads).map(|thread| Arc::new(desk(command, thread, start, &stopped))).collect();
    let done = crew.begin(|thread| {
        let (desk, stocks) = (desks[thread].clone(), stocks.clone());
        let (pipeline, seed) = (command.pipeline as usize, command.seed);
        let targets = service.targets.clone();
        let is_open = command.rate.is_some();
        Box::new(move |seats| {
            let mut jobs: Vec<Job> = Vec::with_capacity(seats.len() + 1);
            if is_open {
                let (desk, alarm) = (desk.clone(), Alarm::new()?);
                jobs.push(Box::pin(async move { desk.schedule.pace(alarm).await }));
            }
            for seat in seats {
                // Every connection has choices of its own, and a seed repeats them all.
                let random = SmallRng::seed_from_u64(seed.wrapping_add((seat.number as u64) << 32));
                let work = Measured::new(desk.clone(), stocks[seat.target].clone(), random);
                let target = targets[seat.target].clone();
                jobs.push(Box::pin(Connection { target, work, pipeline }.run(seat.stream)));
            }
            Ok(jobs)
        })
    });
    let mut watch = Watch::new(command, &desks, start, is_shown);
    let interrupted_at = watch.until(done, interrupts, &stop).await?;
    let ended = Instant::now();
    watch.take_second(ended);
    let measured_from = desks[0].schedule.measured_from;
    // What was still under way at the end came later.
    let last_sent =
        [interrupted_at, desks[0].schedule.ends(), Some(ended)].into_iter().flatten().min().unwrap_or(ended);
    let tally = watch.sum();
    let until = match desks[0].schedule.ends().or(interrupted_at) {
        Some(_) => tally.last_answer.map_or(last_sent, |answer| answer.max(last_sent)),
        // The last request of an open loop has its share of the time too.
        None => tally.last_answer.max(desks.iter().filter_map(|desk| desk.schedule.next_due()).min()).unwrap_or(ended),
    };
    let measured = until.saturating_duration_since(measured_from);
    let cpu = processor_time().saturating_sub(cpu_before);
    let oldest = desks.iter().filter_map(|desk| desk.schedule.oldest_unsent(last_sent)).min();
    Ok(Findings {
        settings,
        series: watch.series,
        measured,
        // Warm-up and end cost as much as what lies between them.
        client_cpu: cpu.mul_f64((measured.as_secs_f64() / (ended - start).as_secs_f64().max(1e-9)).min(1.0)),
        is_interrupted: interrupted_at.is_some(),
        unsent: desks.iter().map(|desk| desk.schedule.unsent(last_sent)).sum(),
        unsent_for: oldest.map_or(Duration::ZERO, |due| last_sent.saturating_duration_since(due)),
        notes: Vec::new(),
        tally,
    })
}

fn settings(command: &Command, shares: &[Share], service: &Service) -> Settings {
    let iterates = shares.iter().any(|share| share.operation == Operation::Iterate);
    Settings {
        store: command.store,
        operations: shares.to_vec(),
        keys: command.keys,
        fill: command.is_filled(shares),
        value_bytes: command.value_size,
        distribution: command.distribution.to_string(),
        page: iterates.then_some(Page { limit: command.limit, offset: command.offset }),
        consistency: command.consistency,
        api_keys: service.api_keys.len(),
        nodes: service.targets.iter().map(|target| target.node.clone()).collect(),
        connections: command.connections,
        pipeline: command.pipeline,
        threads: command.threads,
        rate: command.rate,
        warmup_seconds: command.warmup.as_secs_f64(),
        duration_seconds: command.requests.is_none().then(|| command.duration().as_secs_f64()),
        requests: command.requests,
        seed: command.seed,
    }
}

/// What the connections to each of the targets ask with.
fn stocks(command: &Command, shares: Vec<Share>, service: &Service) -> Vec<Arc<Stock>> {
    let keys = Chooser::new(command.keys, command.distribution);
    let workload = Arc::new(Workload { shares, keys, tenants: service.api_keys.len() });
    let shape = command.shape();
    let stock = |target: &Arc<super::Target>| {
        Arc::new(Stock {
            workload: workload.clone(),
            api_keys: service.api_keys.clone(),
            templates: Operation::ALL.map(|operation| Template::new(operation, &shape, &target.host, &target.base)),
        })
    };
    service.targets.iter().map(stock).collect()
}

fn desk(command: &Command, thread: u32, start: Instant, stopped: &watch::Receiver<bool>) -> Desk {
    let (thread, threads) = (u64::from(thread), u64::from(command.threads));
    let timetable = command.rate.map(|per_second| Timetable { start, per_second, threads, thread });
    let schedule = Schedule::new(start, command.warmup, command.end(thread, threads), timetable, stopped.clone());
    Desk::new(schedule)
}

/// The processor time of this process so far, all threads together.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

fn ticks(first: Instant) -> Interval {
    let mut ticks = interval_at(first.into(), TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Looks at a run from outside.
struct Watch<'a> {
    desks: &'a [Arc<Desk>],
    measured_from: Instant,
    requests: Option<u64>,
    progress: Progress,
    series: Vec<Second>,
    message: String,
}

impl<'a> Watch<'a> {
    fn new(command: &Command, desks: &'a [Arc<Desk>], start: Instant, is_shown: bool) -> Self {
        let measured_from = desks[0].schedule.measured_from;
        let length = match desks[0].schedule.ends() {
            Some(ends) => millis(ends - start),
            None => command.requests.unwrap_or(0),
        };
        let progress = Progress::new("measuring", length, is_shown);
        Self { desks, measured_from, requests: command.requests, progress, series: Vec::new(), message: String::new() }
    }

    /// Waits for the end; answers when Ctrl-C was pressed, if it was. Pressed again, it does not wait for what is under
    /// way.
    async fn until(
        &mut self,
        done: impl Future<Output = Result<(), Failure>>,
        mut interrupts: Signal,
        stop: &watch::Sender<bool>,
    ) -> Result<Option<Instant>, Failure> {
        let mut done = std::pin::pin!(done);
        let mut ticks = ticks(self.measured_from);
        let mut ticked: u64 = 0;
        let mut interrupted_at = None;
        loop {
            tokio::select! {
                ended = &mut done => return ended.map(|()| interrupted_at),
                _ = interrupts.recv() => {
                    if interrupted_at.is_some() {
                        return Ok(interrupted_at);
                    }
                    interrupted_at = Some(Instant::now());
                    stop.send_replace(true);
                }
                _ = ticks.tick() => {
                    if ticked > 0 && ticked.is_multiple_of(TICKS_PER_SECOND) {
                        self.take_second(Instant::now());
                    }
                    ticked += 1;
                    self.show();
                }
            }
        }
    }

    /// Ends a row of the series.
    fn take_second(&mut self, now: Instant) {
        let mut sum = Tally::default();
        for desk in self.desks {
            sum.add_interval(&locked(&desk.tally).take_interval());
        }
        let second = Second::new(now.saturating_duration_since(self.measured_from), &sum.take_interval());
        self.message = second.to_string();
        if !second.is_empty() || self.series.is_empty() {
            self.series.push(second);
        }
    }

    fn show(&self) {
        let position = match self.requests {
            Some(_) => self.desks.iter().map(|desk| locked(&desk.tally).sent).sum(),
            None => millis(self.measured_from.elapsed()),
        };
        self.progress.set(position, self.message.clone());
    }

    /// All threads together.
    fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for desk in self.desks {
            sum.add(&locked(&desk.tally));
        }
        sum
    }
}
