//! Whether a timed history of one object could have come from calls that each took effect at one moment between their
//! beginning and their end: the search of Wing and Gong, with the memory of Lowe's that makes it fast enough.
//!
//! The calls that have begun and not been placed yet are tried in turn as the next to take effect. Where the end of a call that
//! has no place is reached, the last choice was wrong. What was tried is remembered as the set of placed calls and
//! the state after them: the same set with the same state need not be tried twice.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What an object is: how calls change it, and what they answer.
pub trait Model {
    /// All that later calls can tell.
    type State: Clone + Eq + Hash + Debug;
    /// A call with its arguments.
    type Input: Clone + Debug;
    /// What it answered.
    type Output: Clone + Debug;

    /// Before the first call.
    fn initial() -> Self::State;

    /// The state after a call that was answered so; nothing if it could not have been. The answer is not known of calls that
    /// failed, or never ended: they may have taken effect.
    fn step(state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call<I, O> {
    /// Who made it.
    pub by: usize,
    /// When it began, in a sequence that all calls share.
    pub began: u64,
    /// When it ended, and what it answered.
    pub ended: Option<(u64, O)>,
    /// What was asked.
    pub input: I,
}

/// A history that no order explains.
#[derive(Clone, Debug)]
pub struct Refuted {
    /// The calls of the longest part that can be explained, in an order that does.
    pub explained: Vec<usize>,
    /// The call whose end comes next, and which has no place.
    pub stuck: usize,
}

/// One end of a call, in a list from which both ends of placed calls are taken.
#[derive(Clone, Copy, Debug)]
struct Event {
    call: usize,
    /// The other end, of a beginning.
    end: Option<usize>,
    before: usize,
    after: usize,
}

const HEAD: usize = 0;

struct Events(Vec<Event>);

impl Events {
    fn new<I, O>(calls: &[Call<I, O>]) -> Events {
        let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
        for (number, call) in calls.iter().enumerate() {
            moments.push((call.began, false, number));
            moments.push((call.ended.as_ref().map_or(u64::MAX, |(at, _)| *at), true, number));
        }
        moments.sort_unstable();
        let count = moments.len();
        let mut events = vec![Event { call: usize::MAX, end: None, before: count, after: 1 }];
        let mut began = vec![0; calls.len()];
        for (index, (_, ends, call)) in moments.into_iter().enumerate() {
            let at = index + 1;
            events.push(Event { call, end: None, before: index, after: if at == count { HEAD } else { at + 1 } });
            if ends {
                events[began[call]].end = Some(at);
            } else {
                began[call] = at;
            }
        }
        if count == 0 {
            events[HEAD].after = HEAD;
        }
        Events(events)
    }

    fn take_out(&mut self, at: usize) {
        let Event { before, after, .. } = self.0[at];
        (self.0[before].after, self.0[after].before) = (after, before);
    }

    fn put_back(&mut self, at: usize) {
        let Event { before, after, .. } = self.0[at];
        (self.0[before].after, self.0[after].before) = (at, at);
    }

    /// Both ends, the later one first, so that they can be put back the other way round.
    fn take_call_out(&mut self, at: usize) {
        if let Some(end) = self.0[at].end {
            self.take_out(end);
        }
        self.take_out(at);
    }

    fn put_call_back(&mut self, at: usize) {
        self.put_back(at);
        if let Some(end) = self.0[at].end {
            self.put_back(end);
        }
    }
}

/// The calls that have a place.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Box<[u64]>);

impl Placed {
    fn flip(&mut self, call: usize) {
        self.0[call / 64] ^= 1 << (call % 64);
    }
}

/// Checks one object's history.
///
/// # Errors
/// If no order of its calls explains it.
pub fn check<M: Model>(calls: &[Call<M::Input, M::Output>]) -> Result<(), Refuted> {
    let mut events = Events::new(calls);
    let mut placed = Placed(vec![0; calls.len().div_ceil(64)].into());
    let mut tried: HashSet<(Placed, M::State)> = HashSet::new();
    let mut state = M::initial();
    let mut order: Vec<(usize, M::State)> = Vec::new();
    let mut furthest = Refuted { explained: Vec::new(), stuck: 0 };
    let mut at = events.0[HEAD].after;
    while events.0[HEAD].after != HEAD {
        let event = events.0[at];
        if event.end.is_some() {
            let call = &calls[event.call];
            let next = M::step(&state, &call.input, call.ended.as_ref().map(|(_, output)| output));
            placed.flip(event.call);
            match next.filter(|next| tried.insert((placed.clone(), next.clone()))) {
                Some(next) => {
                    order.push((at, std::mem::replace(&mut state, next)));
                    events.take_call_out(at);
                    at = events.0[HEAD].after;
                }
                None => {
                    placed.flip(event.call);
                    at = event.after;
                }
            }
            continue;
        }
        if order.len() >= furthest.explained.len() {
            let explained = order.iter().map(|(at, _)| events.0[*at].call).collect();
            furthest = Refuted { explained, stuck: event.call };
        }
        let Some((last, before)) = order.pop() else { return Err(furthest) };
        state = before;
        placed.flip(events.0[last].call);
        events.put_call_back(last);
        at = events.0[last].after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// A number: `Some` writes it, `None` reads it.
    struct Register;

    impl Model for Register {
        type State = u64;
        type Input = Option<u64>;
        type Output = u64;

        fn initial() -> u64 {
            0
        }

        fn step(state: &u64, input: &Option<u64>, output: Option<&u64>) -> Option<u64> {
            match input {
                Some(number) => Some(*number),
                None => output.is_none_or(|read| read == state).then_some(*state),
            }
        }
    }

    fn call(began: u64, ended: u64, input: Option<u64>, output: u64) -> Call<Option<u64>, u64> {
        Call { by: 0, began, ended: Some((ended, output)), input }
    }

    #[test]
    fn calls_at_the_same_time_may_take_effect_in_any_order_and_others_may_not() {
        let write = call(1, 10, Some(5), 0);
        assert!(check::<Register>(&[]).is_ok());
        assert!(check::<Register>(&[write.clone(), call(2, 3, None, 5), call(4, 5, None, 5)]).is_ok());
        assert!(check::<Register>(&[write.clone(), call(2, 3, None, 0), call(4, 5, None, 5)]).is_ok());
        let back = [write.clone(), call(2, 3, None, 5), call(4, 5, None, 0)];
        assert!(check::<Register>(&back).is_err(), "back to the old value");
        let stale = [write.clone(), call(11, 12, None, 0)];
        let refuted = check::<Register>(&stale).expect_err("stale");
        assert_eq!((refuted.explained, refuted.stuck), (vec![0], 1));
        assert!(check::<Register>(&[write, call(11, 12, None, 7)]).is_err(), "what nobody wrote");
    }

    #[test]
    fn what_failed_may_have_taken_effect_at_any_time_later_or_never() {
        let failed = Call { by: 0, began: 1, ended: None, input: Some(5) };
        assert!(check::<Register>(&[failed.clone(), call(2, 3, None, 0), call(4, 5, None, 5)]).is_ok());
        assert!(check::<Register>(&[failed.clone(), call(2, 3, None, 0)]).is_ok());
        assert!(check::<Register>(&[failed, call(2, 3, None, 5), call(4, 5, None, 0)]).is_err());
    }

    /// Histories made by placing each call at one moment are accepted; with one stale read they are not.
    #[test]
    fn random_histories_are_judged_rightly() {
        for seed in 0..30 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut calls, mut value, mut last_read) = (Vec::new(), 0, None);
            for number in 1..400u64 {
                let moment = number * 100;
                let began = moment - random.random_range(1..300).min(moment);
                let ended = moment + random.random_range(1..300);
                if random.random_bool(0.4) {
                    value = number;
                    calls.push(call(began, ended, Some(number), 0));
                } else {
                    last_read = Some(calls.len());
                    calls.push(call(began, ended, None, value));
                }
            }
            assert!(check::<Register>(&calls).is_ok(), "seed {seed}");
            let read = last_read.expect("a read");
            calls[read].ended = calls[read].ended.map(|(at, _)| (at, 1));
            calls.push(call(0, 1, Some(1), 0));
            assert!(check::<Register>(&calls).is_err(), "seed {seed}");
        }
    }
}
