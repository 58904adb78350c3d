//! Writing of commands.

use prost::encoding::encode_varint;

use crate::group::logic::command::{About, Command, Done, Effect, HandedLease, Piece};
use crate::group::logic::ids::Span;
use crate::group::logic::marks::Mark;
use crate::group::logic::settings::{Order, Poison};

/// Encodes a command in this version of the format.
pub(super) fn command(command: &Command, version: u8) -> Vec<u8> {
    let mut out = Writer(vec![version, kind(&command.effect)]);
    out.numbers(&[command.id.term.0, command.id.number]);
    out.effect(&command.effect);
    out.0
}

const fn kind(effect: &Effect) -> u8 {
    match effect {
        Effect::Own { owner: 0, .. } => 1,
        Effect::Own { .. } => 15,
        Effect::Renew => 2,
        Effect::State { .. } => 3,
        Effect::Removed { .. } => 4,
        Effect::Settled { how: Done::Acked, .. } => 5,
        Effect::Settled { how: Done::DeadLettered, .. } => 6,
        Effect::Settled { how: Done::Skipped, .. } => 7,
        Effect::Failed { .. } => 8,
        Effect::Returned { .. } => 9,
        Effect::Sought { .. } => 10,
        Effect::Parked { .. } => 11,
        Effect::Handover { .. } => 12,
        Effect::Reopened { .. } => 13,
        Effect::Unparked { .. } => 14,
    }
}

/// Encodes a part of a group's state in this version of the format.
pub(super) fn part(piece: &Piece, version: u8) -> Vec<u8> {
    let mut out = Writer(vec![version]);
    out.piece(piece);
    out.0
}

struct Writer(Vec<u8>);

impl Writer {
    fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Own { after, owner: 0 } => self.numbers(&[after.term.0, after.number]),
            Effect::Own { after, owner } => self.numbers(&[after.term.0, after.number, *owner]),
            Effect::Renew => {}
            Effect::State { group, part, is_last, piece } => {
                self.numbers(&[group.0, u64::from(*part), u64::from(*is_last)]);
                self.piece(piece);
            }
            Effect::Removed { group } => self.number(group.0),
            Effect::Settled { group, records, spans, .. } => {
                self.numbers(&[group.0, *records]);
                self.spans(spans);
            }
            Effect::Failed { group, marks } => {
                self.number(group.0);
                self.marks(marks);
            }
            Effect::Returned { group, void_to, spans } => {
                self.numbers(&[group.0, void_to.0]);
                self.spans(spans);
            }
            Effect::Sought { group, to, void_to } => self.numbers(&[group.0, *to, void_to.0]),
            Effect::Parked { group, key, records, spans } => {
                self.numbers(&[group.0, u64::from(key.is_some()), key.map_or(0, |key| key.0), *records]);
                self.spans(spans);
            }
            Effect::Reopened { group, void_to, redriven_to, spans } => {
                self.numbers(&[group.0, void_to.0, *redriven_to]);
                self.spans(spans);
            }
            Effect::Unparked { group, void_to } => self.numbers(&[group.0, void_to.0]),
            Effect::Handover { leases } => {
                self.number(leases.len() as u64);
                leases.iter().for_each(|lease| self.lease(lease));
            }
        }
    }

    fn lease(&mut self, lease: &HandedLease) {
        let (high, low) = ((lease.session.0 >> 64) as u64, lease.session.0 as u64);
        self.numbers(&[lease.group.0, high, low, lease.fence.0, lease.left_ms]);
        self.spans(&lease.spans);
    }

    fn piece(&mut self, piece: &Piece) {
        self.about(&piece.about);
        self.numbers(&[piece.head, piece.void_to.0]);
        self.numbers(&[piece.dead_lettered, piece.skipped, piece.parked_records, piece.redriven_to]);
        self.spans(&piece.open);
        self.spans(&piece.parked);
        self.marks(&piece.marks);
        self.number(piece.parked_keys.len() as u64);
        piece.parked_keys.iter().for_each(|key| self.number(key.0));
    }

    fn about(&mut self, about: &About) {
        let settings = &about.settings;
        self.text(about.topic.as_str());
        self.number(about.epoch.get());
        self.text(about.name.as_str());
        self.numbers(&[about.created.0, about.past_terms.0]);
        self.number(match settings.order {
            Order::None => 0,
            Order::Key => 1,
            Order::Total => 2,
        });
        self.numbers(&[settings.ack_deadline_ms, settings.lease_max_ms, settings.session_grace_ms]);
        self.numbers(&[u64::from(settings.deliveries_max), settings.backoff_ms.len() as u64]);
        self.numbers(&settings.backoff_ms);
        self.text(settings.dead_letter_topic.as_ref().map_or("", |topic| topic.as_str()));
        self.number(match settings.poison {
            Poison::DeadLetter => 0,
            Poison::ParkKey => 1,
            Poison::Hold => 2,
        });
        self.number(settings.lookahead_max);
    }

    fn marks(&mut self, marks: &[(Span, Mark)]) {
        self.spans(&marks.iter().map(|(span, _)| *span).collect::<Vec<_>>());
        for (_, mark) in marks {
            self.numbers(&[u64::from(mark.deliveries), mark.due.0, mark.delay_ms, mark.void_to.0]);
        }
    }

    /// Writes spans, each by its distance from the one before and its length.
    fn spans(&mut self, spans: &[Span]) {
        self.number(spans.len() as u64);
        let mut at = 0;
        for span in spans {
            self.numbers(&[span.start - at, span.end - span.start]);
            at = span.end;
        }
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn numbers(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|&number| self.number(number));
    }

    fn number(&mut self, number: u64) {
        encode_varint(number, &mut self.0);
    }
}
