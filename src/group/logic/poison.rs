//! Records that are delivered no more.

use super::command::{Done, Effect};
use super::event::{Copied, Output};
use super::ids::GroupId;
use super::lanes::Item;
use super::lease::Timer;
use super::marks::Mark;
use super::owner::{Owner, Then};
use super::settings::Poison;

/// Time until a copy that the dead letter topic refused is published again, in milliseconds.
const RETRY_MS: u64 = 10_000;

impl Owner {
    /// Gives a record up, as the group's settings say. Its lane, if it has one, is idle and waits for the result.
    pub(super) fn discard(&mut self, group: GroupId, item: Item) {
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        if state.about.settings.poison == Poison::DeadLetter {
            let deliveries = state.marks.get(item.offset).map_or(0, Mark::failures);
            working.dying.insert(item.offset, item);
            self.say(Output::DeadLetter { group, offset: item.offset, deliveries });
            return;
        }
        let (key, items) = match item.lane {
            None => (None, vec![item]),
            Some(lane) => {
                let key = working.lanes.lane(lane).key;
                working.parking.insert(key);
                (Some(key), working.lanes.remove(lane))
            }
        };
        working.settle_spans(&items);
        self.park(group, key, &items);
    }

    /// Takes the result of publishing a copy.
    pub(super) fn dead_lettered(&mut self, group: GroupId, offset: u64, copied: Copied) {
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        let Some(item) = working.dying.remove(&offset) else {
            return;
        };
        let done = match copied {
            Copied::Stored => Some(Done::DeadLettered),
            Copied::Gone => Some(Done::Skipped),
            Copied::Refused => None,
        };
        if let Some(how) = done {
            working.settle_spans(&[item]);
            if let Some(lane) = item.lane {
                working.unlist(lane);
                working.lanes.lane_mut(lane).pending -= 1;
                working.lanes.begin_settling(lane);
            }
            let effect = Effect::Settled { group, how, records: 1, spans: vec![item.span()] };
            self.append(effect, Then::Settled(vec![item]), Vec::new());
            return;
        }
        let at = self.now.millis + RETRY_MS;
        match item.lane {
            None => {
                working.add_free(item, at, state, self.now);
                self.set_timer(at, Timer::Free(group, offset));
            }
            Some(lane) => {
                working.unlist(lane);
                let waiting = working.lanes.lane_mut(lane);
                waiting.pending -= 1;
                waiting.not_before = at;
                working.consider_lane(lane, state, self.now);
            }
        }
        self.dispatch(group);
    }
}
