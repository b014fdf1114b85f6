//! From guest faults to verdicts: which row is guilty, and what class of fault it is.
//!
//! A fault of a batch is bisected until the guilty row is alone; it gets one more try on a fresh instance.
//! A missed deadline is only a suspicion: the rows run again one by one under fuel, whose verdict does not depend on
//! how busy the machine is.

use std::ops::ControlFlow;

use crate::codes::Code;
use crate::guest::{Fault, Metering};
use crate::totals::Faults;

/// The step did not happen; the state in memory is no longer valid and must be recovered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Environment fault: pause, recover, try the same events again.
    #[error("stage `{stage}` cannot work now: {reason}")]
    Retry { stage: String, reason: String },
    /// Integrity fault: stop this partition and keep the evidence.
    #[error("stage `{stage}` refuses to go on: {reason}")]
    Halt { stage: String, reason: String },
}

/// Why one row is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// A call of the module over some rows.
pub(crate) type Call<'a, R> = dyn FnMut(Metering, &[u32]) -> Result<R, Fault> + 'a;
/// Takes what became of some rows; breaks off when no more replies can be held.
pub(crate) type Done<'a, R> = dyn FnMut(&[u32], Result<R, Verdict>) -> ControlFlow<()> + 'a;

/// How a judgement ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) faults: Faults,
    /// Rows that were handed on, from the first one; fewer than all when `done` broke off. At least one where there is one.
    pub(crate) taken: usize,
}

/// Runs `call` over `rows`, in order, and hands every row to `done` exactly once: with the reply of the call that took
/// it, or with a verdict when it is alone and guilty.
pub(crate) fn judge<R>(
    stage: &str,
    rows: &[u32],
    call: &mut Call<'_, R>,
    done: &mut Done<'_, R>,
) -> Result<Judgement, StepError> {
    let mut court = Court { stage, call, done, judgement: Judgement::default() };
    // Where it was broken off is known by what was taken.
    let _ = court.together(rows)?;
    Ok(court.judgement)
}

/// A judgement under way.
struct Court<'c, 'a, R> {
    stage: &'c str,
    call: &'c mut Call<'a, R>,
    done: &'c mut Done<'a, R>,
    judgement: Judgement,
}

impl<R> Court<'_, '_, R> {
    fn together(&mut self, rows: &[u32]) -> Result<ControlFlow<()>, StepError> {
        if rows.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        match (self.call)(Metering::Deadline, rows) {
            Ok(reply) => Ok(self.hand_on(rows, Ok(reply))),
            Err(Fault::Timeout) => {
                self.judgement.faults.count("timeout");
                for row in rows.chunks(1) {
                    if self.alone(row)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            Err(fault) => {
                self.judgement.faults.count(verdict(self.stage, fault)?.code.name());
                if rows.len() == 1 {
                    return self.alone(rows);
                }
                let (left, right) = rows.split_at(rows.len() / 2);
                match self.together(left)? {
                    ControlFlow::Continue(()) => self.together(right),
                    broken => Ok(broken),
                }
            }
        }
    }

    /// The last try of a single row, always under fuel: the same event gets the same verdict on any machine.
    fn alone(&mut self, row: &[u32]) -> Result<ControlFlow<()>, StepError> {
        match (self.call)(Metering::Fuel, row) {
            Ok(reply) => Ok(self.hand_on(row, Ok(reply))),
            Err(fault) => {
                let verdict = verdict(self.stage, fault)?;
                self.judgement.faults.count(verdict.code.name());
                Ok(self.hand_on(row, Err(verdict)))
            }
        }
    }

    fn hand_on(&mut self, rows: &[u32], result: Result<R, Verdict>) -> ControlFlow<()> {
        self.judgement.taken += rows.len();
        (self.done)(rows, result)
    }
}

/// What a fault means for a row that is alone; an error when it is not the row's fault.
fn verdict(stage: &str, fault: Fault) -> Result<Verdict, StepError> {
    let stage = stage.to_string();
    let (code, message) = match fault {
        Fault::Trap(message) => (Code::Trap, message),
        Fault::Fuel => (Code::LimitFuel, "the event used more than `fuel_per_event`".into()),
        Fault::Limit(message) => (Code::Limit, message),
        Fault::Contract(message) => (Code::ContractViolation, message),
        // Fuel does not judge everything that takes time (compiling, a slow host): not the event's fault.
        Fault::Timeout => return Err(StepError::Retry { stage, reason: "a metered call missed its deadline".into() }),
        Fault::Retry(reason) | Fault::Host(reason) => return Err(StepError::Retry { stage, reason }),
        Fault::Halt(reason) => return Err(StepError::Halt { stage, reason }),
    };
    Ok(Verdict { code, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs rows 0..n with a guest that faults whenever `guilty` is in the batch.
    fn check(n: u32, guilty: u32, fault: &Fault, expected: &str) {
        let rows: Vec<u32> = (0..n).collect();
        let mut seen = Vec::new();
        let mut dead = Vec::new();
        let result = judge(
            "s",
            &rows,
            &mut |metering, rows| {
                if rows.contains(&guilty) && (metering == Metering::Deadline || rows.len() == 1) {
                    let fuel = metering == Metering::Fuel && *fault == Fault::Timeout;
                    let fault = if fuel { Fault::Fuel } else { fault.clone() };
                    return Err(fault);
                }
                Ok(rows.len())
            },
            &mut |rows, reply| {
                seen.extend_from_slice(rows);
                if let Err(verdict) = reply {
                    dead.push(format!("{} {}", rows[0], verdict.code));
                }
                ControlFlow::Continue(())
            },
        );
        match result {
            Ok(_) => {
                assert_eq!(seen, rows);
                assert_eq!(dead.join(","), expected);
            }
            Err(error) => assert_eq!(error.to_string(), expected),
        }
    }

    #[test]
    fn only_the_guilty_row_dies_and_every_row_is_handed_on_once_in_order() {
        check(256, 77, &Fault::Trap("boom".into()), "77 trap");
        check(1, 0, &Fault::Trap("boom".into()), "0 trap");
        check(5, 4, &Fault::Contract("bad".into()), "4 contract-violation");
        check(9, 3, &Fault::Timeout, "3 limit-fuel");
        check(9, 9, &Fault::Timeout, "");
        check(9, 3, &Fault::Retry("busy".into()), "stage `s` cannot work now: busy");
        check(9, 3, &Fault::Halt("sum".into()), "stage `s` refuses to go on: sum");
    }

    #[test]
    fn faults_are_counted_by_kind() {
        let all =
            [Fault::Trap(String::new()), Fault::Fuel, Fault::Limit(String::new()), Fault::Contract(String::new())];
        let mut faults = Faults::default();
        faults.count("timeout");
        all.into_iter().for_each(|fault| faults.count(verdict("s", fault).expect("a data fault").code.name()));
        assert_eq!(faults.counts(), [1; Faults::KINDS.len()]);
    }

    #[test]
    fn rows_behind_what_can_be_held_are_not_judged() {
        // Row 5 traps, so that the call over all is bisected; each reply weighs its rows.
        for (held_max, expected) in [(100, 8), (4, 4), (3, 4), (5, 5), (0, 4)] {
            let (mut held, mut calls) = (0, 0);
            let judgement = judge(
                "s",
                &(0..8).collect::<Vec<_>>(),
                &mut |_, rows| {
                    calls += 1;
                    if rows.contains(&5) { Err(Fault::Trap("boom".into())) } else { Ok(rows.len()) }
                },
                &mut |_, reply| {
                    held += reply.unwrap_or(0);
                    if held < held_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                },
            );
            assert_eq!(judgement.expect("no fault of the host").taken, expected, "{held_max}: {calls} calls");
        }
    }
}
