//! What the reader should know before taking a run's figures for the service's, and when a run has failed as a whole.

use std::time::Duration;

use api::code::Code;

use super::report::Findings;
use super::tally::{Refusals, Tally};
use crate::failure::{self, Exit, Failure};

/// How long it takes to set all keys of one API key under its rate limit.
///
/// # Errors
/// When the limit is 0: then it takes forever.
pub(crate) fn fill_seconds(keys: u64, rate_limit: u64) -> Result<u64, Failure> {
    keys.checked_div(rate_limit).ok_or_else(|| Failure::Unserved {
        message: "the API key may do nothing: its rate limit is 0".to_owned(),
        hint: refusal_note(Some(Code::RateLimited), Some(rate_limit)),
        exit: Exit::Refused,
    })
}

/// What is told before the run of a key with a rate limit.
pub(crate) fn rate_limit(rate_limit: u64, fill_seconds: Option<u64>) -> String {
    let limit = format!("note: the API key's rate limit is {rate_limit} requests a second");
    match fill_seconds {
        Some(seconds @ 5..) => format!("{limit}; setting the keys first takes {seconds} s, --no-fill leaves it out"),
        Some(_) | None => limit,
    }
}

/// Adds the notes that the findings call for. `rate_limit` is that of the API key in use, when it has one.
pub(crate) fn add(findings: &mut Findings, rate_limit: Option<u64>) {
    let mut notes = Vec::new();
    let tally = &findings.tally;
    for Refusals { code, .. } in tally.refusals.values() {
        notes.extend(refusal_note(*code, rate_limit));
    }
    notes.dedup();
    if findings.unsent > 0 {
        notes.push(format!(
            "the rate was more than was answered on these connections: {} requests were due and not sent, the oldest \
             for {:.1} s, and they are in no latency",
            findings.unsent,
            findings.unsent_for.as_secs_f64()
        ));
    }
    if is_saturated(findings) {
        notes.push(
            "the client itself had no processor time left: what is shown is its bound as much as the service's; try \
             --threads, or another machine"
                .to_owned(),
        );
    }
    if let Some(reason) = &tally.connections.last_reason {
        notes.push(format!("{} connections broke, the last one: {reason}", tally.connections.broken));
    }
    findings.notes = notes;
}

/// What to do about refusals of one kind.
pub(crate) fn refusal_note(code: Option<Code>, rate_limit: Option<u64>) -> Option<String> {
    match (code?, rate_limit) {
        (Code::RateLimited, Some(limit)) => Some(format!(
            "the API key's rate limit of {limit} a second refused requests (429): an operator raises it with `insic \
             limits set --rate-per-second N UUID`"
        )),
        (Code::RateLimited, None) => Some(
            "the API keys' rate limit refused requests (429): an operator raises it with `insic limits set \
             --rate-per-second N UUID`"
                .to_owned(),
        ),
        (Code::AddressRateLimited, _) => {
            Some("the node's rate limit for one address refused requests (429): its configuration has it".to_owned())
        }
        (Code::LeaderElsewhere, _) => Some(
            "a node sends writes on to the leader (307), which costs two requests: name the leader alone with --url"
                .to_owned(),
        ),
        // What they advise, to try again, is what the run does.
        (Code::NoLeader | Code::NoQuorum | Code::Overloaded | Code::HeadTimeout | Code::BodyTimeout, _) => None,
        (code, _) => failure::code_hint(code, 1).map(|hint| format!("{code}: {hint}")),
    }
}

/// Whether the load's threads were busy nearly all the time.
fn is_saturated(findings: &Findings) -> bool {
    let threads = Duration::from_secs(1).mul_f64(findings.measured.as_secs_f64()) * findings.settings.threads;
    // A short run says nothing about it.
    findings.measured >= Duration::from_secs(1) && findings.client_cpu.as_secs_f64() > threads.as_secs_f64() * 0.95
}

/// The failure of a run in which no request was served, by what most of them met.
pub(crate) fn failure(tally: &Tally, rate_limit: Option<u64>) -> Option<Failure> {
    if !tally.all().latency.is_empty() {
        return None;
    }
    let most = tally.refusals.iter().max_by_key(|(_, refusals)| refusals.count);
    Some(match most {
        Some(((status, text), Refusals { code, count })) => Failure::Unserved {
            message: format!("no request was served: {count} were answered with {status} {text}").trim_end().to_owned(),
            hint: refusal_note(*code, rate_limit),
            exit: failure::exit_of(*status, *code),
        },
        None if tally.sent == 0 => Failure::Unserved {
            message: "no request was sent".to_owned(),
            hint: Some("give it more time: --duration".to_owned()),
            exit: Exit::Unknown,
        },
        None => Failure::Unserved {
            message: format!("none of {} requests was answered", tally.sent),
            hint: tally.connections.last_reason.clone(),
            exit: Exit::Unknown,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::bench::answer::Answer;
    use crate::bench::workload::Operation;

    fn tally(answers: &[(u16, Option<Code>)]) -> Tally {
        let mut tally = Tally::default();
        tally.sent = answers.len() as u64;
        for (status, code) in answers {
            let answer = Answer { status: *status, code: *code, retry_after_seconds: None, is_last: false, bytes: 0 };
            tally.answered(Operation::Get, answer, Duration::from_millis(1));
        }
        tally
    }

    #[test]
    fn a_run_fails_only_when_nothing_was_served() {
        let limited = (429, Some(Code::RateLimited));
        assert!(failure(&tally(&[limited, (200, None)]), None).is_none());
        assert!(failure(&tally(&[(404, Some(Code::KeyNotFound))]), None).is_none());
        let failed = failure(&tally(&[limited, limited, (503, Some(Code::NoLeader))]), Some(25)).unwrap();
        assert_eq!(failed.to_string(), "no request was served: 2 were answered with 429 rate_limited");
        assert!(
            matches!(failed, Failure::Unserved { exit: Exit::Refused, hint: Some(hint), .. } if hint.contains("25 a second"))
        );
        let strange = failure(&tally(&[(502, None)]), None).unwrap();
        assert_eq!(strange.to_string(), "no request was served: 1 were answered with 502");
        assert!(matches!(strange, Failure::Unserved { exit: Exit::Unknown, hint: None, .. }));
    }

    #[test]
    fn requests_without_an_answer_fail_with_the_reason() {
        let mut silent = Tally::default();
        silent.sent = 3;
        silent.connections.last_reason = Some("no answer within 15 s".to_owned());
        let failed = failure(&silent, None).unwrap();
        assert_eq!(failed.to_string(), "none of 3 requests was answered");
        assert!(matches!(failed, Failure::Unserved { exit: Exit::Unknown, hint: Some(_), .. }));
    }
}
